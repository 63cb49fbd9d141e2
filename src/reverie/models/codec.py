"""A codec of pictures: small maps of latents, for a diffusion model to work on, and the way back.

Rombach et al., "High-resolution image synthesis with latent diffusion models", CVPR 2022, arXiv:2112.10752.
Patch discriminator: Isola et al., CVPR 2017, arXiv:1611.07004. Hinge loss: Lim and Ye, arXiv:1705.02894.
Deviations are listed in docs/systems/latent-diffusion.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import weights
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.errors import UsageError
from reverie.core.layout import place
from reverie.models.vae import kl_to_standard_normal
from reverie.nets.adversarial import patch_judge
from reverie.nets.convolutional import Residual
from reverie.nets.lpips import LPIPS
from reverie.nets.shapes import Shape, Sides, divides, halved, named, sides
from reverie.nets.vgg import VGG16
from reverie.optim.phase import Outputs, Phase, Stage, adamw

Distance = Callable[[Tensor, Tensor], Tensor]  # pictures (B, C, H, W), twice, to (B,)
_FINEST = 64  # pixels are folded until maps have at most this side, as far as the factor allows


def plan(shape: Shape, factor: int, width: int) -> tuple[int, list[int]]:
    """The fold of the first layer, and the channels of each level from fine to coarse.

    Raises:
        UsageError: a factor other than 2, 4, 8 or 16, or one that does not divide both sides.
    """
    if factor not in (2, 4, 8, 16):
        raise UsageError(f"factor is 2, 4, 8 or 16 pixels a latent's side, not {factor}.")
    if not divides(factor, shape) or min(shape) < 2 * factor:
        near = [max(2, round(side / factor)) * factor for side in shape]
        raise UsageError(
            f"A factor of {factor} needs a size that it divides; {named(shape)} is not. Try --size {named(near)}."
        )
    fold = 2
    while max(shape) // fold > _FINEST and fold < factor:
        fold *= 2
    widths = [width]
    while fold * 2 ** (len(widths) - 1) < factor:
        widths.append(min(2 * widths[-1], 4 * width))
    return fold, widths


def encoder(channels: int, outputs: int, fold: int, widths: list[int], depth: int) -> nn.Sequential:
    """(B, channels, H, W) to maps (B, outputs, H / factor, W / factor)."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(fold), nn.Conv2d(channels * fold**2, widths[0], 3, padding=1)]
    for level, wide in enumerate(widths):
        if level:
            layers += [nn.Conv2d(widths[level - 1], wide, 2, stride=2)]
        layers += [Residual(wide) for _ in range(depth)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(widths[-1], outputs, 3, padding=1))


def decoder(channels: int, inputs: int, fold: int, widths: list[int], depth: int) -> nn.Sequential:
    """Maps (B, inputs, H / factor, W / factor) to (B, channels, H, W); the output is linear."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, widths[-1], 3, padding=1)]
    for level, wide in reversed(list(enumerate(widths))):
        layers += [Residual(wide) for _ in range(depth)]
        if level:
            layers += [nn.Conv2d(wide, 4 * widths[level - 1], 1), nn.PixelShuffle(2)]
    last = nn.Conv2d(widths[0], channels * fold**2, 3, padding=1)
    return nn.Sequential(*layers, nn.ReLU(), last, nn.PixelShuffle(fold))


@cache
def perceptual_distance(device: torch.device) -> Distance:
    """LPIPS with its pretrained weights, fetched once. Raises ReverieError where no source gives them.

    No sub-module of a codec: its 15 million frozen weights would travel in every checkpoint."""
    vgg = VGG16()
    vgg.load_state_dict(weights.load("vgg16"))
    return place(LPIPS(vgg, weights.load("lpips-vgg")).eval(), device)


class AutoencoderKL(nn.Module):
    """q(z|x) = N(mean, exp(log_var)) over maps of latents, held near N(0, I) by a whiff of KL; no generator.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        latent: channels of the latent maps.
        factor: pixels of a side that become one latent: 2, 4, 8 or 16.
        width: channels of the finest level.
        depth: residual blocks a level.
        reconstruction: "l1" mean |x - x'| or "mse" mean (x - x')^2.
        kl: weight of the mean KL of a latent, in nats.
        perceptual: weight of LPIPS, whose network is fetched when training starts; 0 leaves it out.
        adversarial: weight of the patch discriminator's opinion; 0 leaves it out.
        adversarial_start: fraction of training after which its opinion counts.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        latent: int = 4,
        factor: int = 4,
        width: int = 64,
        depth: int = 1,
        reconstruction: Literal["l1", "mse"] = "l1",
        kl: float = 1e-3,
        perceptual: float = 0.0,
        adversarial: float = 0.0,
        adversarial_start: float = 0.5,
    ):
        super().__init__()
        if reconstruction not in ("l1", "mse"):
            raise UsageError(f"reconstruction is 'l1' or 'mse', not {reconstruction!r}.")
        if latent < 1 or min(kl, perceptual, adversarial) < 0 or not 0 <= adversarial_start <= 1:
            raise UsageError(
                "latent >= 1, kl, perceptual and adversarial >= 0 and 0 <= adversarial_start <= 1 are needed."
            )
        self.shape, self.channels = sides(shape), channels
        if perceptual and min(self.shape) < 16:
            raise UsageError(f"LPIPS' network halves images four times; {named(self.shape)} pixels are too few.")
        fold, widths = plan(self.shape, factor, width)
        self.latent_shape = (latent, *halved(self.shape, factor))
        self.kind, self.kl, self.perceptual = reconstruction, kl, perceptual
        self.adversarial, self.adversarial_start = adversarial, adversarial_start
        self.encoder = encoder(channels, 2 * latent, fold, widths, depth)
        self.decoder = decoder(channels, latent, fold, widths, depth)
        self.discriminator = patch_judge(self.shape, channels, width) if adversarial else None

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape, self.channels),
            latents={"z": Space(self.latent_shape, encode="mean")},
            weights=("vgg16", "lpips-vgg") if self.perceptual else (),
        )

    # Learning

    def stages(self, lr: float = 2e-3, weight_decay: float = 0.0) -> list[Stage]:
        own = [*self.encoder.parameters(), *self.decoder.parameters()]
        phases = [Phase("codec", adamw(own, lr, weight_decay), self.loss)]
        if self.discriminator is not None:
            optimizer = adamw(self.discriminator.parameters(), lr / 2, betas=(0.5, 0.99))
            phases.insert(0, Phase("D", optimizer, self.discriminator_loss, graph=False))
        return [Stage(phases, forward=self.rebuild)]

    def loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """Reconstruction + kl KL + perceptual LPIPS - adversarial D(x'); ``kl`` in nats per image."""
        x, rebuilt, kl = batch["x"], outputs["rebuilt"], outputs["kl"]
        error = F.l1_loss(rebuilt, x) if self.kind == "l1" else F.mse_loss(rebuilt, x)
        loss = error + self.kl * kl.mean()
        metrics = {"reconstruction": error, "kl": kl.flatten(1).sum(1).mean()}
        if self.perceptual:
            metrics["perceptual"] = perceptual_distance(x.device)(rebuilt, x).mean()
            loss = loss + self.perceptual * metrics["perceptual"]
        if self.discriminator is not None:
            metrics["adversarial"] = -self.discriminator(rebuilt).float().mean()
            counts = (batch.progress >= self.adversarial_start).float()  # a tensor: no wait for the device
            loss = loss + self.adversarial * counts * metrics["adversarial"]
        return {"loss": loss, **metrics}

    def discriminator_loss(self, batch: Batch, outputs: Outputs) -> dict[str, Tensor]:
        """The hinge loss: real patches above 1, rebuilt ones below -1."""
        assert self.discriminator is not None
        real, fake = self.discriminator(batch["x"]).float(), self.discriminator(outputs["rebuilt"]).float()
        loss = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        return {"loss": loss, "real": real.mean(), "fake": fake.mean()}

    def rebuild(self, batch: Batch) -> Outputs:
        """``rebuilt``: x decoded from a draw of q(z|x), (B, C, H, W); ``kl``: the KL of each latent in nats."""
        mean, log_var = self.posterior(batch["x"])
        z = mean + (log_var / 2).exp() * batch.rng(*self.latent_shape).to(mean)
        return {"rebuilt": self.decoder(z).to(z.dtype), "kl": kl_to_standard_normal(mean, log_var)}

    # Verbs. There is no ``sample``: so little KL leaves N(0, I) mostly empty of pictures

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, latent, H / factor, W / factor)."""
        mean, log_var = self.encoder(image).to(image.dtype).chunk(2, 1)
        return mean, log_var.clamp(-14, 8)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to the posterior's mean (B, latent, H / factor, W / factor)."""
        return self.posterior(image)[0]

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, latent, H / factor, W / factor) to pictures (B, C, H, W)."""
        return self.decoder(latent).to(latent.dtype).clamp(-1, 1)
