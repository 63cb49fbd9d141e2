"""A generator and a discriminator, how they are trained against each other, and the verbs of every GAN.

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
from reverie.adversarial.losses import GAN_LOSSES, GANLoss, LossName, g_logit_grad, sample_diversity
from reverie.adversarial.penalties import between, grad_norm_sq, path_lengths
from reverie.core.annotations import Count, Fraction, Weight
from reverie.core.batch import Batch, parts_of
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.memory import rows_at_once
from reverie.core.noise import Noise
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.progressive import downsample2d
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw
from reverie.probability.conditioning import first_class

ADA_TARGET = 0.6  # mean sign of D's logits of real images that ADA steers to
ADA_RATE = 1e-3  # by how much its probability moves in a step
GROUP = 4  # images whose standard deviation a discriminator sees together
_FADING = 0.5  # fraction of a level's training over which it is faded in
_PATH_RATE = 0.01  # weight of a step's path length in the running mean

Level = tuple[Any, ...]  # of growing networks: their level, and how far it is faded in


@dataclass(frozen=True)
class Adversarial:
    """How a generator and a discriminator are trained against each other.

    Attributes:
        loss: "minimax" (saturating), "non-saturating", "least-squares", "hinge", "wasserstein" or "r3" (relativistic
            pairs).
        r1: weight of half the squared gradient norm of D at real images; by default the loss's own (r3: 0.1, others 0).
        r2: the same at fakes.
        gp_weight: weight of (gradient norm - 1)^2 between real images and fakes; by default the loss's own
            (wasserstein: 10).
        penalty_every: steps between the penalties, which then count as many times.
        d_augment: of D's inputs: "none", "diffaugment" (views of every image) or "ada" (as many as it takes).
        packing: images that share one of D's logits.
    """

    loss: LossName = "non-saturating"
    r1: Weight | None = None
    r2: Weight | None = None
    gp_weight: Weight | None = None
    penalty_every: Count = 1
    d_augment: Literal["none", "diffaugment", "ada"] = "none"
    packing: Count = 1

    @property
    def losses(self) -> GANLoss:
        return GAN_LOSSES[self.loss]

    @property
    def weights(self) -> dict[str, float]:
        """Of the penalties, by name."""
        chosen = {"r1": self.r1, "r2": self.r2, "gp_weight": self.gp_weight}
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
        discriminator: (images, label, sets, *level) to (logits, class logits), see ``nets.discriminators``.
        output: what it makes.
        classes: number of classes that the images are conditioned on, 0 for none.
        adversarial: losses, penalties and augmentation.
        aux_weight: weight of the classes' cross-entropy, where the discriminator classifies.
        path: the path length penalty of a style generator.
    """

    generator: Any
    discriminator: Any
    augment_p: Tensor
    current_level: Tensor
    path_length_mean: Tensor
    transient = ("augment_p", "current_level")

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        output: Output,
        classes: int = 0,
        adversarial: Adversarial = Adversarial(),
        aux_weight: float = 1.0,
        path: PathLength | None = None,
    ):
        super().__init__()
        self.output, self.classes = output, classes
        self.options, self.losses, self.weights = adversarial, adversarial.losses, adversarial.weights
        self.aux_weight, self.path = aux_weight, path
        self.generator, self.discriminator = generator, discriminator
        self.register_buffer("augment_p", torch.zeros(()))  # ADA's probability p
        if self.path:
            self.register_buffer("path_length_mean", torch.zeros(()))
        if self.growing:
            self.register_buffer("current_level", torch.zeros((), dtype=torch.int64))

    @property
    def growing(self) -> bool:
        """Whether its networks grow level by level."""
        return bool(self.generator.levels > 1)

    @property
    def penalised(self) -> bool:
        """Whether D's loss has a penalty."""
        return max(self.weights.values()) > 0

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {}
        # before the last level images are too coarse for a probe of their classes
        grown = not self.growing or int(self.current_level) == self.generator.levels - 1
        nets = (f"generator.{name}" if name else "generator" for name in self.generator.networks)
        return Card(
            output=self.output,
            conditions=conditions,
            columns=conditions.keys(),
            latents=self.generator.spaces,
            monitors=("gan", "classes") if grown else ("gan",),
            networks=(*nets, "discriminator"),
        )

    # Training

    def stages(self, lr: Weight = 2e-4, d_lr: Weight = 0.0, beta1: Fraction = 0.0) -> list[Stage]:
        """D, then G, of the same fakes; lazy penalties (``penalty_every`` above 1) are phases of their own.

        Growing networks have a stage a level, each with twice the time of the one before.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D; 0 is the same.
            beta1: Adam's first moment; GANs like it low.
        """
        return [self._stage(level, lr, d_lr or lr, (beta1, 0.99)) for level in range(self.generator.levels)]

    def _stage(self, level: int, lr: float, d_lr: float, betas: tuple[float, float]) -> Stage:
        def at(call: Any) -> Any:
            return partial(self.at_level, level, call) if self.growing else call

        d = adamw(self.discriminator.parameters(), d_lr, betas=betas)
        g = adamw(self.generator.parameters(), lr, betas=betas)
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
            prepare=partial(self.reach_level, level) if self.growing else None,
            forward=at(self.generate_fakes),
            update=self.update_buffers if self.path or self.options.d_augment == "ada" else None,
            group=self.group,
        )

    def reach_level(self, level: int, batches: Any, fresh: bool = True) -> None:
        """From now on images are generated at this level."""
        self.current_level.fill_(level)

    def at_level(self, level: int, call: Any, batch: Batch, *outputs: Outputs) -> Any:
        """A loss, or ``generate_fakes``, at a level that is being faded in, on images of its side."""
        fade_alpha = (batch.progress / _FADING).clamp(max=1) if level else 1.0
        return call(batch | {"x": self.downsampled(batch["x"], level)}, *outputs, level=(level, fade_alpha))

    def downsampled(self, images: Tensor, level: int) -> Tensor:
        """Images of a level's side."""
        for _ in range(self.generator.levels - 1 - level):
            images = downsample2d(images)
        return images

    def generate(self, rng: Noise, label: Tensor | None, level: Level = ()) -> Tensor:
        """Fakes (B, C, H, W) for training, kept within [-1, 1]."""
        return clamp_pixels(self.generator.generate(rng, label, level).float())

    def generate_fakes(self, batch: Batch, level: Level = ()) -> Outputs:
        """Of a step: ``fakes`` (B, C, H, W), and each row's ``label`` where there are classes.

        Raises:
            UsageError: a batch that is no whole number of packs.
        """
        if batch.rows % (packing := self.options.packing):
            raise UsageError(f"D sees packs of {packing} images, and {batch.rows} are no whole number of packs.")
        label = self.generator.random_label(batch.rng, batch.get("label"))
        fakes = self.generate(batch.rng, label, level)
        return {"fakes": fakes} if label is None else {"fakes": fakes, "label": label}

    def augmented(self, images: Tensor, rng: Noise) -> Tensor:
        """D's view of images."""
        if self.options.d_augment == "diffaugment":
            return diffaugment(images, rng)
        return adaptive(images, rng, self.augment_p) if self.options.d_augment == "ada" else images

    def d_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """D's loss and, where they are no phase of their own, the penalties.

        ``real_logit`` and ``fake_logit`` are means; ``p_real`` and ``p_fake``, where the loss has probabilities, D(x)
        and D(G(z)); ``sample_diversity`` is how much fakes differ from one another, in units of real images'.
        """
        real, fakes, label = batch["x"], outputs["fakes"], outputs.get("label")
        views = self.augmented(real, batch.rng), self.augmented(fakes, batch.rng)
        penalised = self.penalised and self.options.penalty_every == 1
        real_logits, fake_logits, class_logits, norms = self.logits(*views, label, level, gradients=penalised)
        loss = self.losses.d_loss(real_logits, fake_logits).mean()
        metrics = {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        metrics["sample_diversity"] = sample_diversity(fakes, real)
        if self.losses.probability:
            metrics |= {"p_real": real_logits.detach().sigmoid().mean()}
            metrics |= {"p_fake": fake_logits.detach().sigmoid().mean()}
        if class_logits is not None and label is not None:  # of real images only
            metrics["class_loss"] = F.cross_entropy(class_logits[: len(label)], label)
            loss = loss + self.aux_weight * metrics["class_loss"]
        if self.options.d_augment == "ada":
            differences = real_logits - fake_logits if self.losses.paired else real_logits
            metrics["real_sign"] = differences.detach().sign().mean()
        if penalised:
            extra, more = self.penalty(norms, *views, label, batch.rng, level)
            loss, metrics = loss + extra, metrics | more
        return {"loss": loss, **metrics}

    def logits(
        self, real: Tensor, fakes: Tensor, label: Tensor | None, level: Level, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """D's logits of real images and of fakes, their class logits, and |dD/dx|^2 (B,) of both where needed."""
        both = torch.cat([real, fakes]).detach().requires_grad_(gradients)
        twice = None if label is None else torch.cat([label, label])
        logits, class_logits = self.discriminator(both, twice, 2, *level)
        norms = both.new_zeros(2 * len(real))
        if gradients:
            (grad,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
            norms = grad.square().flatten(1).sum(1)
        (real_logits, fake_logits), (of_real, of_fakes) = logits.chunk(2), norms.chunk(2)
        return real_logits, fake_logits, class_logits, (of_real, of_fakes)

    def penalty(
        self, norms: tuple[Tensor, Tensor], real: Tensor, fakes: Tensor, label: Tensor | None, rng: Noise, level: Level
    ) -> tuple[Tensor, Metrics]:
        """r1/2 |dD/dx|^2 of real images + r2/2 of fakes + gp_weight (|dD/dx| - 1)^2 between them."""
        of_real, of_fakes = norms
        loss = (self.weights["r1"] * of_real.mean() + self.weights["r2"] * of_fakes.mean()) / 2
        metrics = {"r1": of_real.mean(), "r2": of_fakes.mean()}
        if self.weights["gp_weight"]:
            inputs = between(real, fakes, rng)
            norm_sq = grad_norm_sq(lambda x: self.discriminator(x, label, 1, *level)[0], inputs)
            grad_norm = (norm_sq + 1e-12).sqrt()
            loss = loss + self.weights["gp_weight"] * (grad_norm - 1).square().mean()
            metrics |= {"grad_norm": grad_norm.mean()}
        return loss, metrics

    def penalty_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """The penalties alone."""
        label = outputs.get("label")
        views = self.augmented(batch["x"], batch.rng), self.augmented(outputs["fakes"], batch.rng)
        *_, norms = self.logits(*views, label, level, gradients=True)
        loss, metrics = self.penalty(norms, *views, label, batch.rng, level)
        return {"loss": loss, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs, level: Level = ()) -> Metrics:
        """G's loss; ``logit_grad`` is how strong its gradient is, see ``g_logit_grad``."""
        rng, label = batch.rng, outputs.get("label")
        fake_logits, class_logits = self.discriminator(self.augmented(outputs["fakes"], rng), label, 1, *level)
        real_logits = torch.zeros_like(fake_logits)
        if self.losses.paired:
            with torch.no_grad():
                real_logits, _ = self.discriminator(self.augmented(batch["x"], rng), label, 1, *level)
        metrics = {"loss": self.losses.g_loss(real_logits, fake_logits).mean()}
        if class_logits is not None and label is not None:
            metrics["class_loss"] = F.cross_entropy(class_logits, label)
            metrics["loss"] = metrics["loss"] + self.aux_weight * metrics["class_loss"]
        metrics["logit_grad"] = g_logit_grad(self.losses, real_logits, fake_logits)
        return metrics

    def path_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """(|J' y| - a)^2 of the Jacobian J of images by w and noise y, a the running mean of |J' y|.

        Of every second image of the batch.
        """
        assert self.path
        rng, label = batch.rng[::2], outputs.get("label")
        styles = self.generator.styles(rng, None if label is None else label[::2])
        lengths = path_lengths(self.generator.synthesis, styles, rng)
        loss = (lengths - self.path_length_mean).square().mean()
        return {"loss": self.path.weight * loss, "length": lengths.mean()}

    def update_buffers(self, batch: Batch, outputs: Outputs, stats: Metrics) -> Metrics:
        """ADA: p rises where D's logits of real images are mostly positive. The running mean of path lengths."""
        metrics: Metrics = {}
        if self.options.d_augment == "ada":
            self.augment_p.add_(ADA_RATE * (stats["D/real_sign"] - ADA_TARGET).sign()).clamp_(0, 1)
            metrics["augment_p"] = self.augment_p
        if "G-path/length" in stats:
            self.path_length_mean.lerp_(stats["G-path/length"], _PATH_RATE)
            metrics["path_length_mean"] = self.path_length_mean
        return metrics

    # Diagnostics

    @torch.no_grad()
    def diagnostics(self, train: Batch, held_out: Batch) -> dict[str, float]:
        """How far D's logits of held-out images are from those of training images (0) towards those of fakes (1).

        The r_v of Karras et al., arXiv:2006.06676: (D(train) - D(held out)) / (D(train) - D(fakes)), of means.
        """
        of_train, of_held_out = self.mean_logit(train), self.mean_logit(held_out)
        of_fakes = self.mean_logit(train, fakes=True)
        return {"overfitting": (of_train - of_held_out) / max(abs(of_train - of_fakes), 1e-6)}

    def mean_logit(self, batch: Batch, fakes: bool = False) -> float:
        """D's mean logit of a batch's images, or of as many fakes; images that fill no pack are left out."""
        level, packing, logits = self.level, self.options.packing, list[Tensor]()
        at_once = rows_at_once(batch["x"].shape[2:], batch.rng.device, batch.rows)
        for low, high in parts_of(batch, -(-batch.rows // at_once), self.group):
            part = batch.cut(low, low + (high - low) // packing * packing)
            images, label = part["x"], self.generator.random_label(part.rng, part.get("label"))
            if fakes:
                images = self.generate(part.rng, label, level)
            elif level:
                images = self.downsampled(images, level[0])
            logits.append(self.discriminator(images, label, 1, *level)[0])
        return float(torch.cat(logits).mean())

    # Verbs

    @property
    def group(self) -> int:
        """Rows that D compares with one another."""
        return self.options.packing * (GROUP if self.discriminator.grouped else 1)

    @property
    def level(self) -> Level:
        """The level that training has reached, faded in; empty where nothing grows."""
        return (int(self.current_level), 1.0) if self.growing else ()

    def sample(self, noise: Noise, label: Tensor | None = None, truncation: float = 1.0) -> Tensor:
        """Images (B, C, H, W) from noise; no label is a random one.

        Args:
            truncation: how far a latent may go from the mean, below 1 more typical and less varied: z times this, or of
                styles the way from their mean.
        """
        return self._full_size(self.generator.sample(noise, label, truncation, self.level))

    def decode(self, latent: Tensor, label: Tensor | None = None, space: str | None = None, **condition: Any) -> Tensor:
        """A latent (B, ...) to images (B, C, H, W); without a label, of a conditional G, those of class 0.

        Args:
            space: one of the card's latent spaces; by default the first.
        """
        return self._full_size(self.generator.decode(latent, label, space, self.level))

    def _full_size(self, images: Tensor) -> Tensor:
        """Within [-1, 1], and at the full size where G has not yet grown to it."""
        images = images.clamp(-1, 1)
        return F.interpolate(images, size=self.output.shape, mode="nearest") if self.growing else images

    def features(self, image: Tensor) -> Tensor:
        """D's logits (B,), of class 0 where it has classes; no image is compared with another."""
        rows = self.downsampled(image, self.level[0]) if self.growing else image
        rows = rows.repeat_interleave(self.options.packing, 0)
        return self.discriminator(rows, first_class(None, rows, self.classes), len(image), *self.level)[0]

    def latent(self, noise: Noise, label: Tensor | None = None, space: str | None = None, **condition: Any) -> Tensor:
        """The latents (B, ...) of the images that ``sample`` makes."""
        return self.generator.latent(noise, label, space)
