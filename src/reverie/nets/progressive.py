"""Progressively growing networks: each level doubles the side and is faded in.

Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018,
arXiv:1710.10196.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.stylegan import EqualizedConv2d, EqualizedLinear, MinibatchStdDev, leaky_relu, pixel_norm, widths_of


def upsample2d(x: Tensor) -> Tensor:
    """Twice the side, nearest neighbours: (B, C, H, W) to (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downsample2d(x: Tensor) -> Tensor:
    """Half the side, means of 2x2: (B, C, H, W) to (B, C, H/2, W/2)."""
    return F.avg_pool2d(x, 2)


class GrowingGenerator(nn.Module):
    """z (B, latent) to images of side 4 * 2^level."""

    blocks: Any

    def __init__(self, size: int, channels: int, latent: int, width: int):
        super().__init__()
        widths = widths_of(size, width, 1)
        self.stem = EqualizedLinear(latent, 16 * widths[0])
        self.conv1 = EqualizedConv2d(widths[0], widths[0])
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualizedConv2d(i, o), EqualizedConv2d(o, o)]) for i, o in pairwise(widths)
        )
        self.to_image = nn.ModuleList(EqualizedConv2d(wide, channels, 1) for wide in widths)

    def forward(self, z: Tensor, level: int, fade_alpha: Tensor | float = 1.0) -> Tensor:
        """Blends this level's image (weight ``fade_alpha``) with the upsampled image of the level before."""
        x = self.stem(pixel_norm(z)).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2)  # channels_last
        x = pixel_norm(leaky_relu(self.conv1(pixel_norm(leaky_relu(x)))))
        before = x
        for block in self.blocks[:level]:
            before, x = x, upsample2d(x)
            for conv in block:
                x = pixel_norm(leaky_relu(conv(x)))
        image = self.to_image[level](x)
        if not level:
            return image
        coarse = upsample2d(self.to_image[level - 1](before)).to(image)  # float32 under autocast on a GPU
        return torch.lerp(coarse, image, _weight(fade_alpha, image))


class GrowingFeatures(nn.Module):
    """Images of side 4 * 2^level to features (B, outputs)."""

    blocks: Any

    def __init__(self, size: int, channels: int, width: int):
        super().__init__()
        widths = widths_of(size, width, 1)
        self.from_image = nn.ModuleList(EqualizedConv2d(channels, wide, 1) for wide in widths)
        self.blocks = nn.ModuleList(
            nn.ModuleList([EqualizedConv2d(o, o), EqualizedConv2d(o, i)]) for i, o in pairwise(widths)
        )
        self.stddev, self.last_conv = MinibatchStdDev(), EqualizedConv2d(widths[0] + 1, widths[0])
        self.outputs = widths[0]
        self.fc = EqualizedLinear(16 * widths[0], widths[0])

    def forward(self, image: Tensor, level: int, fade_alpha: Tensor | float = 1.0, sets: int = 1) -> Tensor:
        x = leaky_relu(self.from_image[level](image))
        for index in reversed(range(level)):
            for conv in self.blocks[index]:
                x = leaky_relu(conv(x))
            x = downsample2d(x)
            if index == level - 1:
                coarse = leaky_relu(self.from_image[index](downsample2d(image))).to(x)
                x = torch.lerp(coarse, x, _weight(fade_alpha, x))
        x = leaky_relu(self.last_conv(self.stddev(x, sets)))
        return leaky_relu(self.fc(x.permute(0, 2, 3, 1).flatten(1)))  # in channels_last order: no copy


def _weight(fade_alpha: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(fade_alpha, dtype=like.dtype, device=like.device).expand_as(like)
