"""A generator and a discriminator, how they are trained against each other, and what every GAN can do.

Goodfellow et al., "Generative adversarial nets", NeurIPS 2014, arXiv:1406.2661. Lazy penalties and the path length:
Karras et al., CVPR 2020, arXiv:1912.04958. Adaptive augmentation: Karras et al., NeurIPS 2020, arXiv:2006.06676.
Packing: Lin et al., NeurIPS 2018, arXiv:1712.04086. Progressive growing: Karras et al., ICLR 2018, arXiv:1710.10196.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adversarial.augmentation import adaptive, diffaugment
from reverie.adversarial.losses import GANLoss, LossName, g_logit_grad, gan_loss, sample_diversity
from reverie.adversarial.penalties import between, grad_norm_sq, path_lengths
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.nets.adversarial import within
from reverie.nets.progressive import smaller
from reverie.nets.shapes import Shape
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw

ADA_TARGET = 0.6  # mean sign of D's logits of real images that ADA steers to
ADA_RATE = 1e-3  # by how much its probability moves in a step
DEVIATION = 4  # images whose deviation a discriminator sees together
_FADING = 0.5  # share of a level's training over which it is faded in
_PATH_RATE = 0.01  # share of a step's path length in the running mean

Level = tuple[Any, ...]  # what growing networks are told: their level, and how far it is faded in


@dataclass(frozen=True)
class Adversarial:
    """How a generator and a discriminator are trained against each other.

    Attributes:
        loss: "minimax" (saturating), "non-saturating", "least-squares", "hinge", "wasserstein" or "r3" (relativistic
            pairs).
        r1: weight of half the squared gradient norm of D at real images; by default the loss's own (r3: 0.1, others 0).
        r2: the same at fakes.
        slope: weight of (gradient norm - 1)^2 between real images and fakes; by default the loss's own (wasserstein:
            10).
        penalty_every: steps between the penalties, which then count as many times.
        d_augment: what D is shown: "none", "diffaugment" (views of every image) or "ada" (as many as it takes).
        packing: how many images D judges together.
    """

    loss: LossName = "non-saturating"
    r1: float | None = None
    r2: float | None = None
    slope: float | None = None
    penalty_every: int = 1
    d_augment: Literal["none", "diffaugment", "ada"] = "none"
    packing: int = 1

    def __post_init__(self) -> None:
        if self.d_augment not in ("none", "diffaugment", "ada"):
            raise UsageError(f"d_augment is 'none', 'diffaugment' or 'ada', not {self.d_augment!r}.")
        if self.packing < 1 or self.penalty_every < 1:
            raise UsageError(f"packing and penalty_every are at least 1, not {self.packing} and {self.penalty_every}.")
        if min(self.weights.values()) < 0:
            raise UsageError(f"r1, r2 and slope are weights of penalties, at least 0: {self.weights}.")

    @property
    def losses(self) -> GANLoss:
        return gan_loss(self.loss)

    @property
    def weights(self) -> dict[str, float]:
        """Of the penalties, by name."""
        chosen = {"r1": self.r1, "r2": self.r2, "slope": self.slope}
        return {name: getattr(self.losses, name) if weight is None else weight for name, weight in chosen.items()}


@dataclass(frozen=True)
class PathLength:
    """A penalty on a style generator: steps of one length in w should change images by one length.

    Attributes:
        weight: of the penalty; 0 is none.
        every: steps between its updates, which then count as many times.
    """

    weight: float
    every: int


class GAN(nn.Module):
    """A generator against a discriminator. Every GAN is one of these; its system says of which networks.

    Args:
        generator: see ``generators.LatentGenerator``, whose methods it has.
        discriminator: (images, label, sets, *level) to logits, see ``nets.adversarial.Judge``.
        shape: (height, width) of the images in pixels.
        channels: 1 or 3.
        classes: number of classes that the images are conditioned on, 0 for none.
        adversarial: losses, penalties and augmentation.
        aux_weight: weight of the classes' cross-entropy, where the discriminator names classes.
        path: the path length penalty of a style generator.
    """

    G: Any
    D: Any
    strength: Tensor
    reached: Tensor
    stride: Tensor
    transient = ("strength", "reached")

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        shape: Shape,
        channels: int,
        classes: int = 0,
        adversarial: Adversarial = Adversarial(),
        aux_weight: float = 1.0,
        path: PathLength | None = None,
    ):
        super().__init__()
        self.shape, self.channels, self.classes = (shape[0], shape[1]), channels, classes
        self.options, self.losses, self.weights = adversarial, adversarial.losses, adversarial.weights
        self.aux_weight, self.path = aux_weight, path
        self.G, self.D = generator, discriminator
        self.register_buffer("strength", torch.zeros(()))  # ADA's probability p
        if self.path:
            self.register_buffer("stride", torch.zeros(()))  # running mean of path lengths
        if self.growing:
            self.register_buffer("reached", torch.zeros((), dtype=torch.int64))  # the level that images are made at

    @property
    def growing(self) -> bool:
        """Whether its networks grow level by level."""
        return bool(self.G.levels > 1)

    @property
    def penalised(self) -> bool:
        """Whether D's loss has a penalty."""
        return max(self.weights.values()) > 0

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {}
        # before the last level images are too coarse for a probe of their classes
        grown = not self.growing or int(self.reached) == self.G.levels - 1
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions=conditions,
            columns=conditions.keys(),
            latents=self.G.spaces,
            monitors=("gan", "classes") if grown else ("gan",),
            networks=(*(f"G.{name}" if name else "G" for name in self.G.networks), "D"),
        )

    # Training

    def stages(self, lr: float = 2e-4, d_lr: float = 0.0, beta: float = 0.0) -> list[Stage]:
        """D, then G, of the same fakes; lazy penalties (``penalty_every`` above 1) are phases of their own.

        Growing networks have a stage a level, each with twice the time of the one before.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D; 0 is the same.
            beta: Adam's first moment; GANs like it low.
        """
        return [self._stage(level, lr, d_lr or lr, (beta, 0.99)) for level in range(self.G.levels)]

    def _stage(self, level: int, lr: float, d_lr: float, betas: tuple[float, float]) -> Stage:
        def at(call: Any) -> Any:
            return partial(self.at_level, level, call) if self.growing else call

        d, g = adamw(self.D.parameters(), d_lr, betas=betas), adamw(self.G.parameters(), lr, betas=betas)
        every = self.options.penalty_every
        lazy = self.penalised and every > 1
        phases = [Phase("D", d, at(self.d_loss), graph=False, eager=self.penalised and not lazy)]
        if lazy:
            phases.append(Phase("D-penalty", d, at(self.penalty_loss), every, every, graph=False, eager=True))
        phases.append(Phase("G", g, at(self.g_loss)))
        if self.path and self.path.weight:
            every = self.path.every
            phases.append(Phase("G-path", g, self.path_loss, every, every, graph=False, eager=True))
        return Stage(
            phases,
            share=2.0**level,
            prepare=partial(self.reach, level) if self.growing else None,
            forward=at(self.generate),
            update=self.adapt if self.path or self.options.d_augment == "ada" else None,
            group=self.options.packing * (DEVIATION if self.D.grouped else 1),
        )

    def reach(self, level: int, batches: Any, fresh: bool = True) -> None:
        """From now on images are generated at this level."""
        self.reached.fill_(level)

    def at_level(self, level: int, call: Any, batch: Batch, *outputs: Outputs) -> Any:
        """A loss, or ``generate``, at a level that is being faded in, on images of its side."""
        fade = (batch.progress / _FADING).clamp(max=1) if level else 1.0
        return call(batch | {"x": self.shrunk(batch["x"], level)}, *outputs, level=(level, fade))

    def shrunk(self, images: Tensor, level: int) -> Tensor:
        """Images of a level's side."""
        for _ in range(self.G.levels - 1 - level):
            images = smaller(images)
        return images

    def make(self, rng: Noise, label: Tensor | None, level: Level = ()) -> Tensor:
        """Fakes (B, C, H, W) for training, kept within [-1, 1]."""
        return within(self.G.draw(rng, label, level).float())

    def generate(self, batch: Batch, level: Level = ()) -> Outputs:
        """What D and G look at in a step: ``fakes`` (B, C, H, W), and each row's ``label`` where there are classes.

        Raises:
            UsageError: a batch that is no whole number of packs.
        """
        if batch.rows % (packing := self.options.packing):
            raise UsageError(f"D judges {packing} images together, and {batch.rows} are no whole number of packs.")
        label = self.G.any_label(batch.rng, batch.get("label"))
        fakes = self.make(batch.rng, label, level)
        return {"fakes": fakes} if label is None else {"fakes": fakes, "label": label}

    def view(self, images: Tensor, rng: Noise) -> Tensor:
        """What D is shown of images."""
        if self.options.d_augment == "diffaugment":
            return diffaugment(images, rng)
        return adaptive(images, rng, self.strength) if self.options.d_augment == "ada" else images

    def d_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """D's loss and, where they are no phase of their own, the penalties.

        ``real`` and ``fake`` are mean logits; ``p_real`` and ``p_fake``, where the loss knows probabilities, D(x) and
        D(G(z)); ``spread`` is how much fakes differ from one another, in units of real images' differences.
        """
        real, fakes, label = batch["x"], outputs["fakes"], outputs.get("label")
        views = self.view(real, batch.rng), self.view(fakes, batch.rng)
        penalised = self.penalised and self.options.penalty_every == 1
        real_logits, fake_logits, class_logits, norms = self.logits(*views, label, level, gradients=penalised)
        loss = self.losses.d_loss(real_logits, fake_logits).mean()
        metrics = {"real": real_logits.mean(), "fake": fake_logits.mean(), "spread": sample_diversity(fakes, real)}
        if self.losses.probability:
            metrics |= {"p_real": real_logits.detach().sigmoid().mean()}
            metrics |= {"p_fake": fake_logits.detach().sigmoid().mean()}
        if class_logits is not None and label is not None:  # of real images only
            metrics["naming"] = F.cross_entropy(class_logits[: len(label)], label)
            loss = loss + self.aux_weight * metrics["naming"]
        if self.options.d_augment == "ada":
            metrics["sign"] = (real_logits - fake_logits if self.losses.paired else real_logits).detach().sign().mean()
        if penalised:
            extra, more = self.penalty(*norms, *views, label, batch.rng, level)
            loss, metrics = loss + extra, metrics | more
        return {"loss": loss, **metrics}

    def logits(
        self, real: Tensor, fakes: Tensor, label: Tensor | None, level: Level, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """D's logits of real images and of fakes, their class logits, and |dD/dx|^2 (B,) of both where asked."""
        both = torch.cat([real, fakes]).detach().requires_grad_(gradients)
        twice = None if label is None else torch.cat([label, label])
        logits, class_logits = self.D.opinion(both, twice, 2, *level)
        norms = both.new_zeros(2 * len(real))
        if gradients:
            (grad,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
            norms = grad.square().flatten(1).sum(1)
        (real_logits, fake_logits), (of_real, of_fakes) = logits.chunk(2), norms.chunk(2)
        return real_logits, fake_logits, class_logits, (of_real, of_fakes)

    def penalty(
        self,
        of_real: Tensor,
        of_fakes: Tensor,
        real: Tensor,
        fakes: Tensor,
        label: Tensor | None,
        rng: Noise,
        level: Level = (),
    ) -> tuple[Tensor, Metrics]:
        """r1/2 |dD/dx|^2 of real images + r2/2 of fakes + slope (|dD/dx| - 1)^2 between them."""
        loss = (self.weights["r1"] * of_real.mean() + self.weights["r2"] * of_fakes.mean()) / 2
        metrics = {"r1": of_real.mean(), "r2": of_fakes.mean()}
        if self.weights["slope"]:
            norm_sq = grad_norm_sq(lambda x: self.D(x, label, 1, *level), between(real, fakes, rng))
            slope = (norm_sq + 1e-12).sqrt()
            loss = loss + self.weights["slope"] * (slope - 1).square().mean()
            metrics |= {"slope": slope.mean()}
        return loss, metrics

    def penalty_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """The penalties alone."""
        label = outputs.get("label")
        views = self.view(batch["x"], batch.rng), self.view(outputs["fakes"], batch.rng)
        *_, norms = self.logits(*views, label, level, gradients=True)
        loss, metrics = self.penalty(*norms, *views, label, batch.rng, level)
        return {"loss": loss, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """G's loss; ``signal`` is how strongly it pulls, see ``g_logit_grad``."""
        rng, label = batch.rng, outputs.get("label")
        fake_logits, class_logits = self.D.opinion(self.view(outputs["fakes"], rng), label, 1, *level)
        real_logits = torch.zeros_like(fake_logits)
        if self.losses.paired:
            with torch.no_grad():
                real_logits = self.D(self.view(batch["x"], rng), label, 1, *level)
        metrics = {"loss": self.losses.g_loss(real_logits, fake_logits).mean()}
        if class_logits is not None and label is not None:
            metrics["naming"] = F.cross_entropy(class_logits, label)
            metrics["loss"] = metrics["loss"] + self.aux_weight * metrics["naming"]
        metrics["signal"] = g_logit_grad(self.losses, real_logits, fake_logits)
        return metrics

    def path_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """(|J' y| - a)^2 of the Jacobian J of images by w and noise y, a the running mean of |J' y|.

        Of every second image of the batch.
        """
        assert self.path
        rng, label = batch.rng[::2], outputs.get("label")
        lengths = path_lengths(self.G.synthesis, self.G.styles(rng, None if label is None else label[::2]), rng)
        loss = (lengths - self.stride).square().mean()
        return {"loss": self.path.weight * loss, "length": lengths.mean()}

    def adapt(self, batch: Batch, outputs: Outputs, stats: Metrics) -> Metrics:
        """ADA: p rises where D is sure of real images, and falls where it is not. The running mean of path lengths."""
        metrics: Metrics = {}
        if self.options.d_augment == "ada":
            self.strength.add_(ADA_RATE * (stats["D/sign"] - ADA_TARGET).sign()).clamp_(0, 1)
            metrics["strength"] = self.strength
        if "G-path/length" in stats:
            self.stride.lerp_(stats["G-path/length"], _PATH_RATE)
            metrics["stride"] = self.stride
        return metrics

    # Diagnostics

    @torch.no_grad()
    def checkup(self, seen: Batch, unseen: Batch) -> dict[str, float]:
        """Where D puts unseen images on its way from fakes (1) to its training images (0).

        The r_v of Karras et al., arXiv:2006.06676: (D(seen) - D(unseen)) / (D(seen) - D(fakes)), of means.
        """
        level = self.level
        if level:
            seen, unseen = (part | {"x": self.shrunk(part["x"], level[0])} for part in (seen, unseen))
        label = self.G.any_label(seen.rng, seen.get("label"))
        known, new = (
            self.mean_logit(part["x"], self.G.any_label(part.rng, part.get("label")), level) for part in (seen, unseen)
        )
        fakes = self.mean_logit(self.make(seen.rng, label, level), label, level)
        return {"overfitting": (known - new) / max(abs(known - fakes), 1e-6)}

    def mean_logit(self, images: Tensor, label: Tensor | None, level: Level = ()) -> float:
        """D's mean logit; images that fill no pack are left out."""
        rows = len(images) // self.options.packing * self.options.packing
        return float(self.D(images[:rows], None if label is None else label[:rows], 1, *level).mean())

    # Verbs

    @property
    def level(self) -> Level:
        """The level that training has reached, faded in; empty where nothing grows."""
        return (int(self.reached), 1.0) if self.growing else ()

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Images (B, C, H, W) from noise; no label is a random one.

        Args:
            truncation: how far a latent may go from the mean, below 1 more typical and less varied: z times this, or of
                styles the way from their mean.
        """
        return self._whole(self.G.sample(noise, label, truncation, self.level))

    def decode(self, latent: Tensor, label: Tensor | None = None, space: str | None = None, **condition: Any) -> Tensor:
        """A latent (B, ...) to images (B, C, H, W); without a label, of a conditional G, those of class 0.

        Args:
            space: one of the card's latent spaces; by default the first, or the one that the shape says.
        """
        return self._whole(self.G.decode(latent, label, space, self.level))

    def _whole(self, images: Tensor) -> Tensor:
        """Within [-1, 1], and at the full size where G has not yet grown to it."""
        images = images.clamp(-1, 1)
        return F.interpolate(images, size=self.shape, mode="nearest") if self.growing else images

    def latents(self, noise: Noise, label: Tensor | None = None, space: str | None = None) -> Tensor:
        """The latents (B, ...) of the images that ``sample`` draws."""
        return self.G.latents(noise, label, space)
