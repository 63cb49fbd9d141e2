"""A small model, options for a small run of it, and a plot of nothing: what the tests of runs have in common."""

from __future__ import annotations

import torch
from PIL import Image
from torch import nn

import reverie as rv
from reverie.media.origin import pillow_options

SMALL = {"batch_size": 16, "log_every": 1, "quiet": True, "precision": "fp32"}


class Staged(nn.Module):
    """Two layers, one after the other; its loss draws, so that resuming must repeat the draws. It samples."""

    transient = ("seen",)

    def __init__(self, size: rv.Side = 8, channels: rv.Channels = 1, width=4):
        super().__init__()
        self.a, self.b = nn.Linear(size * size, width), nn.Linear(width, size * size)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("scale", torch.ones(()))

    def loss(self, batch, outputs):
        x = batch["x"].flatten(1)
        return {"loss": (self.b(self.a(x + 0.1 * batch.rng(64))) - x).square().mean()}

    def stages(self, lr=0.01):
        return [
            rv.Stage([rv.Phase(n, torch.optim.Adam(m.parameters(), lr), self.loss)])
            for n, m in (("a", self.a), ("b", self.b))
        ]

    def sample(self, noise, **condition):
        return self.b(noise(self.b.in_features)).clamp(-1, 1).unflatten(1, (1, 8, 8))


def blank_plot(file, origin=None, **options):
    """What tests get for a plot: an image with the plot's origin."""
    more = options.get("pil_kwargs", {}) if origin is None else pillow_options(file, origin)
    Image.new("RGB", (8, 8)).save(file, "png", **more)
