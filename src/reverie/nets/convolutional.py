"""A convolutional encoder and its mirror, sized by resolution, shaped for speed.

The first layer folds blocks of pixels into channels (pixel unshuffle), so that no convolution runs at full resolution,
where a CPU's or GPU's time goes into moving bytes. There are no normalisation layers: residual branches that start at
zero (Zhang, Dauphin and Ma, "Fixup initialization", ICLR 2019) train as well at these depths, cost nothing, and keep
every picture independent of its batch.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.shapes import Shape, check_sides, divides, halved


class Residual(nn.Module):
    """x + conv(act(conv(x))), the identity at the start of training."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


def levels(shape: Shape, width: int) -> tuple[int, list[tuple[int, tuple[int, int]]]]:
    """The fold of the first layer, then (channels, (height, width)) of each level from fine to coarse.

    Raises:
        UsageError: a side that cannot be halved twice, or outside 8 ... 512.
    """
    check_sides(shape, "The convolutional network", 4, 8, 512)
    fold = 2
    while max(shape) // fold > 32 and divides(2 * fold, shape):
        fold *= 2
    (height, wide), channels = halved(shape, fold), width
    plan = [(channels, (height, wide))]
    while divides(2, (height, wide)) and min(height, wide) > 4:
        (height, wide), channels = halved((height, wide)), min(2 * channels, 4 * width)
        plan.append((channels, (height, wide)))
    return fold, plan


class Encoder(nn.Module):
    """(B, channels, *shape) to features (B, outputs)."""

    def __init__(self, shape: Shape, channels: int, outputs: int, width: int = 64, depth: int = 1):
        super().__init__()
        fold, plan = levels(shape, width)
        layers: list[nn.Module] = [nn.PixelUnshuffle(fold), nn.Conv2d(channels * fold**2, width, 3, padding=1)]
        for index, (wide, _) in enumerate(plan):
            if index:
                layers += [nn.Conv2d(plan[index - 1][0], wide, 2, stride=2)]
            layers += [Residual(wide) for _ in range(depth)]
        self.layers = nn.Sequential(*layers, nn.ReLU())
        self.out = nn.Linear(plan[-1][0] * math.prod(plan[-1][1]), outputs)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.layers(image)  # (B, coarse, h, w)
        return self.out(maps.permute(0, 2, 3, 1).flatten(1))  # in channels_last order: no copy


class Decoder(nn.Module):
    """Features (B, inputs) to (B, channels, *shape); the output is linear."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int = 64, depth: int = 1):
        super().__init__()
        fold, plan = levels(shape, width)
        coarse, sides = plan[-1]
        self.into = nn.Linear(inputs, coarse * math.prod(sides))
        self.start = (*sides, coarse)
        layers: list[nn.Module] = []
        for index, (wide, _) in reversed(list(enumerate(plan))):
            layers += [Residual(wide) for _ in range(depth)]
            if index:
                layers += [nn.Conv2d(wide, 4 * plan[index - 1][0], 1), nn.PixelShuffle(2)]
        layers += [nn.ReLU(), nn.Conv2d(width, channels * fold**2, 3, padding=1), nn.PixelShuffle(fold)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.into(features).unflatten(1, self.start).permute(0, 3, 1, 2)  # (B, coarse, h, w), channels_last
        return self.layers(maps)
