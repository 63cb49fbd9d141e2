"""The multi-scale architecture of image flows (Dinh et al., arXiv:1605.08803, section 3.6) with one packed latent.

Each level halves the map by moving 2x2 pixels into channels, transforms it, and splits half of the channels off. These
are normalised given the rest, as Glow's prior of a level does, so that z is of N(0, I) in all dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def squeeze(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, H / 2, W / 2, 4 C): the even diagonal of each 2x2 first, then the odd one.

    So halves of the channels are the two colours of a checkerboard.
    """
    x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h, i, w, j, C)
    corners = [x[:, :, i, :, j] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
    return torch.cat(corners, -1)


def unsqueeze(y: Tensor) -> Tensor:
    """The inverse of ``squeeze``."""
    first, fourth, second, third = y.chunk(4, -1)
    rows = [torch.stack(pair, 3).flatten(2, 3) for pair in ((first, second), (third, fourth))]
    return torch.stack(rows, 2).flatten(1, 2)


class Steps(nn.Module):
    """Layers one after the other, see ``probability.transforms``."""

    def __init__(self, layers: Sequence[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x, label, context)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x of y."""
        for layer in reversed(self.layers):
            y = layer.inverse(y, label, context)  # type: ignore[operator]
        return y


class MultiScale(nn.Module):
    """Images (B, C, H, W) to z (B, C H W), coarse latents first.

    Args:
        shape: (C, H, W) of the images.
        levels: of each level the layers on its map (B, H / 2, W / 2, 4 C); all but the last level also have the
            coupling of the channels that leave there, given the first half.
        preprocess: of the images, before the first level.
    """

    def __init__(self, shape: Sequence[int], levels: Sequence[nn.Module], preprocess: nn.Module | None = None):
        super().__init__()
        self.shape, self.preprocess = tuple(shape), preprocess
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        if self.preprocess is not None:
            x, total = self.preprocess(x)
        x, latents = x.permute(0, 2, 3, 1), []
        for depth, level in enumerate(self.levels):
            x, log_det = level(squeeze(x), label)
            total = total + log_det
            if depth < len(self.levels) - 1:
                x, z = x.chunk(2, -1)
                latents.append(z.flatten(1))
        return torch.cat([x.flatten(1), *reversed(latents)], 1), total

    def inverse(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images of z."""
        shapes, last = self._shapes(), len(self.levels) - 1
        parts = z.split([math.prod(shape) for shape in reversed(shapes)], 1)
        x = parts[0].unflatten(1, shapes[-1])
        for depth in range(last, -1, -1):
            if depth < last:
                x = torch.cat([x, parts[last - depth].unflatten(1, shapes[depth])], -1)
            x = unsqueeze(self.levels[depth].inverse(x, label))  # type: ignore[operator]
        x = x.permute(0, 3, 1, 2)
        return x if self.preprocess is None else self.preprocess.inverse(x)  # type: ignore[operator]

    def _shapes(self) -> list[tuple[int, int, int]]:
        """(H, W, C) of the latents that leave at each level, from fine to coarse."""
        (channels, height, width), shapes = self.shape, []
        for depth in range(len(self.levels)):
            height, width, channels = height // 2, width // 2, 4 * channels
            channels = channels if depth == len(self.levels) - 1 else channels // 2
            shapes.append((height, width, channels))
        return shapes
