"""Time grids: at which (alpha, sigma) a sampler stops on its way from noise to data. Solvers know nothing of them.

``GRIDS[name](schedule, steps)`` is a list of steps + 1 pairs, noise first and (1, 0) last: a solver with one evaluation
a step makes ``steps`` evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reverie.diffusion.schedules import Pair, Schedule
from reverie.errors import UsageError

_CEILING = 200.0  # the largest sigma / alpha that a grid even in a function of the ratio starts from


def _pairs(schedule: Schedule, times: Tensor) -> list[Pair]:
    alpha, sigma = schedule.pair(times)
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def _ends(schedule: Schedule) -> tuple[float, float]:
    """Sigma / alpha at the least and at the most noise that a sampler works with."""
    alpha, sigma = schedule.pair(torch.tensor([max(schedule.first, 0.0), 1.0], dtype=torch.float64))
    low, high = (sigma / alpha).tolist()
    return max(low, 2e-3), min(high, _CEILING)


def uniform(schedule: Schedule, steps: int) -> list[Pair]:
    """Even in t, from 1: DDIM's "trailing" spacing (Lin et al., arXiv:2305.08891), and rectified flow's Euler grid."""
    times = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    return _pairs(schedule, times)


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[Pair]:
    """Even in (sigma / alpha)^(1 / rho) (Karras et al., arXiv:2206.00364, equation 5)."""
    low, high = _ends(schedule)
    u = torch.linspace(0, 1, steps, dtype=torch.float64)
    ratio = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _pairs(schedule, schedule.time(ratio).clamp(max=1))


def log_snr(schedule: Schedule, steps: int) -> list[Pair]:
    """Even in the log signal-to-noise ratio (Lu et al., arXiv:2206.00927)."""
    low, high = _ends(schedule)
    ratio = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()
    return _pairs(schedule, schedule.time(ratio).clamp(max=1))


GRIDS: dict[str, Callable[[Schedule, int], list[Pair]]] = {"uniform": uniform, "karras": karras, "log-snr": log_snr}


def check(steps: int) -> int:
    """The number of steps, or a UsageError where no grid has it."""
    if steps < 1:
        raise UsageError(f"A sampler needs at least 1 step, not {steps}.")
    return steps


def learned(schedule: Schedule, steps: int, ratios: Sequence[float]) -> list[Pair]:
    """A grid through the quantiles of a density over log(sigma / alpha), as ``measure`` found it for one network."""
    quantiles = torch.tensor(ratios, dtype=torch.float64).log()
    place = torch.linspace(0, len(quantiles) - 1, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1)
    low = place.floor().long().clamp(max=len(quantiles) - 2)
    ratio = torch.lerp(quantiles[low], quantiles[low + 1], (place - low).double()).exp()
    return _pairs(schedule, schedule.time(ratio).clamp(max=1))
