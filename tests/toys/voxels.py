"""A GAN of volumes (Wu et al., "3D-GAN", NeurIPS 2016, arXiv:1610.07584), with lazy R1 (arXiv:1801.04406)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Shape
from reverie.core.batch import Batch
from reverie.core.card import Output, Space
from reverie.optim.phase import adamw


class VoxelGAN(nn.Module):
    """Non-saturating GAN of (B, C, D, H, W).

    Args:
        shape: (D, H, W), each a multiple of 4.
        channels: of the volumes.
        latent: numbers in z, which is N(0, I).
        width: channels of the finest level.
        r1: weight of half the squared gradient norm of the discriminator at real volumes.
    """

    def __init__(
        self,
        shape: Shape,
        channels: Channels,
        classes: Classes = 0,
        latent: int = 32,
        width: int = 16,
        r1: float = 1.0,
    ):
        super().__init__()
        self.shape, self.channels, self.latent, self.r1 = tuple(shape), channels, latent, r1
        coarse = tuple(side // 4 for side in shape)
        features = 2 * width * coarse[0] * coarse[1] * coarse[2]
        self.generator = nn.Sequential(
            nn.Linear(latent, features),
            nn.Unflatten(1, (2 * width, *coarse)),
            nn.ReLU(),
            nn.ConvTranspose3d(2 * width, width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose3d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv3d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(features, 1),
        )

    @property
    def card(self) -> Card:
        output = Output("volume", self.shape, self.channels)
        return Card(output=output, latents={"z": Space((self.latent,), "normal")})

    def stages(self, lr: float = 2e-4) -> list[Stage]:
        d = adamw(self.discriminator.parameters(), lr, betas=(0.5, 0.99))
        g = adamw(self.generator.parameters(), lr, betas=(0.5, 0.99))
        phases = [
            Phase("D", d, self.d_loss, graph=False),
            Phase("D-r1", d, self.r1_loss, every=4, scale=4, graph=False, eager=True),
            Phase("G", g, self.g_loss),
        ]
        return [Stage(phases, forward=self.generate)]

    def generate(self, batch: Batch) -> dict[str, Tensor]:
        return {"fakes": self.generator(batch.rng(self.latent))}

    def d_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        real, fake = self.discriminator(torch.cat([batch["x"], outputs["fakes"]])).float().chunk(2)
        loss = (F.softplus(-real) + F.softplus(fake)).mean()
        return {"loss": loss, "real": real.mean(), "fake": fake.mean()}

    def r1_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        real = batch["x"].detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(self.discriminator(real).sum(), real, create_graph=True)
        grad_norm_sq = grad.float().square().flatten(1).sum(1).mean()
        return {"loss": self.r1 / 2 * grad_norm_sq, "grad_norm_sq": grad_norm_sq}

    def g_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        return {"loss": F.softplus(-self.discriminator(outputs["fakes"]).float()).mean()}

    # Verbs

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """z (B, latent) to volumes (B, C, D, H, W)."""
        return self.generator(latent).float()

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        return self.decode(noise(self.latent))
