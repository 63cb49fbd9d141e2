"""A loss on a network's activations, tile by tile: the memory of a tile, the value and gradient of the whole image.

An ``Objective`` is a function of sums over positions: squares of activations, Gram matrices, squared differences to a
target. A first pass adds up the sums of all tiles without gradients; the loss has a gradient g with respect to them; a
second pass backpropagates <g, sums of a tile> tile by tile.

A tile is evaluated with a halo as wide as the network sees, so its activations equal those of the whole image, whose
borders keep the network's own padding. How far a network sees is measured: a NaN in one pixel reaches the activations
that depend on it, and no others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, product
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from reverie.core.errors import UsageError, argument
from reverie.nets.features import Features

Window = tuple[slice, slice]  # rows and columns of a map
Statistics = dict[str, Tensor]

_PROBES = (96, 192, 384, 768, 1536)  # sides in pixels; their differences are multiples of every stride 2^a or 3 * 2^a
_GRID = 64  # pixels; tiles begin at multiples of it, and so of every stride that divides it
_MOST = 16_384  # bytes per pixel that no network takes: images as small as its own need no measurement
_PASSES = 2.0  # memory of a forward and a backward pass, over that of the activations which autograd keeps


class Sums(Protocol):
    """Sums over positions of functions of the activations of some layers."""

    @property
    def layers(self) -> Sequence[str]:
        """Their names."""

    def statistics(self, features: Mapping[str, Tensor], windows: Mapping[str, Window]) -> Statistics:
        """Sums over positions, by name: those of two tiles add up to those of both.

        Args:
            features: (B, channels, h, w) by layer; h or w may be 0.
            windows: what part of a layer's map that is: it belongs to ``target[layer][..., *windows[layer]]``.
        """


class Objective(Sums, Protocol):
    """A loss that depends on activations by sums over positions alone."""

    def loss(self, statistics: Statistics) -> dict[str, Tensor]:
        """{"loss": scalar, **scalars} of the sums over all positions."""


@dataclass(frozen=True)
class Tile:
    """A part of an image, and what it adds to the maps of layers.

    Attributes:
        part: of the image, with its halo.
        windows: by layer, of the map of the whole image.
        inner: by layer, the same activations in the map of the part.
    """

    part: Window
    windows: Mapping[str, Window]
    inner: Mapping[str, Window]


@dataclass(frozen=True)
class Tiling:
    """How images are cut.

    Attributes:
        side: of a tile without its halo, in pixels: a multiple of 64.
        halo: pixels around a tile on which its activations depend: a multiple of 64.
        strides: pixels per activation, by layer.
    """

    side: int
    halo: int
    strides: Mapping[str, int]

    def tiles(self, shape: Sequence[int]) -> Iterator[Tile]:
        """The tiles of an image of (height, width) pixels, row by row; every activation is in one of them."""
        for cuts in product(*(_cuts(extent, self.side) for extent in shape)):
            ends = [(max(0, low - self.halo), None if high is None else high + self.halo) for low, high in cuts]
            part, windows, inner = (slice(*ends[0]), slice(*ends[1])), {}, {}
            for layer, stride in self.strides.items():
                windows[layer] = (_slice(cuts[0], 0, stride), _slice(cuts[1], 0, stride))
                inner[layer] = (_slice(cuts[0], ends[0][0], stride), _slice(cuts[1], ends[1][0], stride))
            yield Tile(part, windows, inner)


def _cuts(extent: int, side: int) -> list[tuple[int, int | None]]:
    """Tiles along a side of an image, nearly equal; the last has no end: it takes what is left of each map."""
    even = extent / math.ceil(extent / side)
    starts = range(0, extent, math.ceil(even / _GRID) * _GRID)
    return [*pairwise(starts), (starts[-1], None)]


def _slice(cut: tuple[int, int | None], origin: int, stride: int) -> slice:
    low, high = cut
    return slice((low - origin) // stride, None if high is None else (high - origin) // stride)


def evaluate(
    features: Features, objective: Objective, image: Tensor, tiling: Tiling | None = None
) -> dict[str, Tensor]:
    """An objective's loss and scalars on an image (B, C, H, W); the loss backpropagates to the image.

    Args:
        tiling: None evaluates the image at once.
    """
    if tiling is None:
        return objective.loss(total(features, objective, image))
    tiles = list(tiling.tiles(image.shape[2:]))
    with torch.no_grad():
        sums = total(features, objective, image, tiling)
    with torch.enable_grad():
        sums = {name: value.detach().requires_grad_() for name, value in sums.items()}
        scalars = objective.loss(sums)
        slopes = dict(zip(sums, torch.autograd.grad(scalars["loss"], [*sums.values()], allow_unused=True), strict=True))
    scalars = {name: value.detach() for name, value in scalars.items()}
    if torch.is_grad_enabled() and image.requires_grad:
        scalars["loss"] = _Loss.apply(image, scalars["loss"], features, objective, tiles, slopes)
    return scalars


def total(features: Features, sums: Sums, image: Tensor, tiling: Tiling | None = None) -> Statistics:
    """Sums over all positions of an image (B, C, H, W)."""
    if tiling is None:
        every = dict.fromkeys(sums.layers, (slice(None), slice(None)))
        return sums.statistics(features(image, sums.layers), every)
    totals: Statistics = {}
    for tile in tiling.tiles(image.shape[2:]):
        for name, value in _statistics(features, sums, image[..., *tile.part], tile).items():
            totals[name] = totals[name] + value if name in totals else value
    return totals


def activations(features: Features, layer: str, image: Tensor, tiling: Tiling | None = None) -> Tensor:
    """The activations of a layer, (B, channels, H / stride, W / stride)."""
    if tiling is None:
        return features(image, [layer])[layer]
    rows = groupby(tiling.tiles(image.shape[2:]), lambda tile: tile.windows[layer][0].start)
    return torch.cat([torch.cat([_inner(features, layer, image, tile) for tile in row], 3) for _, row in rows], 2)


def _inner(features: Features, layer: str, image: Tensor, tile: Tile) -> Tensor:
    return features(image[..., *tile.part], [layer])[layer][..., *tile.inner[layer]]


def _statistics(features: Features, objective: Sums, part: Tensor, tile: Tile) -> Statistics:
    maps = features(part, objective.layers)
    return objective.statistics({name: maps[name][..., *tile.inner[name]] for name in maps}, tile.windows)


class _Loss(torch.autograd.Function):
    """A loss whose gradient with respect to the image is computed tile by tile."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        loss: Tensor,
        features: Features,
        objective: Objective,
        tiles: Sequence[Tile],
        slopes: Mapping[str, Tensor | None],
    ) -> Tensor:
        ctx.save_for_backward(image)
        ctx.arguments = features, objective, tiles, slopes
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (image,), (features, objective, tiles, slopes) = ctx.saved_tensors, ctx.arguments
        gradient = torch.zeros_like(image)
        for tile in tiles:
            with torch.enable_grad():
                part = image[..., *tile.part].detach().requires_grad_()
                sums = _statistics(features, objective, part, tile)
                terms = [(slope * sums[name]).sum() for name, slope in slopes.items() if slope is not None]
                (slope,) = torch.autograd.grad(torch.stack(terms).sum(), part)
            gradient[..., *tile.part] += slope
        return gradient.mul_(outputs[0]), None, None, None, None, None


def tiling(
    features: Features, layers: Sequence[str], shape: Sequence[int], memory: float, more: float = 0
) -> Tiling | None:
    """The largest tiles that fit into some memory; None if an image does as a whole.

    Args:
        shape: (height, width) of the image in pixels.
        memory: bytes for the activations of a step and their gradients.
        more: bytes per pixel that statistics keep beside the activations.
    Raises:
        UsageError: not even the smallest tile fits, or a layer depends on the whole image.
    """
    pixels, memory = shape[0] * shape[1], max(0.0, memory)
    if math.isinf(memory) or (pixels * (_MOST + more) <= memory and pixels <= 8 * math.prod(features.size)):
        return None
    per_pixel, per_pair = _growth(features, layers, pixels, memory)
    per_pixel += _PASSES * more
    if (need := pixels * per_pixel + pixels**2 * per_pair) <= memory:
        return None
    if per_pair:
        _refuse(
            features, layers, f"Attention over {shape[1]} x {shape[0]} pixels takes {need / 1e9:.2g} GB of memory. "
        )
    halo, strides = _sight(features, layers)
    side = (math.isqrt(int(memory / per_pixel)) - 2 * halo) // _GRID * _GRID
    if side < _GRID:
        least = (_GRID + 2 * halo) ** 2 * per_pixel / 1e9
        raise UsageError(
            f"A tile of {', '.join(layers)} of {features.name} takes {least:.2g} GB of memory, and there are "
            f"{memory / 1e9:.2g} for it. Raise {argument('memory')}, or take a layer that is less deep."
        )
    return Tiling(side, halo, strides)


def _refuse(features: Features, layers: Sequence[str], why: str = "") -> NoReturn:
    raise UsageError(
        f"{why}{', '.join(layers)} of {features.name} depend on the whole image or on its size, so it cannot be cut "
        f"into tiles. Choose a smaller {argument('size')}, more {argument('memory')}, or layers that are less deep."
    )


def _probe(features: Features, height: int, width: int) -> Tensor:
    device = next(features.network.parameters(), next(features.network.buffers(), torch.zeros(()))).device
    return torch.zeros(1, features.channels, height, width, device=device)


def _growth(features: Features, layers: Sequence[str], pixels: int = 0, memory: float = 0.0) -> tuple[float, float]:
    """Bytes of a forward and a backward pass per pixel, and per pair of pixels.

    Each tensor that autograd keeps is measured in two images, of which one is twice as wide: there it has twice the
    bytes, or four times those of attention, which has a number for each pair of positions. Attention that does not fit
    is measured in ever wider images, as far as memory goes: fused algorithms, for many positions, do without it.
    """
    (height, width), many = features.size, list[int]()
    while True:
        width *= 2
        few, many, area = many, _kept(features, layers, height, width), height * width
        if not few:
            continue
        if len(few) != len(many):  # another algorithm
            few, many = [sum(few)], [sum(many)]
        pairs = sum(large for small, large in zip(few, many, strict=True) if large > 3 * small)
        per_pixel, per_pair = _PASSES * (sum(many) - pairs) / area, _PASSES * pairs / area**2
        fits = pixels * per_pixel + pixels**2 * per_pair <= memory
        if fits or not per_pair or 2 * area >= pixels or 2 * area * per_pixel + (2 * area) ** 2 * per_pair > memory:
            return per_pixel, per_pair


def _kept(features: Features, layers: Sequence[str], height: int, width: int) -> list[int]:
    """Bytes of each tensor that autograd keeps of an image."""
    weights = {tensor.data_ptr() for tensor in (*features.parameters(), *features.buffers())}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = features(_probe(features, height, width).requires_grad_(), layers)
    del maps  # until here: storages that are freed would lend their addresses to others
    return [*sizes.values()]


@torch.no_grad()
def _sight(features: Features, layers: Sequence[str]) -> tuple[int, dict[str, int]]:
    """How far activations depend on pixels beside their own, rounded up to the grid, and strides by layer."""
    before = dict.fromkeys(layers, 0)
    for smaller, side in pairwise((0, *_PROBES)):
        touched = _touched(features, layers, side, side // 2)
        if any(x.ndim != 2 for x in touched.values()):
            break
        strides = {layer: (side - smaller) / max(1, len(x) - before[layer]) for layer, x in touched.items()}
        before = {layer: len(x) for layer, x in touched.items()}
        ends = {layer: _ends(x) for layer, x in touched.items()}
        inside = all(low > 0 and high < before[layer] - 1 for layer, (low, high) in ends.items())
        if inside and smaller:
            odd = _touched(features, layers, side + 33, side // 2)  # in case that padding depends on the size
            if any(_GRID % strides[layer] or _ends(x) != ends[layer] for layer, x in odd.items()):
                break
            steps = {layer: int(stride) for layer, stride in strides.items()}
            reach = max(
                max(high * steps[layer] - side // 2, side // 2 - low * steps[layer]) + steps[layer] - 1
                for layer, (low, high) in ends.items()
            )
            return math.ceil(reach / _GRID) * _GRID, steps
        if side >= 768 and any(x.all() for x in touched.values()):
            break
    _refuse(features, layers)


def _touched(features: Features, layers: Sequence[str], side: int, pixel: int) -> dict[str, Tensor]:
    """The positions (h, w) of each layer that depend on the pixel (pixel, pixel) of an image of a side."""
    image = _probe(features, side, side)
    image[..., pixel, pixel] = math.nan
    return {layer: x.isnan().any(1)[0] for layer, x in features(image, layers).items()}


def _ends(touched: Tensor) -> tuple[int, int]:
    """The first and the last row or column that is touched."""
    positions = touched.nonzero()
    return int(positions.min()), int(positions.max())
