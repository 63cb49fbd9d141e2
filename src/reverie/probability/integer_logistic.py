"""Mixtures of discretised logistics in integer arithmetic: the same numbers on every machine.

The cumulative distribution of an 8-bit level is an integer out of tables, which are made of Python's integers: no
exponential is ever computed in floating point. A level is found, or coded, as four digits of base 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

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

_UNIFORM_COUNT = int(UNIFORM * (1 << _SIGMOID_BITS)) // LEVELS  # of a level, for each unit of weight
SPANS = (64, 16, 4, 1)  # what the digits of a level count
_DIGITS = np.arange(1, 4)[:, None]
_REST = (LEVELS - 1) * _UNIFORM_COUNT  # count of all other levels, at least
LEAST_BITS = -math.log2(1 - _REST / ((1 << _SIGMOID_BITS) + LEVELS * _UNIFORM_COUNT))  # -log2 p of a level, at least

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

    @cached_property
    def total(self) -> np.ndarray:
        """The sum of all counts (n,)."""
        return self._weights * ((1 << _SIGMOID_BITS) + _UNIFORM_COUNT * LEVELS)

    @cached_property
    def _weights(self) -> np.ndarray:
        return self.weight.sum(0)

    def below(self, level: np.ndarray) -> np.ndarray:
        """The count of all levels below ``level`` (m, n) in 0 ... 256: int64 (m, n), 0 at 0 and ``total`` at 256."""
        counts = np.where(level <= 0, 0, self._below(level))
        return np.where(level >= LEVELS, self.total, counts)

    def _below(self, level: np.ndarray) -> np.ndarray:
        z = (level * FRACTION - FRACTION // 2)[:, None] - self.mean  # (m, K, n)
        z *= self.slope
        z >>= _SLOPE_BITS
        z += _NATS * _PER_NAT
        counts = sigmoid_table().take(z, mode="clip")
        counts *= self.weight
        return counts.sum(1) + level * (_UNIFORM_COUNT * self._weights)

    def descend(self, choose: Choose) -> np.ndarray:
        """Levels (n,) int64, digit by digit: ``choose`` is asked four times for the next digit of base 4."""
        n = self.mean.shape[1]
        rows, level, edges = np.arange(n), np.zeros(n, np.int64), np.zeros((5, n), np.int64)
        edges[4] = self.total
        for span in SPANS:
            edges[1:4] = self._below(level + span * _DIGITS)
            digit = choose((edges[1:] - edges[:4]).T.astype(np.float64))
            level += span * digit
            edges[0], edges[4] = edges[digit, rows], edges[digit + 1, rows]
        return level

    def count(self, level: np.ndarray) -> np.ndarray:
        """The counts (n,) of levels (n,): probabilities times ``total``."""
        low, high = self.below(np.stack([level, level + 1]))
        return high - low
