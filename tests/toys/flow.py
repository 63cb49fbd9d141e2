"""RealNVP on flattened images (Dinh et al., ICLR 2017, arXiv:1605.08803), with the data-dependent start of ActNorm
(Kingma and Dhariwal, "Glow", NeurIPS 2018, arXiv:1807.03039)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Side
from reverie.core.batch import Batch
from reverie.core.card import Likelihood, Output, Space
from reverie.optim.phase import adamw

GREY = 1 / 127.5  # the distance of neighbouring 8-bit values


class ActNorm(nn.Module):
    """y = x exp(log_scale) + shift, feature by feature; ``fit`` makes y of mean 0 and variance 1."""

    def __init__(self, features: int):
        super().__init__()
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(features)) for _ in range(2))

    def fit(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, 0)
        std = std.clamp(min=GREY)
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean / std)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and the log-determinant of each row (B,)."""
        return x * self.log_scale.exp() + self.shift, self.log_scale.sum().expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        return (y - self.shift) * (-self.log_scale).exp()


class Coupling(nn.Module):
    """The second half of the features scaled and shifted by what the first half says; then the order is reversed."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.half = features // 2
        rest = features - self.half
        self.net = nn.Sequential(
            nn.Linear(self.half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2 * rest)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def terms(self, a: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.net(a).chunk(2, 1)
        return 2 * torch.tanh(log_scale / 2), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.tensor_split([self.half], 1)
        log_scale, shift = self.terms(a)
        return torch.cat([a, b * log_scale.exp() + shift], 1).flip(1), log_scale.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        a, b = y.flip(1).tensor_split([self.half], 1)
        log_scale, shift = self.terms(a)
        return torch.cat([a, (b - shift) * (-log_scale).exp()], 1)


class RealNVP(nn.Module):
    """An invertible network from images to N(0, I); 8-bit images are dequantised with uniform noise.

    Args:
        size, channels: of the images.
        width: of the coupling layers' networks.
        depth: coupling layers.
    """

    def __init__(self, size: Side, channels: Channels, classes: Classes = 0, width: int = 128, depth: int = 6):
        super().__init__()
        self.shape = (channels, size, size)
        features = math.prod(self.shape)
        self.latent_shape = (features,)
        pairs = [(ActNorm(features), Coupling(features, width)) for _ in range(depth)]
        self.layers = nn.ModuleList(layer for pair in pairs for layer in pair)

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape[1:], self.shape[0]),
            latents={"z": Space(self.latent_shape, "normal", "exact")},
            likelihoods=(Likelihood("log_prob", "bound", "8-bit", dequantised=True),),
        )

    def stages(self, lr: float = 1e-3) -> list[Stage]:
        nll = Phase("nll", adamw(self.parameters(), lr), self.loss)
        return [Stage([nll], prepare=self.normalise, precision="fp32")]

    def normalise(self, batches: Any, fresh: bool) -> None:
        """Every ActNorm sees normalised features of the first batch."""
        if not fresh:
            return
        batch = batches.global_batch(0)
        x = dequantised(batch["x"], batch.rng).flatten(1)
        for layer in self.layers:
            if isinstance(layer, ActNorm):
                layer.fit(x)
            x, _ = layer(x)

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """-log p per dimension."""
        nats = -self.log_density(dequantised(batch["x"], batch.rng)).mean()
        return {"loss": nats / self.latent_shape[0], "nll": nats}

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) of images (B, C, H, W), nats (B,)."""
        z, log_det = self.to_latent(x)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, D) and log |dz / dx| (B,)."""
        z, total = x.flatten(1), x.new_zeros(len(x))
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return z, total

    # Verbs

    def log_prob(self, batch: Batch) -> Tensor:
        """A bound of the log-probability of 8-bit images, nats (B,): E log p(x + u) + D log(bin), one draw of u."""
        return self.log_density(dequantised(batch["x"], batch.rng)) + self.latent_shape[0] * math.log(GREY)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to z (B, D), exactly."""
        return self.to_latent(image)[0]

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """z (B, D) to images (B, C, H, W)."""
        for layer in reversed(self.layers):
            latent = layer.inverse(latent)
        return latent.unflatten(1, self.shape).clamp(-1, 1)

    def sample(self, noise: Noise, temperature: float = 1.0, **condition: Any) -> Tensor:
        """Images (B, C, H, W).

        Args:
            temperature: standard deviation of z; below 1 more typical and less varied.
        """
        return self.decode(noise(*self.latent_shape).to(self.layers[0].shift) * temperature)


def dequantised(image: Tensor, rng: Noise) -> Tensor:
    """8-bit images spread evenly over their bins."""
    return image + GREY * rng.uniform(*image.shape[1:], low=-0.5, high=0.5).to(image)
