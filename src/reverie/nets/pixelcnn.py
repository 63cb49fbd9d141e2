"""PixelCNN: for each pixel the parameters of a distribution, from the pixels above it and those to its left.

Two streams (van den Oord et al., arXiv:1606.05328): the vertical one sees all rows above, the horizontal one the pixels
to the left in its row and, at each layer, the vertical one. So no pixel above is in a blind spot.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.errors import UsageError
from reverie.nets.causal import Cache, Pointwise, Shifted, Stream
from reverie.nets.layers.dropout import Dropout
from reverie.nets.unet import embed_label

_EMBEDDING = 64  # of the condition


class Gated(nn.Module):
    """tanh(a) sigmoid(b) of a convolution (a, b), the unit of the gated PixelCNN, with a residual connection.

    Args:
        kernel, centred: see ``Shifted``.
        across: channels from the other stream, 0 for none.
    """

    def __init__(self, width: int, kernel: tuple[int, int], centred: bool, across: int, embedding: int):
        super().__init__()
        self.conv = Shifted(width, 2 * width, kernel, centred)
        self.across = Pointwise(across, 2 * width, bias=False) if across else None
        self.condition = nn.Linear(embedding, 2 * width, bias=False) if embedding else None
        self.out = Pointwise(width, width)

    def forward(
        self,
        x: Tensor,
        across: Tensor | None,
        skip: Tensor | None,
        embedding: Tensor | None,
        cache: Cache | None,
        level: int,
    ) -> Tensor:
        """See ``causal.Block``."""
        added = partial(_added, self, across, embedding, cache is not None)
        a, b = _halves(self.conv(x, added, cache, level))
        return x + self.out(torch.tanh(a) * torch.sigmoid(b))


class Residual(nn.Module):
    """x + a sigmoid(b) with (a, b) of a convolution and a linear map, the unit of PixelCNN++.

    Args:
        kernel, centred: see ``Shifted``.
        across: channels from the other stream, 0 for none.
        skip: whether there is a shortcut from the way down.
        dropout: probability.
    """

    def __init__(
        self,
        width: int,
        kernel: tuple[int, int],
        centred: bool,
        across: int,
        embedding: int,
        skip: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = Shifted(width, width, kernel, centred)
        self.across = Pointwise(across, width, bias=False) if across else None
        self.skip = Pointwise(width, width, bias=False) if skip else None
        self.condition = nn.Linear(embedding, width, bias=False) if embedding else None
        self.dropout = Dropout(dropout)
        self.out = Pointwise(width, 2 * width)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        across: Tensor | None,
        skip: Tensor | None,
        embedding: Tensor | None,
        cache: Cache | None,
        level: int,
    ) -> Tensor:
        """See ``causal.Block``."""
        h = self.conv(F.elu(x), partial(_added, self, across, embedding, cache is not None), cache, level)
        if self.skip is not None and skip is not None:
            h = h + self.skip(skip)
        a, b = _halves(self.out(self.dropout(F.elu(h))))
        return x + a * torch.sigmoid(b)


def _added(block: Any, across: Tensor | None, embedding: Tensor | None, channels_last: bool) -> Tensor | None:
    """Maps of the other stream plus those of the condition, where a block has either; see ``causal`` for shapes."""
    maps = None if block.across is None else block.across(across)
    if block.condition is None:
        return maps
    bias = block.condition(embedding)
    bias = bias[:, None] if channels_last else bias[:, :, None, None]
    return bias if maps is None else maps + bias


def _halves(x: Tensor) -> tuple[Tensor, ...]:
    """Of the channels of maps or of pieces."""
    return x.chunk(2, 1 if x.ndim == 4 else -1)


class PixelCNN(nn.Module):
    """Values (B, C, H, W) to parameters (B, P, H, W), each of the pixels before it in the order of rows.

    Args:
        shape: (H, W).
        channels: C.
        outputs: P.
        vertical, horizontal: (width, across, embedding, skip) to a block of the stream.
        widths: channels at each level; every further one has half the sides.
        depth: blocks of a level on the way down, and, but for the innermost, on the way up.
        reach: rows and columns to each side that the first layer sees.
        classes: of the condition, 0 for none.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        outputs: int,
        vertical: Callable[[int, int, int, bool], nn.Module],
        horizontal: Callable[[int, int, int, bool], nn.Module],
        widths: Sequence[int],
        depth: int,
        reach: int = 4,
        classes: int = 0,
        context: int = 0,
    ):
        super().__init__()
        if context:
            raise UsageError("A PixelCNN takes a class, not a caption.")
        height, width = shape
        self.shape, self.channels, wide = (height, width), channels, widths[0]
        self.label = nn.Embedding(classes + 1, _EMBEDDING) if classes else None
        seen, embedding = 2 * channels + 1, _EMBEDDING if classes else 0
        self.above = Shifted(seen, wide, (reach, 2 * reach + 1), centred=True)
        self.left = Shifted(seen, wide, (1, reach), centred=False)
        self.row = nn.Parameter(torch.zeros(1, wide, height, 1))
        self.column = nn.Parameter(torch.zeros(1, wide, 1, width))
        self.vertical = Stream(lambda w, skip: vertical(w, 0, embedding, skip), widths, depth, (2, 3), True)
        self.horizontal = Stream(lambda w, skip: horizontal(w, w, embedding, skip), widths, depth, (2, 2), False)
        self.head = nn.Sequential(nn.ELU(), Pointwise(wide, 2 * wide), nn.ELU())
        self.out = Pointwise(2 * wide, outputs)

    def forward(self, values: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, P, H, W); ``label`` (B,), -1 is any class."""
        embedding, seen = self._embedding(label, len(values)), self.seen(values)
        above = self.above(F.pad(seen, (0, 0, 1, 0))[:, :, :-1]) + self.row + self.column
        maps = self.vertical(above, lambda number, level: None, embedding)
        left = self.left(F.pad(seen, (1, 0))[..., :-1])
        last = self.horizontal(left, lambda number, level: maps[number], embedding)[self.horizontal.blocks - 1]
        return self.params(last)

    def _embedding(self, label: Tensor | None, rows: int) -> Tensor | None:
        return None if self.label is None else embed_label(self.label, label, rows)

    def seen(self, values: Tensor) -> Tensor:
        """What is looked at of values: themselves, whether they are the least, and that they are inside the image."""
        return torch.cat([values, (values < -0.999).to(values.dtype), torch.ones_like(values[:, :1])], 1)

    def params(self, x: Tensor) -> Tensor:
        """The last layer, which is not of lower precision under autocast: its outputs are logits and means."""
        h = self.head(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.out(h.to(self.out.conv.weight.dtype))

    def incremental(self, rows: int, label: Tensor | None = None) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Pixel after pixel, see ``models.autoregressive.Network``: rows of the vertical stream, then pixels."""
        (height, width), like = self.shape, self.row
        embedding, cache = self._embedding(label, rows), Cache(width)
        before = like.new_zeros(rows, width, self.above.conv.in_channels)  # the row above, as ``seen``
        nothing, maps = torch.zeros_like(before[:, 0]), dict[int, Tensor]()
        places = torch.arange(self.channels * height * width, device=like.device).view(self.channels, height, width)
        for i in range(height):
            cache.row = i
            above = self.above(before, cache=cache) + (self.row[:, :, i] + self.column[:, :, 0]).mT
            self.vertical(above, lambda number, level: None, embedding, cache, maps)
            last = nothing
            for j in range(width):
                cache.column = j
                x = self.horizontal(self.left(last, cache=cache), lambda number, level: maps[number], embedding, cache)
                params = self.params(x[self.horizontal.blocks - 1])
                values = yield places[:, i, j : j + 1], params[..., None]
                last = before[:, j] = self.seen(values[..., 0])
