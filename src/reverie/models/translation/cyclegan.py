"""CycleGAN: image-to-image translation learned from two domains without pairs.

Zhu et al., ICCV 2017, arXiv:1703.10593, with the image pool of Shrivastava et al., arXiv:1612.07828.
Deviations are listed in docs/systems/translation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie.adversarial.losses import GAN_LOSSES, sample_diversity
from reverie.core.annotations import Channels, Classes, Count, Fraction, Range, Shape, SourceChannels, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.media.colour import with_channels
from reverie.models.translation.pix2pix import PatchLoss, TranslationUNet
from reverie.nets.discriminators import patch_discriminator
from reverie.nets.shapes import sides
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw


@dataclass(frozen=True)
class CycleLoss:
    """The terms beside the adversarial loss.

    Attributes:
        cycle_weight: weight of |A - F(G(A))| + |B - G(F(B))|.
        identity_weight: weight of |B - G(B)| + |A - F(A)|, times ``cycle_weight``; left out where A and B differ in
            their channels.
    """

    cycle_weight: Weight = 10.0
    identity_weight: Weight = 0.5


class CycleGAN(nn.Module):
    """Two generators, A to B and B to A, each with a discriminator; A to B to A must lead back.

    Of pairs (image and source) training does not use who belongs to whom, only the domain of each image. Of two folders
    without pairs the first class is A and the second B.

    Args:
        to_b, to_a: the generators.
        d_b, d_a: the discriminators, images to logits of patches.
        output: of the images (B).
        source_channels: of A.
        classes: number of classes in the data: two of them are the domains, where it has no pairs.
        loss: of each side.
        terms: weights of the loss.
        pool_size: fakes of the past that each discriminator also sees; 0 for none.
    """

    pool_a: Tensor
    pool_b: Tensor
    pool_filled: Tensor
    transient = ("pool_*",)

    def __init__(
        self,
        to_b: nn.Module,
        to_a: nn.Module,
        d_b: nn.Module,
        d_a: nn.Module,
        output: Output,
        source_channels: int,
        classes: int = 0,
        loss: PatchLoss = "least-squares",
        terms: CycleLoss = CycleLoss(),
        pool_size: int = 50,
    ):
        super().__init__()
        self.to_b, self.to_a, self.d_b, self.d_a = to_b, to_a, d_b, d_a
        self.output, self.source_channels, self.domain_count = output, source_channels, classes
        self.losses, self.terms = GAN_LOSSES[loss], terms
        self.register_buffer("pool_a", torch.zeros(pool_size, source_channels, *output.shape))
        self.register_buffer("pool_b", torch.zeros(pool_size, output.channels, *output.shape))
        self.register_buffer("pool_filled", torch.zeros((), dtype=torch.int64))

    @property
    def card(self) -> Card:
        remedy = "A/x.png and B/x.png are a pair. Without pairs, two folders A/ and B/ are the two domains."
        return Card(
            output=self.output,
            conditions={"source": self.source_channels},
            columns={"label": remedy} if self.domain_count == 2 else {"source": remedy},
            monitors=("gan",),
            networks=("to_a", "to_b", "d_a", "d_b"),
        )

    # Training

    def stages(self, lr: Weight = 3e-4, d_lr: Weight = 2e-4, beta1: Fraction = 0.5) -> list[Stage]:
        """Both discriminators, then both generators.

        Args:
            lr: peak learning rate of the generators.
            d_lr: that of the discriminators.
            beta1: Adam's first moment.
        """
        discriminators = [*self.d_a.parameters(), *self.d_b.parameters()]
        generators = [*self.to_a.parameters(), *self.to_b.parameters()]
        d = Phase("D", adamw(discriminators, d_lr, betas=(beta1, 0.99)), self.d_loss, graph=False)
        g = Phase("G", adamw(generators, lr, betas=(beta1, 0.99)), self.g_loss)
        stage = Stage([d, g], forward=self.generate)
        if len(self.pool_a):
            stage.update, stage.gather = self.keep_pool, ("fake_a", "fake_b", "slot", "swap")
        return [stage]

    def domain_rows(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images of A and of B, and a weight for each: 0 where a row has none. Weights have mean 1 over the data.

        Raises:
            UsageError: the data has neither pairs nor two classes.
        """
        image = batch["x"]
        if "source" in batch:
            ones = torch.ones(len(image), device=image.device)
            return batch["source"], image, ones, ones
        if self.domain_count != 2:
            raise UsageError(
                "CycleGAN learns from two domains: folders A/ and B/. This data has no pairs, and its classes are "
                f"not two but {self.domain_count}."
            )
        label = batch["label"]
        return image, image, 2.0 * (label == 0), 2.0 * (label == 1)

    def generate(self, batch: Batch) -> Outputs:
        """``a``, ``b`` and their weights; ``fake_a`` = F(B), ``fake_b`` = G(A); and the fakes of the discriminators.

        Where there is a pool, those are ``d_fake_a`` and ``d_fake_b``: fakes, some of them exchanged (``swap``, B) for
        earlier ones in slots (``slot``, B) of the pool.
        """
        a, b, of_a, of_b = self.domain_rows(batch)
        outputs = {"a": a, "b": b, "of_a": of_a, "of_b": of_b, "fake_a": self.to_a(b), "fake_b": self.to_b(a)}
        if slots := len(self.pool_a):
            full = self.pool_filled >= slots
            start = torch.where(full, batch.shared.integers(slots)[0], self.pool_filled)
            slot = (start + batch.row) % slots
            swap = batch.rng.bernoulli(0.5) & (batch.row < slots) & full  # rows below the pool's size share no slot
            for side, pool in (("a", self.pool_a), ("b", self.pool_b)):
                d_fakes = torch.where(swap[:, None, None, None], pool[slot], outputs[f"fake_{side}"].detach())
                outputs[f"d_fake_{side}"] = d_fakes
            outputs |= {"slot": slot, "swap": swap}
        return outputs

    def keep_pool(self, batch: Batch, outputs: Outputs, stats: Metrics) -> None:
        """Fakes replace those that they were exchanged for, and fill free slots."""
        slots = len(self.pool_a)
        rows = min(slots, batch.rows)
        slot = outputs["slot"][:rows]
        replaced = (outputs["swap"][:rows] | (self.pool_filled < slots))[:, None, None, None]
        for pool, fake in ((self.pool_a, outputs["fake_a"]), (self.pool_b, outputs["fake_b"])):
            pool[slot] = torch.where(replaced, fake[:rows].to(pool), pool[slot])
        self.pool_filled.add_(rows).clamp_(max=slots)

    def d_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Each side's loss against fakes, half of them from the past where there is a pool."""
        metrics: Metrics = {}
        loss: Any = 0.0
        for name, discriminator, other in (("a", self.d_a, "b"), ("b", self.d_b, "a")):
            real, fake = outputs[name], outputs.get(f"d_fake_{name}", outputs[f"fake_{name}"])
            real_logit, fake_logit = (x.flatten(1) for x in discriminator(torch.cat([real, fake])).float().chunk(2))
            zero = torch.zeros_like(real_logit)
            # the two halves of the loss, by rows of different domains
            on_real = self.losses.d_loss(real_logit, zero) - self.losses.d_loss(zero, zero) / 2
            on_fake = self.losses.d_loss(zero, fake_logit) - self.losses.d_loss(zero, zero) / 2
            weight, fake_weight = outputs[f"of_{name}"][:, None], outputs[f"of_{other}"][:, None]
            loss = loss + ((weight * on_real + fake_weight * on_fake) / 2).mean()
            metrics |= {f"real_logit_{name}": real_logit.mean(), f"fake_logit_{name}": fake_logit.mean()}
        metrics["sample_diversity"] = torch.minimum(*(sample_diversity(outputs[f"fake_{x}"], outputs[x]) for x in "ab"))
        return {"loss": loss, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Both sides' adversarial loss, the cycle, and the identity."""
        a, b, of_a, of_b, fake_a, fake_b = (outputs[x] for x in ("a", "b", "of_a", "of_b", "fake_a", "fake_b"))

        def mean(rows: Tensor, weight: Tensor) -> Tensor:
            return (weight * rows.flatten(1).mean(1)).mean()

        def adversarial(discriminator: nn.Module, fake: Tensor) -> Tensor:
            logits = discriminator(fake).float()
            return self.losses.g_loss(torch.zeros_like(logits), logits)

        # one pass of each network: the way back, and, for the identity loss, images of its own target
        identity = bool(self.terms.identity_weight) and self.source_channels == self.output.channels
        back_a, same_a = self.to_a(torch.cat([fake_b, a]) if identity else fake_b).tensor_split([len(a)])
        back_b, same_b = self.to_b(torch.cat([fake_a, b]) if identity else fake_a).tensor_split([len(b)])
        metrics = {
            "adversarial": mean(adversarial(self.d_b, fake_b), of_a) + mean(adversarial(self.d_a, fake_a), of_b),
            "cycle": mean((back_a - a).abs(), of_a) + mean((back_b - b).abs(), of_b),
        }
        loss = metrics["adversarial"] + self.terms.cycle_weight * metrics["cycle"]
        if identity:
            metrics["identity"] = mean((same_b - b).abs(), of_b) + mean((same_a - a).abs(), of_a)
            loss = loss + self.terms.cycle_weight * self.terms.identity_weight * metrics["identity"]
        return {"loss": loss, **metrics}

    # Verbs

    def translation_pair(self, batch: Batch, to: Literal["A", "B"] = "B") -> tuple[Tensor, Tensor | None]:
        """Images of the other domain; of pairs also their partners, which training does not use."""
        if "source" not in batch:
            return batch["x"], None
        pair = batch["source"], batch["x"]
        return pair if to == "B" else pair[::-1]

    def domains(self, batch: Batch, to: Literal["A", "B"] = "B") -> tuple[Tensor, Tensor, bool]:
        """A's rows of a batch and B's (B's and A's on the way to A), and whether they are pairs."""
        paired = "source" in batch
        a = batch["source"] if paired else batch["x"][batch["label"] == 0]
        b = batch["x"] if paired else batch["x"][batch["label"] == 1]
        return (a, b, paired) if to == "B" else (b, a, paired)

    def features(self, image: Tensor) -> Tensor:
        """The translation of A (B, C, H, W) to B."""
        return self.translate(image)

    def translate(
        self, source: Tensor, noise: Noise | None = None, to: Literal["A", "B"] = "B", **condition: Any
    ) -> Tensor:
        """An image (B, C, H, W) of one domain as one of the other, (B, C', H, W). Any may be grey or in colour.

        Args:
            to: domain of the translation; B is that of the data's images, A of their sources or of its first class.
        """
        if to == "B":
            return self.to_b(with_channels(source, self.source_channels))
        return self.to_a(with_channels(source, self.output.channels))


def cyclegan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    loss: PatchLoss = "least-squares",
    pool_size: Annotated[int, Range(0)] = 50,
    width: Count = 48,
    depth: Annotated[int, Range(0)] = 1,
    source_channels: SourceChannels = None,
    terms: CycleLoss = CycleLoss(),
) -> CycleGAN:
    """Two generators, A to B and B to A, each with a discriminator; A to B to A must lead back.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA), of the images (B).
        classes: number of classes in the data.
        loss: of each side: "least-squares", "non-saturating", "hinge" or "minimax".
        pool_size: fakes of the past that each discriminator also sees; 0 for none.
        width: channels of the U-Nets' finest level.
        depth: residual blocks a level.
        source_channels: 1, 3 or 4 (RGBA), of the sources (A) of pairs; None: the same as ``channels``.
    """
    size, of_a = sides(shape), source_channels or channels
    to_b, to_a = (TranslationUNet(size, *way, width, depth) for way in ((of_a, channels), (channels, of_a)))
    d_b, d_a = (patch_discriminator(size, side, width) for side in (channels, of_a))
    output = Output("image", size, channels)
    return CycleGAN(to_b, to_a, d_b, d_a, output, of_a, classes, loss, terms, pool_size)
