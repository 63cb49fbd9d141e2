"""Models and images to compress."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

import reverie as rv
from reverie.core.card import Card, Likelihood, Output
from reverie.models.autoregressive.codec import levels_of
from reverie.probability import sequential
from reverie.probability.sequential import Step


def perturbed(channels: int, seed: int = 0, **options):
    model = rv.build("codec", shape=(8, 8), channels=channels, width=24, head=16, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / max(8, parameter.shape[-1]))
    return model.requires_grad_(False)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(math.prod(shape)).integers(0, 256, shape).astype(np.uint8)


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    base = (100 + 60 * np.sin(y / 9) * np.cos(x / 7))[..., None] + 9 * np.arange(channels)
    return (base + np.random.default_rng(0).normal(0, 3, base.shape)).clip(0, 255).astype(np.uint8)


class Walk(nn.Module):
    """Levels of 4 x 4 grey images, each near the one before, in floating point."""

    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(9.0))

    @property
    def card(self):
        return Card(output=Output("image", (4, 4), 1), likelihoods=(Likelihood("log_prob", "exact", "8-bit"),))

    def log_prob(self, batch):
        return sequential.log_prob(self.conditionals(len(batch["x"])), levels_of(batch["x"]).long().flatten(1))

    def conditionals(self, rows):
        level = torch.full((rows,), 128)
        for place in range(16):
            distance = (torch.arange(256) - level[:, None]) / self.width.double()
            level = (yield Step(torch.tensor([place]), (-distance.abs()).exp()[:, None]))[:, 0]
