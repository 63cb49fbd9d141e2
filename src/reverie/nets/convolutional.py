"""A convolutional encoder and a mirrored decoder for any resolution, designed for speed.

The first layer packs patches of pixels into channels (pixel unshuffle), so that no convolution runs at full resolution,
where memory bandwidth limits CPUs and GPUs. There are no normalisation layers: residual branches initialised at zero
(Zhang, Dauphin and Ma, "Fixup initialization", ICLR 2019) train as well at these depths, cost nothing, and keep images
independent of the batch.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.shapes import Shape, check_sides, divides, halved


class ResidualBlock(nn.Module):
    """x + conv(act(conv(x))), the identity at the start of training."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def levels(shape: Shape, width: int) -> tuple[int, list[tuple[int, tuple[int, int]]]]:
    """The patch_size of the first layer, and (channels, (height, width)) of each level from fine to coarse.

    Raises:
        UsageError: a side that cannot be halved twice, or outside 8 ... 512.
    """
    check_sides(shape, "The convolutional network", 4, 8, 512)
    patch_size = 2
    while max(shape) // patch_size > 32 and divides(2 * patch_size, shape):
        patch_size *= 2
    (height, wide), channels = halved(shape, patch_size), width
    plan = [(channels, (height, wide))]
    while divides(2, (height, wide)) and min(height, wide) > 4:
        (height, wide), channels = halved((height, wide)), min(2 * channels, 4 * width)
        plan.append((channels, (height, wide)))
    return patch_size, plan


class Encoder(nn.Module):
    """(B, channels, *shape) to features (B, outputs)."""

    def __init__(self, shape: Shape, channels: int, outputs: int, width: int = 64, depth: int = 1):
        super().__init__()
        patch_size, plan = levels(shape, width)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(patch_size),
            nn.Conv2d(channels * patch_size**2, width, 3, padding=1),
        ]
        for index, (wide, _) in enumerate(plan):
            if index:
                layers += [nn.Conv2d(plan[index - 1][0], wide, 2, stride=2)]
            layers += [ResidualBlock(wide) for _ in range(depth)]
        self.layers = nn.Sequential(*layers, nn.ReLU())
        self.out = nn.Linear(plan[-1][0] * math.prod(plan[-1][1]), outputs)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.layers(image)  # (B, coarse, h, w)
        return self.out(maps.permute(0, 2, 3, 1).flatten(1))  # in channels_last order: no copy


class Decoder(nn.Module):
    """Features (B, inputs) to (B, channels, *shape); the output is linear."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int = 64, depth: int = 1):
        super().__init__()
        patch_size, plan = levels(shape, width)
        coarse, sides = plan[-1]
        self.stem = nn.Linear(inputs, coarse * math.prod(sides))
        self.start = (*sides, coarse)
        layers: list[nn.Module] = []
        for index, (wide, _) in reversed(list(enumerate(plan))):
            layers += [ResidualBlock(wide) for _ in range(depth)]
            if index:
                layers += [nn.Conv2d(wide, 4 * plan[index - 1][0], 1), nn.PixelShuffle(2)]
        layers += [nn.ReLU(), nn.Conv2d(width, channels * patch_size**2, 3, padding=1), nn.PixelShuffle(patch_size)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.stem(features).unflatten(1, self.start).permute(0, 3, 1, 2)  # (B, coarse, h, w), channels_last
        return self.layers(maps)
