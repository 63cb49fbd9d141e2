"""A linear autoencoder of samples of any medium and shape."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reverie import Noise, Phase, Stage
from reverie.core.annotations import Channels, Shape
from reverie.core.batch import Batch
from reverie.optim.phase import adamw


class Linear(nn.Module):
    """Mean squared error; samples decode N(0, I).

    Args:
        shape: extents of a sample, however many.
        channels: of the samples.
        latent: dimension of the code.
    """

    def __init__(self, shape: Shape, channels: Channels, latent: int = 3):
        super().__init__()
        self.latent, dimensions = latent, channels * math.prod(shape)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(dimensions, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, dimensions), nn.Unflatten(1, (channels, *shape)))

    def stages(self, lr: float = 1e-2) -> list[Stage]:
        return [Stage([Phase("mse", adamw(self.parameters(), lr), self.loss)])]

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        return {"loss": (self.decode(self.encode(batch["x"])) - batch["x"]).square().mean()}

    # Verbs

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, *shape) to (B, latent)."""
        return self.encoder(x).float()

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) to (B, C, *shape) in [-1, 1]."""
        return torch.tanh(self.decoder(latent).float())

    def sample(self, noise: Noise) -> Tensor:
        return self.decode(noise(self.latent))
