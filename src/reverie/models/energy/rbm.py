"""The restricted Boltzmann machine of images (Smolensky 1986; Hinton, Neural Computation 2002)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space
from reverie.core.noise import Noise
from reverie.core.verbs import Frame
from reverie.models.energy.contrastive import Ascent, Learner, Negative, Sparsity
from reverie.models.energy.machine import Kind, Machine, drawn, log_mean
from reverie.nets import shapes
from reverie.optim.phase import Stage
from reverie.probability.conditioning import check_label, label_classes

_ANNEALED = (256, 2000)  # chains and steps of the estimate of the partition function


class RBM(nn.Module):
    """A restricted Boltzmann machine of images.

    Args:
        machine: energies and conditionals.
        output: its images.
    """

    def __init__(self, machine: Machine, output: Output, negative: Negative, sparsity: Sparsity):
        super().__init__()
        self.learner, self.output = Learner(machine, negative, sparsity), output

    @property
    def machine(self) -> Machine:
        return self.learner.machine

    @property
    def card(self) -> Card:
        of: Any = "binary" if self.machine.kind == "binary" else "density"
        exact = Likelihood("log_prob", "exact", of)
        return Card(
            output=self.output,
            conditions={"label": self.machine.classes} if self.machine.classes else {},
            latents={"h": Space((self.machine.units[1],), "model", "mean", kind="binary")},
            likelihoods=(exact if self.machine.enumerable else Likelihood("estimate", "estimate", of, suffix="ais"),),
        )

    # Training

    def stages(
        self, lr: Weight = 0.05, momentum: Annotated[float, Range(0, 0.999)] = 0.5, weight_decay: Weight = 1e-5
    ) -> list[Stage]:
        """Gradient ascent of the likelihood.

        Args:
            lr: step on the mean over rows of the gradient.
            momentum: of the gradient.
            weight_decay: of the weights, not of the biases.
        """
        return [self.learner.stage(self.rows, Ascent(lr, momentum, weight_decay))]

    def rows(self, batch: Batch) -> Tensor:
        """The visible units of images (B, V): brightness is the probability of a binary unit; with their labels."""
        x = batch["x"].flatten(1)
        pixels = drawn((x + 1) / 2, batch.rng) if self.machine.kind == "binary" else x
        return torch.cat([pixels, self._label(batch.get("label"), len(x))], 1) if self.machine.classes else pixels

    def _label(self, label: Tensor | None, rows: int) -> Tensor:
        """(B, classes): 1 at each label; all 1 / classes where there is none."""
        classes = self.machine.classes
        if label is None:
            return torch.full((rows, classes), 1 / classes, device=self.machine.weight.device)
        one = nn.functional.one_hot(label.clamp(min=0), classes).float()
        return torch.where(label[:, None] < 0, 1 / classes, one)

    # Verbs

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to p(h = 1 | image), (B, hidden)."""
        return self.machine.hidden(self._visible(image, condition.get("label")))

    def features(self, image: Tensor) -> Tensor:
        """p(h = 1 | image), (B, hidden)."""
        return self.encode(image)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Hidden units (B, hidden) to the expected image (B, C, H, W)."""
        return self._image(self.machine.visible(latent))

    def _visible(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Expected visible units (B, V) of images."""
        x = image.flatten(1)
        pixels = (x + 1) / 2 if self.machine.kind == "binary" else x
        return torch.cat([pixels, self._label(label, len(x))], 1) if self.machine.classes else pixels

    def _image(self, visible: Tensor) -> Tensor:
        pixels = visible[:, : visible.shape[1] - self.machine.classes].float()
        if self.machine.kind == "binary":
            pixels = 2 * pixels - 1
        return pixels.clamp(-1, 1).unflatten(1, (self.output.channels, *self.output.shape))

    def stream(self, noise: Noise, label: Tensor | None = None, sweeps: Count = 200) -> Iterator[Frame]:
        """A Gibbs chain: frames show the probabilities of the visible units after each sweep.

        It starts at a persistent chain of the training, chosen by ``noise``, or at independent pixels without one.

        Args:
            label: (B,) clamps the units of the label; -1 leaves them free.
            sweeps: of Gibbs sampling. In float64, so that no rounding of a batch flips a draw.
        """
        machine = self.machine
        check_label(label, machine.classes)
        start = self.learner.draw(noise)
        v = start.double()
        for sweep in range(1, sweeps + 1):
            v = self._clamped(v, label)
            h = machine.draw_hidden(v, noise)
            means = machine.visible(h)
            v = machine.draw_visible(h, noise)
            yield Frame(sweep / sweeps, {"h": h.float()}, lambda means=means: {"image": self._image(means)})

    def _clamped(self, v: Tensor, label: Tensor | None) -> Tensor:
        if label is None or not self.machine.classes:
            return v
        clamped = torch.cat([v[:, : -self.machine.classes], self._label(label, len(v)).to(v.dtype)], 1)
        return torch.where(label[:, None] < 0, v, clamped)

    def sample(self, noise: Noise, label: Tensor | None = None, sweeps: Count = 200) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]: the last frame of ``stream``."""
        *_, last = self.stream(noise, label, sweeps)
        return last.render()["image"]

    def log_prob(self, batch: Batch) -> Tensor:
        """log p(image, label) of few hidden units, exactly, in nats (B,)."""
        return -self.machine.free_energy(self.rows(batch).double()) - self.machine.log_partition()

    def estimate(self, batch: Batch) -> Tensor:
        """log p(image, label) with log Z by annealed importance sampling, in nats (B,)."""
        return -self.machine.free_energy(self.rows(batch).double()) - self.log_partition()[0]

    def log_partition(self) -> tuple[float, float, float]:
        """log Z by annealed importance sampling, and its 95 % interval."""
        chains, steps = _ANNEALED
        return log_mean(self.machine.anneal(Noise.of_seeds(range(chains), self.machine.weight.device), steps))


def rbm(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    hidden: Count = 500,
    visible: Kind = "binary",
    conditional: Literal["none", "label"] = "none",
    negative: Negative = Negative(),
    sparsity: Sparsity = Sparsity(),
) -> RBM:
    """A restricted Boltzmann machine.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        hidden: units.
        visible: "binary": brightness is the probability that a pixel is on; "gaussian": continuous.
        conditional: "label": units of the label are visible, and clamped to draw images of a class.
    """
    size = shapes.sides(shape)
    labels = label_classes(conditional, classes)
    pixels = channels * math.prod(size)
    return RBM(Machine(pixels + labels, hidden, labels, visible), Output("image", size, channels), negative, sparsity)
