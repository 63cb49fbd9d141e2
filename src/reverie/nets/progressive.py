"""Networks that grow: each level doubles the side, and is faded in.

Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018,
arXiv:1710.10196.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.stylegan import Conv, GroupDeviation, Linear, leaky, normalised, widths_of


def larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def smaller(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


class GrowingGenerator(nn.Module):
    """z (B, latent) to pictures of side 4 * 2^level."""

    blocks: Any

    def __init__(self, size: int, channels: int, latent: int, width: int):
        super().__init__()
        widths = widths_of(size, width, 1)
        self.into = Linear(latent, 16 * widths[0])
        self.first = Conv(widths[0], widths[0])
        self.blocks = nn.ModuleList(nn.ModuleList([Conv(i, o), Conv(o, o)]) for i, o in pairwise(widths))
        self.pixels = nn.ModuleList(Conv(wide, channels, 1) for wide in widths)

    def forward(self, z: Tensor, level: int, share: Tensor | float = 1.0) -> Tensor:
        """``share`` of the picture comes from this level, the rest from the one before, made larger."""
        x = self.into(normalised(z)).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # channels_last
        x = normalised(leaky(self.first(normalised(leaky(x)))))
        before = x
        for block in self.blocks[:level]:
            before, x = x, larger(x)
            for conv in block:
                x = normalised(leaky(conv(x)))
        made = self.pixels[level](x)
        return torch.lerp(larger(self.pixels[level - 1](before)), made, _weight(share, made)) if level else made


class GrowingFeatures(nn.Module):
    """Pictures of side 4 * 2^level to features (B, outputs)."""

    blocks: Any

    def __init__(self, size: int, channels: int, width: int):
        super().__init__()
        widths = widths_of(size, width, 1)
        self.pixels = nn.ModuleList(Conv(channels, wide, 1) for wide in widths)
        self.blocks = nn.ModuleList(nn.ModuleList([Conv(o, o), Conv(o, i)]) for i, o in pairwise(widths))
        self.group, self.last = GroupDeviation(), Conv(widths[0] + 1, widths[0])
        self.outputs = widths[0]
        self.out = Linear(16 * widths[0], widths[0])

    def forward(self, image: Tensor, level: int, share: Tensor | float = 1.0, sets: int = 1) -> Tensor:
        x = leaky(self.pixels[level](image))
        for place in reversed(range(level)):
            for conv in self.blocks[place]:
                x = leaky(conv(x))
            x = smaller(x)
            if place == level - 1:
                x = torch.lerp(leaky(self.pixels[place](smaller(image))), x, _weight(share, x))
        x = leaky(self.last(self.group(x, sets)))
        return leaky(self.out(x.permute(0, 2, 3, 1).flatten(1)))  # in channels_last order: no copy


def _weight(share: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(share, dtype=like.dtype, device=like.device).expand_as(like)
