"""pix2pix: image-to-image translation learned from pairs.

Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017, arXiv:1611.07004.
Deviations are listed in docs/systems/translation.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adversarial.losses import GAN_LOSSES, sample_diversity
from reverie.core.annotations import Channels, Count, Fraction, Range, Shape, SourceChannels, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.media.colour import with_channels
from reverie.models.diffusion.networks import unet
from reverie.models.translation.sources import TASKS
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.discriminators import patch_discriminator
from reverie.nets.shapes import sides
from reverie.optim.phase import Metrics, Outputs, Phase, Stage, adamw

Task = Literal["pairs", "colour", "lines"]
Direction = Literal["AtoB", "BtoA"]
PatchLoss = Literal["minimax", "non-saturating", "least-squares", "hinge"]


class TranslationUNet(nn.Module):
    """The fast U-Net without a time: (B, inputs, H, W) to (B, outputs, H, W) in [-1, 1].

    Of as many inputs as outputs it learns a residual, and is the identity at first.
    """

    def __init__(self, shape: tuple[int, int], inputs: int, outputs: int, width: int, depth: int):
        super().__init__()
        self.net = unet(shape, inputs, width, depth, outputs=outputs)
        self.residual = inputs == outputs

    def forward(self, source: Tensor) -> Tensor:
        output = self.net(source, source.new_zeros(len(source))).to(source.dtype)
        return clamp_pixels(source + output if self.residual else output)


class Translator(nn.Module):
    """G translates A to B; D sees both and classifies B as real or fake, patch by patch; an L1 term keeps B near the
    truth.

    Args:
        generator: sources (B, C, H, W) to images (B, C', H, W).
        discriminator: both, as channels, to logits of patches.
        output: of the images.
        inputs: channels of the sources.
        task: "pairs" (the data's own, A is the source and B the image), or a name of ``TASKS``: A is made of the image.
        direction: "AtoB", or "BtoA" for the way back.
        loss: of the patches.
        l1_weight: weight of |B - G(A)|.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        output: Output,
        inputs: int,
        task: Task = "pairs",
        direction: Direction = "AtoB",
        loss: PatchLoss = "non-saturating",
        l1_weight: float = 100.0,
    ):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.output, self.inputs, self.task, self.direction = output, inputs, task, direction
        self.losses, self.l1_weight = GAN_LOSSES[loss], l1_weight

    @property
    def card(self) -> Card:
        remedy = (
            f"A/x.png and B/x.png are a pair; so are the halves of an image with {argument('layout', 'side-by-side')}. "
            "Two folders without pairs are for `reverie train cyclegan`; --task colour or lines make pairs of any "
            "images."
        )
        return Card(
            output=self.output,
            conditions={"source": self.inputs},
            columns={"source": remedy} if self.task == "pairs" else {},
            monitors=("gan",),
            networks=("generator", "discriminator"),
        )

    # Training

    def stages(self, lr: Weight = 3e-4, d_lr: Weight = 2e-4, beta1: Fraction = 0.5) -> list[Stage]:
        """D, then G.

        Args:
            lr: peak learning rate of G.
            d_lr: that of D.
            beta1: Adam's first moment.
        """
        d = adamw(self.discriminator.parameters(), d_lr, betas=(beta1, 0.99))
        g = adamw(self.generator.parameters(), lr, betas=(beta1, 0.99))
        return [Stage([Phase("D", d, self.d_loss, graph=False), Phase("G", g, self.g_loss)], forward=self.generate)]

    def pair(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Source and target.

        Raises:
            UsageError: the data has no pairs, and the task needs some.
        """
        image = batch["x"]
        if self.task == "pairs" and "source" not in batch:
            raise UsageError(f"pix2pix learns from pairs, and this data has none. {self.card.remedies['source']}")
        source = batch["source"] if self.task == "pairs" else TASKS[self.task](image)
        return (source, image) if self.direction == "AtoB" else (image, source)

    def generate(self, batch: Batch) -> Outputs:
        """``source``, ``target`` and ``fakes`` = G(source)."""
        return self.translated(*self.pair(batch))

    def translated(self, source: Tensor, target: Tensor) -> Outputs:
        return {"source": source, "target": target, "fakes": self.generator(source)}

    def d_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """The loss over patches, real pairs against fakes."""
        source, target, fakes = outputs["source"], outputs["target"], outputs["fakes"]
        pairs = torch.cat([torch.cat([source, target], 1), torch.cat([source, fakes], 1)])
        real, fake = self.discriminator(pairs).float().chunk(2)
        metrics = {"real_logit": real.mean(), "fake_logit": fake.mean()}
        metrics["sample_diversity"] = sample_diversity(fakes, target)
        return {"loss": self.losses.d_loss(real, fake).mean() / 2, **metrics}

    def g_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """The adversarial loss + l1_weight E|B - G(A)|."""
        source, target, fakes = outputs["source"], outputs["target"], outputs["fakes"]
        fake = self.discriminator(torch.cat([source, fakes], 1)).float()
        metrics = {"l1": F.l1_loss(fakes, target)}
        metrics["adversarial"] = self.losses.g_loss(torch.zeros_like(fake), fake).mean()
        return {"loss": metrics["adversarial"] + self.l1_weight * metrics["l1"], **metrics}

    # Verbs

    def translation_pair(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Of a batch the source, and the target where the data has it."""
        return self.pair(batch)

    def domains(self, batch: Batch) -> tuple[Tensor, Tensor, bool]:
        """Of a batch A, B (B and A where that direction was learned), and that they are pairs."""
        return *self.pair(batch), True

    def features(self, image: Tensor) -> Tensor:
        """The translation of sources (B, C, H, W)."""
        return self.generator(with_channels(image, self.inputs))

    def translate(self, source: Tensor, noise: Noise | None = None, **condition: Any) -> Tensor:
        """(B, C, H, W) to (B, C', H, W), in the direction that was learned. A source in colour may be given in grey."""
        return self.generator(with_channels(source, self.inputs))


def pix2pix(
    shape: Shape,
    channels: Channels,
    task: Task = "pairs",
    direction: Direction = "AtoB",
    loss: PatchLoss = "non-saturating",
    l1_weight: Weight = 100.0,
    width: Count = 64,
    depth: Annotated[int, Range(0)] = 2,
    source_channels: SourceChannels = None,
) -> Translator:
    """G translates A to B; D classifies pairs as real or fake, patch by patch; an L1 term keeps B near the truth.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA), of the images (B).
        task: "pairs" (the data's own, A is the source and B the image), or, of any images, "colour" (from their luma)
            or "lines" (from their outlines).
        direction: "AtoB", or "BtoA" for the way back.
        loss: of D and G: "non-saturating", "least-squares", "hinge" or "minimax".
        l1_weight: weight of |B - G(A)|.
        width: channels of the U-Net's finest level.
        depth: residual blocks a level.
        source_channels: 1, 3 or 4 (RGBA), of the sources (A) of the task "pairs"; None: the same as ``channels``.
    """
    if task == "colour" and channels == 1:
        lines = argument("task", "lines")
        raise UsageError(f"These images are grey: there is no colour to learn. Take {lines}, or other data.")
    size, of_a = sides(shape), 1 if task != "pairs" else source_channels or channels
    inputs, outputs = (of_a, channels) if direction == "AtoB" else (channels, of_a)
    generator = TranslationUNet(size, inputs, outputs, width, depth)
    discriminator = patch_discriminator(size, inputs + outputs, width)
    output = Output("image", size, outputs)
    return Translator(generator, discriminator, output, inputs, task, direction, loss, l1_weight)
