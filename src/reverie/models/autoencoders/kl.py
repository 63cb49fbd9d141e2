"""A codec of images: small maps of latents for a diffusion model to work on, and the way back.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, arXiv:2112.10752.
Patch discriminator: Isola et al., CVPR 2017, arXiv:1611.07004. Hinge loss: Lim and Ye, arXiv:1705.02894.
Deviations are listed in docs/systems/latent-diffusion.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.adversarial.losses import GAN_LOSSES
from reverie.core.annotations import Channels, Count, Fraction, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.errors import UsageError, argument
from reverie.models.autoencoders.perceptual import lpips
from reverie.nets import shapes
from reverie.nets.convolutional import ResidualBlock
from reverie.nets.discriminators import patch_discriminator
from reverie.optim.phase import Outputs, Phase, Stage, adamw
from reverie.probability.likelihoods import kl_to_standard_normal

_FINEST = 64  # pixels are packed into channels until maps have at most this side, as far as the factor allows


def levels(shape: shapes.Shape, factor: int, width: int) -> tuple[int, list[int]]:
    """The patch size of the first layer, and the channels of each level from fine to coarse.

    Raises:
        UsageError: a factor that does not divide both sides.
    """
    if not shapes.divides(factor, shape) or min(shape) < 2 * factor:
        near = shapes.named([max(2, round(side / factor)) * factor for side in shape])
        raise UsageError(
            f"{argument('factor', factor)} needs a size that it divides; {shapes.named(shape)} is not. "
            f"Try {argument('size', near)}."
        )
    patch_size = 2
    while max(shape) // patch_size > _FINEST and patch_size < factor:
        patch_size *= 2
    widths = [width]
    while patch_size * 2 ** (len(widths) - 1) < factor:
        widths.append(min(2 * widths[-1], 4 * width))
    return patch_size, widths


def encoder(channels: int, outputs: int, patch_size: int, widths: list[int], depth: int) -> nn.Sequential:
    """(B, channels, H, W) to maps (B, outputs, H / factor, W / factor)."""
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(patch_size),
        nn.Conv2d(channels * patch_size**2, widths[0], 3, padding=1),
    ]
    for level, wide in enumerate(widths):
        if level:
            layers += [nn.Conv2d(widths[level - 1], wide, 2, stride=2)]
        layers += [ResidualBlock(wide) for _ in range(depth)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1))


def decoder(channels: int, inputs: int, patch_size: int, widths: list[int], depth: int) -> nn.Sequential:
    """Maps (B, inputs, H / factor, W / factor) to (B, channels, H, W); the output is linear."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1)]
    for level, wide in reversed(list(enumerate(widths))):
        layers += [ResidualBlock(wide) for _ in range(depth)]
        if level:
            layers += [nn.Conv2d(wide, 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
    last = nn.Conv2d(widths[0], channels * patch_size**2, 3, padding=1)
    return nn.Sequential(*layers, nn.ReLU(), last, nn.PixelShuffle(patch_size))


@dataclass(frozen=True)
class CodecLoss:
    """The terms of the loss beside the reconstruction error.

    Attributes:
        kl_weight: weight of the mean KL of a latent, in nats.
        perceptual_weight: weight of LPIPS, whose network is fetched when training starts; 0 leaves it out.
        adversarial_weight: weight of the patch discriminator's loss; 0 leaves it out.
        adversarial_start: fraction of training after which it counts.
    """

    kl_weight: Weight = 1e-3
    perceptual_weight: Weight = 0.0
    adversarial_weight: Weight = 0.0
    adversarial_start: Fraction = 0.5


class Realism(Protocol):
    """Weights of the terms that judge more than single pixels, see ``CodecLoss``."""

    @property
    def perceptual_weight(self) -> float: ...
    @property
    def adversarial_weight(self) -> float: ...
    @property
    def adversarial_start(self) -> float: ...


def realism_loss(
    terms: Realism, discriminator: nn.Module | None, batch: Batch, reconstructed: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of LPIPS and the generator's adversarial loss, and both terms as metrics."""
    x = batch["x"]
    loss, metrics = torch.zeros((), device=x.device), dict[str, Tensor]()
    if terms.perceptual_weight:
        metrics["perceptual"] = lpips(x.device)(reconstructed, x).mean()
        loss = loss + terms.perceptual_weight * metrics["perceptual"]
    if discriminator is not None:
        metrics["adversarial"] = -discriminator(reconstructed).float().mean()
        counts = (batch.progress >= terms.adversarial_start).float()  # a tensor: no wait for the device
        loss = loss + terms.adversarial_weight * counts * metrics["adversarial"]
    return loss, metrics


def patch_d_loss(discriminator: nn.Module | None, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
    """The hinge loss: logits of real patches above 1, of ``reconstructed`` ones below -1."""
    assert discriminator is not None
    real, fake = (discriminator(x).float() for x in (batch["x"], outputs["reconstructed"]))
    loss = GAN_LOSSES["hinge"].d_loss(real, fake).mean() / 2
    return {"loss": loss, "real_logit": real.mean(), "fake_logit": fake.mean()}


class AutoencoderKL(nn.Module):
    """q(z|x) = N(mean, exp(log_var)) over maps of latents, with a small KL to N(0, I); no generator.

    Args:
        encoder: images to mean and log-variance (B, 2 C', H / factor, W / factor).
        decoder: latents to images.
        discriminator: images to logits of overlapping patches; None without an adversarial loss.
        output: what it makes.
        latent_shape: (C', H / factor, W / factor).
        reconstruction: "l1" mean |x - x'| or "mse" mean (x - x')^2.
        terms: weights of the loss.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        discriminator: nn.Module | None,
        output: Output,
        latent_shape: tuple[int, ...],
        reconstruction: Literal["l1", "mse"] = "l1",
        terms: CodecLoss = CodecLoss(),
    ):
        super().__init__()
        self.encoder, self.decoder, self.discriminator = encoder, decoder, discriminator
        self.output, self.latent_shape, self.terms = output, latent_shape, terms
        self.error = F.l1_loss if reconstruction == "l1" else F.mse_loss

    @property
    def card(self) -> Card:
        return Card(
            output=self.output,
            latents={"z": Space(self.latent_shape, encode="mean")},
            weights=("vgg16", "lpips-vgg") if self.terms.perceptual_weight else (),
        )

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        phases = [Phase("codec", adamw(parameters, lr, weight_decay), self.loss)]
        if self.discriminator is not None:
            optimizer = adamw(self.discriminator.parameters(), lr / 2, betas=(0.5, 0.99))
            phases.insert(0, Phase("D", optimizer, self.d_loss, graph=False))
        return [Stage(phases, forward=self.reconstruct)]

    def loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Reconstruction + KL + LPIPS + adversarial loss, each with its weight; ``kl`` in nats per image."""
        x, reconstructed, kl, terms = batch["x"], outputs["reconstructed"], outputs["kl"], self.terms
        error = self.error(reconstructed, x)
        loss = error + terms.kl_weight * kl.mean()
        metrics = {"reconstruction": error, "kl": kl.flatten(1).sum(1).mean()}
        weighted, more = realism_loss(terms, self.discriminator, batch, reconstructed)
        return {"loss": loss + weighted, **metrics, **more}

    def d_loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """See ``patch_d_loss``."""
        return patch_d_loss(self.discriminator, batch, outputs)

    def reconstruct(self, batch: Batch) -> Outputs:
        """``reconstructed``: x decoded from a draw of q(z|x), (B, C, H, W); ``kl``: the KL of each latent in nats."""
        mean, log_var = self.posterior(batch["x"])
        z = mean + (log_var / 2).exp() * batch.rng(*self.latent_shape).to(mean)
        return {"reconstructed": self.decoder(z).to(z.dtype), "kl": kl_to_standard_normal(mean, log_var)}

    # Verbs. There is no ``sample``: so little KL leaves N(0, I) mostly empty of images

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, latent, H / factor, W / factor)."""
        mean, log_var = self.encoder(image).to(image.dtype).chunk(2, 1)
        return mean, log_var.clamp(-14, 8)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to the posterior's mean (B, latent, H / factor, W / factor)."""
        return self.posterior(image)[0]

    def features(self, image: Tensor) -> Tensor:
        """The encoder's output (B, 2 latent, H / factor, W / factor)."""
        return self.encoder(image)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, latent, H / factor, W / factor) to images (B, C, H, W)."""
        return self.decoder(latent).to(latent.dtype).clamp(-1, 1)


def autoencoder_kl(
    shape: Shape,
    channels: Channels,
    latent: Count = 4,
    factor: Literal[2, 4, 8, 16] = 4,
    width: Count = 64,
    depth: Annotated[int, Range(0)] = 1,
    reconstruction: Literal["l1", "mse"] = "l1",
    terms: CodecLoss = CodecLoss(),
) -> AutoencoderKL:
    """A codec for latent diffusion: maps of latents, with a small KL to N(0, I).

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        latent: channels of the latent maps.
        factor: pixels of a side that become one latent: 2, 4, 8 or 16.
        width: channels of the finest level.
        depth: residual blocks a level.
        reconstruction: "l1" mean |x - x'| or "mse" mean (x - x')^2.
    """
    size = shapes.sides(shape)
    if terms.perceptual_weight and min(size) < 16:
        raise UsageError(f"LPIPS' network halves images four times; {shapes.named(size)} pixels are too few.")
    patch_size, widths = levels(size, factor, width)
    down = encoder(channels, 2 * latent, patch_size, widths, depth)
    up = decoder(channels, latent, patch_size, widths, depth)
    discriminator = patch_discriminator(size, channels, width) if terms.adversarial_weight else None
    latent_shape = (latent, *shapes.halved(size, factor))
    return AutoencoderKL(down, up, discriminator, Output("image", size, channels), latent_shape, reconstruction, terms)
