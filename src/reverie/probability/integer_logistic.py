"""Mixtures of discretised logistics in integer arithmetic: the same numbers on every machine.

The cumulative distribution of an 8-bit level is an integer out of tables, which are made of Python's integers: no
exponential is ever computed in floating point. A level is found, or coded, as four digits of base 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

LEVELS = 256
FRACTION = 16  # units of a mean in a level
OCTAVE = 8  # steps of a scale in a factor of 2
SMALLEST, LARGEST = -4, 7  # log2 of the scale of a logistic, in levels
NAT = 16  # units of a logit in a nat
UNIFORM = 2.0**-12  # weight of the uniform distribution beside the mixture: no level is impossible

_SIGMOID_BITS, _WEIGHT_BITS, _SLOPE_BITS = 24, 12, 10
_PER_NAT, _NATS = 1024, 16  # resolution and end of the table of the sigmoid
_EXACT = 160  # fractional bits of the integers of which tables are made

Choose = Callable[[np.ndarray], np.ndarray]  # counts (n, 4) of the digits, as exact float64, to digits (n,)


def _exp(numerator: int, denominator: int) -> int:
    """exp(-numerator / denominator) with ``_EXACT`` fractional bits, for at most 1."""
    term, total, order = 1 << _EXACT, 0, 0
    while term:
        total, order = total + term, order + 1
        term = -term * numerator // (denominator * order)
        term += term == -1  # floor of a vanishing negative term
    return total


def _powers(numerator: int, denominator: int, count: int) -> list[int]:
    """exp(-i * numerator / denominator) for i in 0 ... count - 1."""
    base, powers = _exp(numerator, denominator), [1 << _EXACT]
    for _ in range(count - 1):
        powers.append(powers[-1] * base >> _EXACT)
    return powers


@cache
def sigmoid_table() -> np.ndarray:
    """2^24 times the logistic function at i / 1024 - 16, i = 0 ... 32768, int64: rising, and symmetric."""
    unit = 1 << _EXACT
    tail = [(p << _SIGMOID_BITS) // (unit + p) for p in _powers(1, _PER_NAT, _NATS * _PER_NAT + 1)]
    return np.array([*tail[::-1], *((1 << _SIGMOID_BITS) - value for value in tail[1:])], np.int64)


@cache
def weight_table() -> np.ndarray:
    """2^12 exp(-i / 16), i = 0 ... 160, int64."""
    return np.array([p >> (_EXACT - _WEIGHT_BITS) for p in _powers(1, NAT, 10 * NAT + 1)], np.int64)


@cache
def slope_table() -> np.ndarray:
    """What turns units of a mean into steps of ``sigmoid_table``, times 2^10, for each scale, int64.

    Entry i belongs to the scale 2^(i / 8 - 4). The eighth root of 2 is that of integers.
    """
    root = _integer_root(1 << (8 * _EXACT + 1), 8)
    factor, slopes = 1 << _EXACT, []
    for _ in range((LARGEST - SMALLEST) * OCTAVE + 1):
        slopes.append(((_PER_NAT // FRACTION << (_SLOPE_BITS - SMALLEST)) << _EXACT) // factor)
        factor = factor * root >> _EXACT
    return np.array(slopes, np.int64)


def _integer_root(value: int, order: int) -> int:
    """The largest integer whose power of this order is at most ``value``."""
    low, high = 0, 1 << (value.bit_length() // order + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**order <= value else (low, middle - 1)
    return low


@dataclass(frozen=True)
class Mixture:
    """Distributions of n levels, each a mixture of K logistics rounded to 0 ... 255, with the tails at the ends.

    Attributes:
        mean: (K, n) int64, in units of 1/16 level.
        slope: (K, n) int64, of ``slope_table``.
        weight: (K, n) int64, of ``weight_table``; relative.
    """

    mean: np.ndarray
    slope: np.ndarray
    weight: np.ndarray

    @classmethod
    def of_outputs(cls, logits: np.ndarray, means: np.ndarray, log_scales: np.ndarray) -> Mixture:
        """Of integers (K, n): logits in 1/16 nat, means in 1/16 level, log2 scales in 1/8 octave."""
        weight = weight_table()[np.minimum(logits.max(0) - logits, len(weight_table()) - 1)]
        index = np.clip(log_scales - SMALLEST * OCTAVE, 0, len(slope_table()) - 1)
        bound = 4 * LEVELS * FRACTION  # far outside: products stay small
        return cls(np.clip(means, -bound, bound), slope_table()[index], weight)

    @property
    def total(self) -> np.ndarray:
        """The sum of all counts (n,)."""
        return self.weight.sum(0) * ((1 << _SIGMOID_BITS) + int(UNIFORM * (1 << _SIGMOID_BITS)))

    def below(self, level: np.ndarray) -> np.ndarray:
        """The count of all levels below ``level`` (m, n) in 0 ... 256: int64 (m, n), 0 at 0 and ``total`` at 256."""
        edge = level * FRACTION - FRACTION // 2
        z = ((edge[:, None] - self.mean) * self.slope) >> _SLOPE_BITS  # (m, K, n)
        z += _NATS * _PER_NAT
        np.clip(z, 0, 2 * _NATS * _PER_NAT, out=z)
        logistic = sigmoid_table().take(z)
        logistic *= self.weight
        uniform = level * (int(UNIFORM * (1 << _SIGMOID_BITS)) // LEVELS)
        weights = self.weight.sum(0)
        counts = logistic.sum(1) + uniform * weights
        counts = np.where(level <= 0, 0, counts)
        return np.where(level >= LEVELS, self.total, counts)

    def descend(self, choose: Choose) -> np.ndarray:
        """Levels (n,) int64, digit by digit: ``choose`` is asked four times for the next digit of base 4."""
        n = self.mean.shape[1]
        rows, level = np.arange(n), np.zeros(n, np.int64)
        low, high = np.zeros(n, np.int64), self.total
        for span in (64, 16, 4, 1):
            edges = np.empty((5, n), np.int64)
            edges[0], edges[4] = low, high
            edges[1:4] = self.below(level + span * np.arange(1, 4)[:, None])
            digit = choose(np.diff(edges, axis=0).T.astype(np.float64))
            level = level + span * digit
            low, high = edges[digit, rows], edges[digit + 1, rows]
        return level

    def count(self, level: np.ndarray) -> np.ndarray:
        """The counts (n,) of levels (n,): probabilities times ``total``."""
        low, high = self.below(np.stack([level, level + 1]))
        return high - low
