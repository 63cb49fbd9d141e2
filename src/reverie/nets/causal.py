"""Convolutions and U-Nets that see only what is above or to the left, over whole images or fed piece by piece.

Shifted instead of masked kernels (Salimans et al., arXiv:1701.05517, section 2.5) compute no product with a masked
zero. With a ``Cache`` a layer is fed an image in the order of rows, and computes only new outputs: the same as over the
whole image (Ramachandran et al., arXiv:1704.06001).

Whole maps are (B, C, H, W). Pieces have their channels last, rows (B, n, C) and pixels (B, C): nearly all of their work
is products of matrices, of which convolutions in float64 make less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Added = Callable[[], Tensor | None]


class Cache:
    """The memory of all layers of a network while it generates images of one shape.

    Args:
        width: columns of the images.

    Attributes:
        row, column: of the pixel that is fed next, or the row.
    """

    def __init__(self, width: int):
        self.width, self.row, self.column = width, 0, 0
        self._memories: dict[nn.Module, Any] = {}

    def of(self, layer: nn.Module, start: Callable[[], Any]) -> Any:
        """A layer's memory; at first what ``start`` returns."""
        if layer not in self._memories:
            self._memories[layer] = start()
        return self._memories[layer]


@dataclass
class _Rows:
    """What ``Shifted`` remembers of the rows that it is fed.

    Attributes:
        inputs: (B, W + padding, C), the last row.
        places: (B, C) of the inputs, by column.
        windows: (B, columns C) of the inputs, what an output sees, by column.
        weights: (rows, outputs, columns C) of the kernel, the last row first.
        bias: (1, n, outputs).
        outputs: (B, n, outputs) of this row, without what they have of its own inputs.
        later: those of rows to come, by row, so far.
    """

    inputs: Tensor
    places: list[Tensor]
    windows: list[Tensor]
    weights: Tensor
    bias: Tensor
    outputs: Tensor
    later: dict[int, Tensor] = field(default_factory=dict)


class Shifted(nn.Module):
    """A convolution whose output (i, j) sees rows up to i, and columns around j or up to j.

    Args:
        inputs, outputs: channels.
        kernel: (rows, columns).
        centred: whether it sees columns on both sides; then it is fed whole rows.
        stride: 1, or 2 for a map of half the sides, rounded up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], centred: bool, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        rows, columns = kernel
        left = columns // 2 if centred else columns - 1
        self.kernel, self.stride, self.padding = kernel, stride, (left, columns - 1 - left, rows - 1, 0)

    def forward(
        self, x: Tensor, added: Added | None = None, cache: Cache | None = None, level: int = 0
    ) -> Tensor | None:
        """(B, C, H, W) to (B, outputs, H, W) or half of it, plus what ``added`` returns.

        With a cache, the next row or pixel of a map of 1 / 2 ** level of the image's sides; None where a stride skips
        it. Then ``added`` is called once a row, and returns what is added to all of it.
        """
        if cache is None:
            return _sum(self.conv(F.pad(x, self.padding)), added)
        memory = cache.of(self, lambda: self._start(x, -(-cache.width >> level)))
        row, column, left = cache.row >> level, cache.column >> level, self.padding[0]
        due = row % self.stride == 0
        if x.ndim == 3:
            memory.inputs[:, left : left + x.shape[1]] = x
            self._spread(memory, row, 0)
            return _sum(memory.later.pop(row), added) if due else None
        if column == 0:
            self._spread(memory, row - 1, 1)
            if due:
                memory.outputs = _sum(memory.later.pop(row, memory.bias), added)
        memory.places[left + column].copy_(x)
        if not due or column % self.stride:
            return None
        return torch.addmm(memory.outputs[:, column // self.stride], memory.windows[column], memory.weights[0].t())

    def _start(self, x: Tensor, width: int) -> _Rows:
        columns = self.kernel[1]
        inputs = x.new_zeros(len(x), width + columns - 1, x.shape[-1])
        places = [inputs[:, column] for column in range(inputs.shape[1])]
        windows = [inputs[:, column : column + columns].flatten(1) for column in range(width)]
        weights = self.conv.weight.flip(2).permute(2, 0, 3, 1).flatten(2).contiguous()
        bias: Any = self.conv.bias
        bias = bias.expand(1, -(-width // self.stride), -1)
        return _Rows(inputs, places, windows, weights, bias, bias)

    def _spread(self, memory: _Rows, row: int, after: int) -> None:
        """Add to the outputs of later rows, from so many after ``row`` on, what they have of that row's inputs."""
        rows = [number for number in range(row + after, row + self.kernel[0]) if number % self.stride == 0]
        if rows:
            windows = memory.inputs.unfold(1, self.kernel[1], self.stride).mT  # (B, n, columns, C)
            weights = memory.weights[rows[0] - row :: self.stride].flatten(0, 1)
            y = F.linear(windows.flatten(2).contiguous(), weights)
            for number, part in zip(rows, y.chunk(len(rows), -1), strict=True):
                memory.later[number] = part + memory.later.get(number, memory.bias)


def _sum(y: Tensor, added: Added | None) -> Tensor:
    other = added() if added else None
    return y if other is None else y + other


class Pointwise(nn.Module):
    """A linear map of the channels of each place, of whole maps or of pieces."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.ndim == 4 else F.linear(x, self.conv.weight.flatten(1), self.conv.bias)


@dataclass
class _Low:
    """What ``Doubled`` remembers: its maps (2, 2, outputs, inputs) to four places, and its last inputs by column."""

    weight: Tensor
    bias: Tensor
    inputs: dict[int, Tensor] = field(default_factory=dict)


class Doubled(nn.Module):
    """A map of twice the sides: each place becomes four, by maps of their own."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.spread = Pointwise(inputs, 4 * outputs)

    def forward(self, x: Tensor | None, like: Tensor, cache: Cache | None = None, level: int = 0) -> Tensor:
        """(B, C, H / 2, W / 2) to the sides of ``like``, at this level; with a cache, where x is None, of earlier x."""
        if cache is None:
            assert x is not None
            return F.pixel_shuffle(self.spread(x), 2)[:, :, : like.shape[2], : like.shape[3]]
        memory, row, column = cache.of(self, self._start), cache.row >> level, cache.column >> level
        at = column // 2 if like.ndim == 2 else 0
        if x is not None:
            memory.inputs[at] = x
        weight, bias = memory.weight[row % 2], memory.bias[row % 2]
        if like.ndim == 2:
            return F.linear(memory.inputs[at], weight[column % 2], bias[column % 2])
        pairs = F.linear(memory.inputs[at], weight.flatten(0, 1), bias.flatten())
        return pairs.view(len(like), -1, like.shape[2])[:, : like.shape[1]]

    def _start(self) -> _Low:
        weight, bias = self.spread.conv.weight.flatten(1), self.spread.conv.bias
        assert bias is not None
        return _Low(*(each.unflatten(0, (-1, 2, 2)).movedim(0, 2).contiguous() for each in (weight, bias)))


class Block(Protocol):
    """A residual layer of a stream. A ``nn.Module``."""

    def __call__(
        self,
        x: Tensor,
        across: Tensor | None,
        skip: Tensor | None,
        embedding: Tensor | None,
        cache: Cache | None,
        level: int,
    ) -> Tensor:
        """Maps, rows or pixels of a level to the same shape.

        Args:
            across: of the other stream, at the same places; for a pixel, of its row.
            skip: of this stream, from the block's mirror image on the way down.
            embedding: (B, E) of the condition.
            cache, level: see ``Shifted``.
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
            x: (B, C, H, W), or with a cache the next row or pixel.
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
        down: Any = self.down[level]
        skips = []
        for block in down:
            across, embedding = inputs(number, level)
            x = outputs[number] = block(x, across, None, embedding, cache, level)
            skips.append(x)
            number += 1
        if level == len(self.up):
            return x, number
        low = self.shrink[level](x, None, cache, level)
        if low is not None:
            low, _ = self._level(level + 1, number, low, inputs, cache, outputs)
        x = x + self.grow[level](low, x, cache, level)
        number += len(down) * (2 * (len(self.up) - level) - 1)
        up: Any = self.up[level]
        for block in up:
            across, embedding = inputs(number, level)
            x = outputs[number] = block(x, across, skips.pop(), embedding, cache, level)
            number += 1
        return x, number

    @property
    def blocks(self) -> int:
        """How many there are; the last is the output."""
        return len(self.down[0]) * (2 * len(self.up) + 1)  # type: ignore[arg-type]
