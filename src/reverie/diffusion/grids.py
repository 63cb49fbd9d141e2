"""Time grids: at which (alpha, sigma) a sampler stops on its way from noise to data. Solvers know nothing of them.

``GRIDS[name](schedule, steps)`` is a list of steps + 1 pairs, noise first and (1, 0) last: a solver with one evaluation
a step makes ``steps`` evaluations. A fourth, ``optimised``, is fitted to one network and one solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.diffusion.samplers import Denoise, Steps, unipc
from reverie.diffusion.schedules import Pair, Schedule

_LEAST, _MOST = 2e-3, 200.0  # sigma / alpha that a grid even in a function of the ratio ends and starts with


def check(steps: int) -> int:
    """The number of steps, or a UsageError where no grid has it."""
    if steps < 1:
        raise UsageError(f"A sampler needs at least 1 step, not {steps}.")
    return steps


def _pairs(schedule: Schedule, times: Tensor) -> list[Pair]:
    alpha, sigma = schedule.pair(times)
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def _ends(schedule: Schedule) -> tuple[float, float]:
    """Sigma / alpha at the least noise that a sampler should stop at and at the schedule's most, which may be inf."""
    alpha, sigma = schedule.pair(torch.tensor([schedule.first, 1.0], dtype=torch.float64))
    low, high = (sigma / alpha).tolist()
    return max(low, _LEAST), high


def uniform(schedule: Schedule, steps: int) -> list[Pair]:
    """Even in t, from 1: DDIM's "trailing" spacing (Lin et al., arXiv:2305.08891), and rectified flow's Euler grid."""
    last = max(1 / check(steps), schedule.first)  # a table has no times before its first
    return _pairs(schedule, torch.linspace(1, last, steps, dtype=torch.float64))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[Pair]:
    """Even in (sigma / alpha)^(1 / rho) (Karras et al., arXiv:2206.00364, equation 5)."""
    low, high = _ends(schedule)
    high = min(high, _MOST)
    u = torch.linspace(0, 1, check(steps), dtype=torch.float64)
    ratio = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _pairs(schedule, schedule.time(ratio).clamp(max=1))


def log_snr(schedule: Schedule, steps: int) -> list[Pair]:
    """Most noise, then even in the log signal-to-noise ratio (Lu et al., arXiv:2206.00927) over a range that grows.

    The range of sigma / alpha is from 3 steps to 1.5 / steps: few steps are spent where pictures take shape, and many
    go all the way. The two numbers were measured on pictures of 28 pixels.
    """
    return curved(schedule, steps, *_range(steps))


def _range(steps: int) -> tuple[float, float]:
    return 3.0 * check(steps), 1.5 / steps


def curved(schedule: Schedule, steps: int, high: float, low: float, bend: float = 0.0) -> list[Pair]:
    """Most noise, then steps - 1 ratios sigma / alpha from high to low, as far as the schedule has them.

    Args:
        bend: 0 is even in the ratio's logarithm; above 0 there are more stops where there is little noise, below 0
            where there is much. Between -1 and 1.
    """
    least, most = _ends(schedule)
    first = most if math.isinf(most) else min(most, _MOST)  # a network of almost pure noise says little that is true
    high = min(high, first / 1.5, _MOST)
    low = min(max(low, least), high / 1.5)
    u = torch.linspace(0, 1, steps - 1, dtype=torch.float64) if check(steps) != 2 else torch.tensor([0.5]).double()
    ratio = high * (low / high) ** (u + bend * u * (1 - u))
    return _pairs(schedule, schedule.time(torch.cat([torch.tensor([first]).double(), ratio])).clamp(max=1))


GRIDS: dict[str, Callable[[Schedule, int], list[Pair]]] = {"uniform": uniform, "karras": karras, "log-snr": log_snr}


@torch.no_grad()
def optimised(
    denoise: Denoise, schedule: Schedule, x: Tensor, steps: int, solver: Callable[..., Steps] = unipc
) -> tuple[float, float, float]:
    """(high, low, bend) of the ``curved`` grid on which a deterministic solver comes nearest to where it should.

    Where it should is where a fine grid leads from the same noise. The search starts from ``log_snr`` and takes one of
    the three numbers at a time up or down, in ever smaller strides: some 15 runs of the solver, and one of 40 steps or
    more. Few parameters and a fixed search, so that a handful of noises is enough (compare Sabour et al.,
    arXiv:2404.14507, who move every stop).

    Args:
        x: noise of standard deviation 1, (B, C, H, W); 16 rows will do.
    """

    def end(pairs: list[Pair], run: Callable[..., Steps]) -> Tensor:
        *_, (drawn, _) = run(denoise, x * math.hypot(*pairs[0]), pairs)
        return drawn

    truth = end(log_snr(schedule, max(40, 4 * check(steps))), unipc)

    def miss(log_high: float, log_low: float, bend: float) -> float:
        """Root of the mean squared error, a mean over rows."""
        found = end(curved(schedule, steps, math.exp(log_high), math.exp(log_low), bend), solver)
        return float((found - truth).square().flatten(1).mean(1).sqrt().mean())

    best = [*map(math.log, _range(steps)), 0.0]
    least = miss(*best)
    for stride in (1.0, 0.5, 0.25):
        for place, unit in enumerate((0.7, 0.7, 0.4)):
            for way in (stride * unit, -stride * unit):
                trial = [*best[:place], best[place] + way, *best[place + 1 :]]
                error = miss(*trial)
                if error < least:
                    best, least = trial, error
                    break
    return math.exp(best[0]), math.exp(best[1]), best[2]
