"""Images of any size in an order in which many pixels are independent of one another.

A pixel depends on pixels to its left and on pixels above it, at most ``slope - 1`` columns to its right in the row
above. So all pixels (y, x) with equal x + slope * y, a front, are independent given the fronts before (compare Oord
et al., arXiv:1601.06759). Images are cut into tiles that know nothing of one another, and their fronts are joined.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reverie.probability.integer_logistic import Mixture

TILE = 256  # the side of a tile, pixels
GROUP = 1 << 20  # pixels that are coded together, at most, unless a tile has more
_TILES = 1 << 14  # tiles that are coded together, at most
_AT_ONCE = 1 << 13  # pixels whose distributions are computed together

Choose = Callable[..., np.ndarray]


class Portable(Protocol):
    """A density of the pixels of images of any size, in integers.

    Attributes:
        channels: of a pixel, coded in turn.
        slope: see above.
        margins: (above, left, right) pixels that a pixel may depend on.
    """

    channels: int
    slope: int
    margins: tuple[int, int, int]

    def context(self, canvas: Tensor, inside: Tensor, stride: int, at: Tensor) -> tuple[Tensor, ...]:
        """What the distributions of pixels ``at`` (n,) depend on.

        Args:
            canvas: (C, P) float32 levels, flat; a step down is ``stride``.
            inside: (P,) bool, where there is an image.
        """

    def mixture(self, context: tuple[Tensor, ...], values: Sequence[Tensor]) -> Mixture:
        """The distribution of the next channel, after the pixel's ``values`` (n,) of the channels before it."""


@dataclass(frozen=True)
class Fronts:
    """Consecutive fronts of a filled canvas.

    Attributes:
        at: (n,) where their pixels are.
        sizes: of each front.
        mixtures: a distribution of n levels for each channel.
        levels: (n,) of each channel.
    """

    at: Tensor
    sizes: np.ndarray
    mixtures: list[Mixture]
    levels: list[np.ndarray]


@dataclass
class Layout:
    """Tiles on one canvas.

    Attributes:
        canvas: (C, P) float32 levels; what is not known yet is 0.
        inside: (P,) bool.
        stride: of a row of the canvas.
        at: (N,) int64, where the pixels are, front after front.
        ends: of the fronts in ``at``.
        tiles: (image, top, left, height, width, first pixel of the canvas) of each.
    """

    canvas: Tensor
    inside: Tensor
    stride: int
    at: Tensor
    ends: list[int]
    tiles: list[tuple[int, int, int, int, int, int]]

    @classmethod
    def of(cls, tiles: Sequence[tuple[int, int, int, int, int]], density: Portable) -> Layout:
        """Of tiles (image, top, left, height, width)."""
        above, left, right = density.margins
        stride = max(tile[4] for tile in tiles) + max(left, right)  # the margin of a row is also that of the row before
        laid, parts, row = [], list[np.ndarray](), above
        for image, top, start, height, width in tiles:
            first = row * stride + max(left, right)
            laid.append((image, top, start, height, width, first))
            y, x = np.mgrid[:height, :width].reshape(2, -1)
            parts.append(np.stack([x + density.slope * y, first + y * stride + x]))
            row += height + above
        front, at = np.concatenate(parts, 1)
        order = np.argsort(front, kind="stable")
        ends = np.flatnonzero(np.diff(front[order], append=-1)) + 1
        canvas = torch.zeros(density.channels, row * stride + max(left, right))
        inside = torch.zeros(canvas.shape[1], dtype=torch.bool)
        inside[torch.from_numpy(at)] = True
        return cls(canvas, inside, stride, torch.from_numpy(at[order]), ends.tolist(), laid)

    def views(self, values: Tensor) -> Iterator[tuple[tuple[int, slice, slice, slice], Tensor]]:
        """Each tile as (image, channels, rows, columns), and its view (C, height, width) of values (C, P)."""
        for image, top, left, height, width, first in self.tiles:
            shape, strides = (len(values), height, width), (values.stride(0), self.stride, 1)
            position = image, slice(None), slice(top, top + height), slice(left, left + width)
            yield position, values.as_strided(shape, strides, first)

    def image_of(self, at: Tensor) -> np.ndarray:
        """The image (n,) to which pixels (n,) of the canvas belong."""
        images, firsts = np.array([tile[0] for tile in self.tiles]), np.array([tile[5] for tile in self.tiles])
        return images[np.searchsorted(firsts, at.numpy(), "right") - 1]


def groups_of(sizes: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int, int, int, int]]]:
    """Tiles (image, top, left, height, width) of images of these (height, width), in order, in groups of ``GROUP``."""
    group, pixels = list[tuple[int, int, int, int, int]](), 0
    for image, (height, width) in enumerate(sizes):
        for top, left in itertools.product(range(0, height, TILE), range(0, width, TILE)):
            tile = image, top, left, min(TILE, height - top), min(TILE, width - left)
            if group and (pixels + tile[3] * tile[4] > GROUP or len(group) == _TILES):
                yield group
                group, pixels = [], 0
            group.append(tile)
            pixels += tile[3] * tile[4]
    if group:
        yield group


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: idle ones wait busily, and NumPy's products then wait for a processor (40 times as long)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def draw(density: Portable, layout: Layout, channels: int, choose: Choose) -> None:
    """Fill the canvas, front by front.

    Args:
        channels: 1: all channels are equal, and only the first is drawn.
        choose: (counts (n, 4) of the next digit, at (n,), channel) to digits (n,).
    """
    start = 0
    for end in layout.ends:
        at = layout.at[start:end]
        context, values = density.context(layout.canvas, layout.inside, layout.stride, at), list[Tensor]()
        for channel in range(channels):
            level = density.mixture(context, values).descend(partial(choose, at=at, channel=channel))
            values.append(torch.from_numpy(level).float())
        for channel in range(density.channels):
            layout.canvas[channel, at] = values[channel % channels]
        start = end


def mixtures(density: Portable, layout: Layout, channels: int) -> Iterator[Fronts]:
    """The distributions of a filled canvas, some fronts at a time."""
    first = 0
    for last in range(1, len(layout.ends) + 1):
        start, end = layout.ends[first - 1] if first else 0, layout.ends[last - 1]
        if end - start < _AT_ONCE and last < len(layout.ends):
            continue
        at = layout.at[start:end]
        values = [layout.canvas[channel, at] for channel in range(channels)]
        with one_thread():
            context = density.context(layout.canvas, layout.inside, layout.stride, at)
            laws = [density.mixture(context, values[:channel]) for channel in range(channels)]
        sizes = np.diff([start, *layout.ends[first:last]])
        yield Fronts(at, sizes, laws, [value.long().numpy() for value in values])
        first = last
