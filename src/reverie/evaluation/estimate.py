"""A value with its 95 % interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold

_Z = 1.959963984540054  # the 97.5 % quantile of N(0, 1)
_FEW = {1: 12.706204736, 2: 4.302652730, 3: 3.182446305}  # of Student's t by degrees of freedom


def _quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, from 4 degrees on by its expansion about the normal's (under 1 % off)."""
    if freedom in _FEW:
        return _FEW[freedom]
    z, n = _Z, freedom
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / n**power for power, term in enumerate(terms, 1))


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval, nan where the data does not determine it.

    The interval is over other images from the same source. It does not cover bias.
    """

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @classmethod
    def of_error(cls, value: float, error: float, freedom: int | None = None) -> Estimate:
        """From a standard error; ``freedom``: its degrees of freedom (None: many)."""
        margin = error * (_Z if freedom is None else _quantile(freedom))
        return cls(value, value - margin, value + margin)

    @classmethod
    def of_mean(cls, values: Tensor) -> Estimate:
        """The mean of independent values (N,), with the normal interval."""
        values = values.double()
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls.of_error(float(values.mean()), error)

    @classmethod
    def of_share(cls, hits: Tensor) -> Estimate:
        """The share of true among independent booleans (N,), with Wilson's interval (1927), valid at 0 and 1 too."""
        n, share = len(hits), float(hits.double().mean())
        centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        margin = _Z * math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2) / (1 + _Z**2 / n)
        low, high = (0.0 if share == 0 else centre - margin), (1.0 if share == 1 else centre + margin)
        return cls(share, low, high)

    @classmethod
    def jackknife(cls, value: float, left_out: Tensor) -> Estimate:
        """From the value of all data and the values (G,) without each of G equal groups (Efron and Stein, 1981)."""
        groups = len(left_out)
        if groups < 2:
            return cls(value, math.nan, math.nan)
        left_out = left_out.double()
        error = (left_out - left_out.mean()).square().sum().mul((groups - 1) / groups).sqrt()
        return cls.of_error(value, float(error), groups - 1)


def shuffled(count: int, seed: int) -> Tensor:
    """A random permutation (count,) of 0 ... count - 1, determined by the seed."""
    return Noise.of_step(fold(seed, count), 0, count).keys.argsort()


def shuffled_groups(count: int, groups: int, seed: int) -> list[Tensor]:
    """The indices 0 ... count - 1 in ``groups`` random groups of equal size (to one).

    Raises:
        UsageError: fewer images than groups.
    """
    if not 0 < groups <= count:
        raise UsageError(f"{count} images do not make {groups} groups.")
    return list(shuffled(count, seed).tensor_split(groups))


def chance_of_at_most(count: Tensor | int, marked: Tensor | int, unmarked: int | Tensor, draws: int) -> Tensor:
    """P(at most ``count`` marked items in ``draws`` without replacement): the hypergeometric distribution function.

    ``count`` and ``marked`` may be tensors of one shape; the result has that shape, in float64.
    """
    count, marked, unmarked = (torch.as_tensor(x, dtype=torch.float64)[..., None] for x in (count, marked, unmarked))

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    sample = torch.tensor(float(draws), dtype=torch.float64)
    x = torch.arange(int(count.max()) + 1, dtype=torch.float64)
    possible = (x <= count) & (x <= marked) & (x >= sample - unmarked) & (x <= sample)
    hits = torch.where(possible, x, (sample - unmarked).clamp(min=0))  # any possible value: masked below
    log_mass = log_choose(marked, hits) + log_choose(unmarked, sample - hits) - log_choose(marked + unmarked, sample)
    return log_mass.masked_fill(~possible, -torch.inf).logsumexp(-1).exp().clamp(max=1)
