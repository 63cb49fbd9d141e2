"""Convolutions and U-Nets that see only what is above or to the left, over whole images or fed piece by piece.

Shifted instead of masked kernels (Salimans et al., arXiv:1701.05517, section 2.5) compute no product with a masked
zero. With a ``Cache`` a layer is fed the columns of an image in the order of rows, and computes only their outputs: the
same as over the whole image (Ramachandran et al., arXiv:1704.06001).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Piece:
    """What a layer remembers of an image that it is fed: ``buffer``, and the place of what comes next."""

    width: int
    buffer: Tensor
    weight: Tensor
    row: int = 0
    column: int = 0

    def advance(self, columns: int) -> bool:
        """Go on by so many columns; whether a row is complete."""
        self.column += columns
        complete = self.column == self.width
        if complete:
            self.row, self.column = self.row + 1, 0
        return complete


class Cache:
    """The memory of all layers of a network while it generates images of one shape.

    Args:
        width: columns of the images.
    """

    def __init__(self, width: int):
        self.width = width
        self._pieces: dict[nn.Module, Piece] = {}

    def of(self, layer: nn.Module, start: Callable[[], Piece]) -> Piece:
        """A layer's memory; at first what ``start`` returns."""
        if layer not in self._pieces:
            self._pieces[layer] = start()
        return self._pieces[layer]


class Shifted(nn.Module):
    """A convolution whose output (i, j) sees rows up to i, and columns around j or up to j.

    Args:
        inputs, outputs: channels.
        kernel: (rows, columns).
        centred: whether it sees columns on both sides; then rows are fed whole.
        stride: 1, or 2 for a map of half the sides, rounded up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], centred: bool, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        rows, columns = kernel
        left = columns // 2 if centred else columns - 1
        self.kernel, self.stride, self.padding = kernel, stride, (left, columns - 1 - left, rows - 1, 0)

    def forward(self, x: Tensor, cache: Cache | None = None, width: int = 0) -> Tensor | None:
        """(B, C, H, W) to (B, outputs, H, W) or half of it.

        With a cache, the next columns (B, C, 1, n) of a map ``width`` columns wide; None where a stride skips them.
        """
        if cache is None:
            return self.conv(F.pad(x, self.padding))
        piece = cache.of(self, lambda: self._start(x, width))
        (rows, columns), (left, *_), at, new = self.kernel, self.padding, piece.column, x.shape[3]
        piece.buffer[:, -1, left + at : left + at + new] = x[:, :, 0].mT
        due = piece.row % self.stride == 0 and (new > 1 or at % self.stride == 0)
        y = self._output(piece, piece.buffer[:, :, at : at + new + columns - 1]) if due else None
        if piece.advance(new) and rows > 1:
            piece.buffer[:, :-1] = piece.buffer[:, 1:].clone()
        return y

    def _start(self, x: Tensor, width: int) -> Piece:
        rows, columns = self.kernel
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)  # of a window with its channels last
        return Piece(width, x.new_zeros(len(x), rows, width + columns - 1, x.shape[1]), weight)

    def _output(self, piece: Piece, window: Tensor) -> Tensor:
        """(B, rows, n, C) to (B, outputs, 1, n): a matrix product, of which convolutions in float64 make less."""
        if window.shape[2] == self.kernel[1]:
            return F.linear(window.flatten(1), piece.weight, self.conv.bias)[:, :, None, None]
        windows = window.unfold(2, self.kernel[1], self.stride).permute(0, 2, 1, 4, 3).flatten(2)
        return F.linear(windows, piece.weight, self.conv.bias).mT[:, :, None]


class Pointwise(nn.Module):
    """A linear map of the channels of each place, (B, C, H, W) to (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 1:
            return self.conv(x)
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        if x.shape[3] == 1:
            return F.linear(x.flatten(1), weight, bias)[:, :, None, None]
        return F.linear(x[:, :, 0].mT, weight, bias).mT[:, :, None]


class Doubled(nn.Module):
    """A map of twice the sides: each place becomes four, by maps of their own."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.spread = Pointwise(inputs, 4 * outputs)

    def forward(self, x: Tensor | None, like: Tensor, cache: Cache | None = None, width: int = 0) -> Tensor:
        """(B, C, H / 2, W / 2) to the sides of ``like``; with a cache, where x is None, of what came before."""
        if cache is None:
            assert x is not None
            return F.pixel_shuffle(self.spread(x), 2)[:, :, : like.shape[2], : like.shape[3]]
        new = None if x is None else F.pixel_shuffle(self.spread(x), 2)
        piece = cache.of(self, lambda: self._start(new, width))
        at, columns = piece.column, like.shape[3]
        if new is not None:
            piece.buffer[:, :, :, at : at + new.shape[3]] = new
        y = piece.buffer[:, :, piece.row % 2, at : at + columns][:, :, None]
        piece.advance(columns)
        return y

    def _start(self, new: Tensor | None, width: int) -> Piece:
        assert new is not None
        return Piece(width, new.new_zeros(len(new), new.shape[1], 2, width + 1), new)


class Block(Protocol):
    """A residual layer of a stream. A ``nn.Module``."""

    def __call__(
        self,
        x: Tensor,
        across: Tensor | None,
        skip: Tensor | None,
        embedding: Tensor | None,
        cache: Cache | None,
        width: int,
    ) -> Tensor:
        """(B, C, H, W) to the same shape.

        Args:
            across: of the other stream, at the same places.
            skip: of this stream, from the block's mirror image on the way down.
            embedding: (B, E) of the condition.
            cache, width: see ``Shifted``.
        """


class Stream(nn.Module):
    """A U-Net of causal blocks, of which all outputs are returned.

    Args:
        block: (width, whether there is a skip) to a block.
        widths: channels at each level, the image's first; every further level has half the sides.
        depth: blocks of a level on the way down, and, but for the innermost, on the way up.
        kernel, centred: of the convolutions that halve the sides.
    """

    def __init__(
        self,
        block: Callable[[int, bool], nn.Module],
        widths: Sequence[int],
        depth: int,
        kernel: tuple[int, int],
        centred: bool,
    ):
        super().__init__()
        outer = list(widths[:-1])
        self.down = nn.ModuleList(nn.ModuleList(block(width, False) for _ in range(depth)) for width in widths)
        self.up = nn.ModuleList(nn.ModuleList(block(width, True) for _ in range(depth)) for width in outer)
        pairs = list(zip(outer, widths[1:], strict=True))
        self.shrink = nn.ModuleList(Shifted(wide, low, kernel, centred, 2) for wide, low in pairs)
        self.grow = nn.ModuleList(Doubled(low, wide) for wide, low in pairs)

    def forward(
        self,
        x: Tensor,
        across: Callable[[int, int], Tensor | None],
        embedding: Tensor | None = None,
        cache: Cache | None = None,
        outputs: dict[int, Tensor] | None = None,
    ) -> dict[int, Tensor]:
        """The outputs of all blocks by number; with a cache, of those that were due.

        Args:
            x: (B, C, H, W), or with a cache the next columns.
            across: (block, level) to what the block gets of the other stream.
            embedding: of the condition.
            outputs: to update.
        """
        outputs = {} if outputs is None else outputs
        self._level(0, 0, x, lambda *at: (across(*at), embedding), cache, outputs)
        return outputs

    def _level(
        self,
        level: int,
        number: int,
        x: Tensor,
        inputs: Callable[[int, int], tuple[Tensor | None, Tensor | None]],
        cache: Cache | None,
        outputs: dict[int, Tensor],
    ) -> tuple[Tensor, int]:
        """The level's output and the number of the next block, of the level's input and that of its first."""
        width, skips = -(-cache.width // 2**level) if cache else 0, []
        down: Any = self.down[level]
        for block in down:
            across, embedding = inputs(number, level)
            x = outputs[number] = block(x, across, None, embedding, cache, width)
            skips.append(x)
            number += 1
        if level == len(self.up):
            return x, number
        low = self.shrink[level](x, cache, width)
        if low is not None:
            low, _ = self._level(level + 1, number, low, inputs, cache, outputs)
        x = x + self.grow[level](low, x, cache, width)
        number += len(down) * (2 * (len(self.up) - level) - 1)
        up: Any = self.up[level]
        for block in up:
            across, embedding = inputs(number, level)
            x = outputs[number] = block(x, across, skips.pop(), embedding, cache, width)
            number += 1
        return x, number

    @property
    def blocks(self) -> int:
        """How many there are; the last is the output."""
        return len(self.down[0]) * (2 * len(self.up) + 1)  # type: ignore[arg-type]
