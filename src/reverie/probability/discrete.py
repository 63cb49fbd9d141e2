"""Distributions of the discrete values of an image, place by place, from a network's parameters."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.noise import Noise
from reverie.probability.sequential import Law

Of = Literal["8-bit", "binary"]
ByChannel = Generator[Law, Tensor, None]  # receives levels (B, n) int64


class Distribution(Protocol):
    """p(levels at a place | parameters); the channels of a place may depend on one another. A ``nn.Module``.

    Attributes:
        outputs: parameters for each place.
        levels: how many a value has, K.
        of: what the levels are.
    """

    outputs: int
    levels: int
    of: Of

    def levels_of(self, x: Tensor, rng: Noise | None = None) -> Tensor:
        """The levels, int64, of values in [-1, 1], both (B, C, ...); with ``rng`` grey of binary data is drawn."""

    def values(self, levels: Tensor) -> Tensor:
        """What a network sees of levels: float32 of the same shape."""

    def log_prob(self, levels: Tensor, params: Tensor) -> Tensor:
        """log p of levels (B, C, *S) given parameters (B, outputs, *S): nats (B,)."""

    def conditionals(self, params: Tensor) -> ByChannel:
        """The distribution of each channel in turn, given those before, of parameters (B, outputs, n)."""


def levels_of(x: Tensor, levels: int, rng: Noise | None = None) -> Tensor:
    """The nearest of evenly spaced levels in [-1, 1], int64; of two levels drawn, where there is ``rng``."""
    share = x.add(1).div(2)
    if levels == 2 and rng is not None:
        return rng.bernoulli(share, *x.shape[1:]).long()
    return share.mul(levels - 1).round().long()


def values_of(levels: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Evenly spaced values in [-1, 1] of levels 0 ... count - 1."""
    return levels.to(dtype).mul(2 / (count - 1)).sub(1)


class Categorical(nn.Module):
    """A probability for each level.

    The logits of a channel are those of the network plus, for each channel before it at the same place, a row of a
    table for its level.

    Args:
        levels: of a value; 2: binary.
        channels: at a place.
    """

    def __init__(self, levels: int = 256, channels: int = 1):
        super().__init__()
        self.levels, self.channels, self.outputs = levels, channels, levels * channels
        self.of: Of = "binary" if levels == 2 else "8-bit"
        pairs = channels * (channels - 1) // 2
        self.tables = nn.ModuleList(nn.Embedding(levels, levels) for _ in range(pairs))
        for table in self.tables:
            nn.init.zeros_(table.weight)  # type: ignore[arg-type]

    def levels_of(self, x: Tensor, rng: Noise | None = None) -> Tensor:
        """The levels (B, C, ...) int64 of values in [-1, 1]."""
        return levels_of(x, self.levels, rng)

    def values(self, levels: Tensor) -> Tensor:
        """In [-1, 1], float32."""
        return values_of(levels, self.levels)

    def log_prob(self, levels: Tensor, params: Tensor) -> Tensor:
        """log p of levels (B, C, *S) given logits (B, C K, *S): nats (B,)."""
        logits = precise(params).unflatten(1, (self.channels, self.levels)).flatten(3)  # (B, C, K, n)
        levels = levels.flatten(2)
        total = logits.new_zeros(len(levels))
        for channel in range(self.channels):
            each = self._coupled(logits[:, channel], levels[:, :channel].unbind(1))
            total = total - F.cross_entropy(each, levels[:, channel], reduction="none").sum(1)
        return total

    def conditionals(self, params: Tensor) -> ByChannel:
        """Probabilities (B, n, K) of each channel in turn, of logits (B, C K, n)."""
        logits = precise(params).unflatten(1, (self.channels, self.levels))
        levels: list[Tensor] = []
        for channel in range(self.channels):
            levels.append((yield self._coupled(logits[:, channel], levels).softmax(1).transpose(1, 2)))

    def _coupled(self, logits: Tensor, earlier: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K, n) of the channel that follows those of these levels (B, n)."""
        first = len(earlier) * (len(earlier) - 1) // 2
        for table, level in zip(self.tables[first:], earlier, strict=False):
            logits = logits + table(level).transpose(1, 2).to(logits.dtype)
        return logits


def precise(params: Tensor) -> Tensor:
    """In float32 or, where they are, in float64."""
    return params if params.dtype == torch.float64 else params.float()
