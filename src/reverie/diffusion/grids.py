"""Time grids: the (alpha, sigma) of a sampler's steps, independent of the solver.

``GRIDS[name](schedule, steps)`` is a list of steps + 1 pairs, noise first and (1, 0) last: a solver with one evaluation
per step makes ``steps`` evaluations. A fourth grid, ``optimised``, is fitted to a network and a solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.diffusion.samplers import Denoise, Steps, unipc
from reverie.diffusion.schedules import AlphaSigma, Schedule

_LEAST, _MOST = 2e-3, 200.0  # limits of sigma / alpha for grids that are uniform in a function of the ratio


def check(steps: int) -> int:
    """The number of steps; raises a UsageError below 1."""
    if steps < 1:
        raise UsageError(f"A sampler needs at least 1 step, not {steps}.")
    return steps


def _pairs(schedule: Schedule, times: Tensor) -> list[AlphaSigma]:
    alpha, sigma = schedule.alpha_sigma(times)
    return [*zip(alpha.tolist(), sigma.tolist(), strict=True), (1.0, 0.0)]


def _ends(schedule: Schedule) -> tuple[float, float]:
    """The smallest sigma / alpha of a grid, and the schedule's largest, which may be inf."""
    alpha, sigma = schedule.alpha_sigma(torch.tensor([schedule.first, 1.0], dtype=torch.float64))
    low, high = (sigma / alpha).tolist()
    return max(low, _LEAST), high


def uniform(schedule: Schedule, steps: int) -> list[AlphaSigma]:
    """Uniform in t, from 1: DDIM's "trailing" spacing (Lin et al., arXiv:2305.08891), rectified flow's Euler grid."""
    last = max(1 / check(steps), schedule.first)  # discrete schedules have no earlier times
    return _pairs(schedule, torch.linspace(1, last, steps, dtype=torch.float64))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[AlphaSigma]:
    """Uniform in (sigma / alpha)^(1 / rho) (Karras et al., arXiv:2206.00364, equation 5)."""
    low, high = _ends(schedule)
    high = min(high, _MOST)
    u = torch.linspace(0, 1, check(steps), dtype=torch.float64)
    ratio = (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _pairs(schedule, schedule.t_from_ratio(ratio).clamp(max=1))


def log_snr(schedule: Schedule, steps: int) -> list[AlphaSigma]:
    """The maximum noise, then uniform in the log signal-to-noise ratio (Lu et al., arXiv:2206.00927).

    The range of sigma / alpha is from 3 steps to 1.5 / steps: few steps cover the noise levels where images take shape,
    many steps cover all levels. The two numbers were measured on images of 28 pixels.
    """
    return curved(schedule, steps, *_range(steps))


def _range(steps: int) -> tuple[float, float]:
    return 3.0 * check(steps), 1.5 / steps


def curved(schedule: Schedule, steps: int, high: float, low: float, bend: float = 0.0) -> list[AlphaSigma]:
    """The maximum noise, then steps - 1 ratios sigma / alpha from high to low, within the schedule's range.

    Args:
        bend: 0 is uniform in the ratio's logarithm; above 0 there are more steps at low noise, below 0 at high noise.
            Between -1 and 1.
    """
    least, most = _ends(schedule)
    first = most if math.isinf(most) else min(most, _MOST)  # networks are inaccurate at almost pure noise
    high = min(high, first / 1.5, _MOST)
    low = min(max(low, least), high / 1.5)
    u = torch.linspace(0, 1, steps - 1, dtype=torch.float64) if check(steps) != 2 else torch.tensor([0.5]).double()
    ratio = high * (low / high) ** (u + bend * u * (1 - u))
    return _pairs(schedule, schedule.t_from_ratio(torch.cat([torch.tensor([first]).double(), ratio])).clamp(max=1))


GRIDS: dict[str, Callable[[Schedule, int], list[AlphaSigma]]] = {
    "uniform": uniform,
    "karras": karras,
    "log-snr": log_snr,
}


@torch.no_grad()
def optimised(
    denoise: Denoise, schedule: Schedule, x: Tensor, steps: int, solver: Callable[..., Steps] = unipc
) -> tuple[float, float, float]:
    """(high, low, bend) of the ``curved`` grid with the smallest error of a deterministic solver.

    The reference is the sample of a fine grid from the same noise. Coordinate search from ``log_snr``, with decreasing
    strides: about 15 runs of the solver, and one of at least 40 steps. With three parameters a few noise samples are
    enough (compare Sabour et al., arXiv:2404.14507, who optimise every time).

    Args:
        x: noise of standard deviation 1, (B, C, H, W); 16 rows are enough.
    """

    def solve(pairs: list[AlphaSigma], run: Callable[..., Steps]) -> Tensor:
        *_, (sample, _) = run(denoise, x * math.hypot(*pairs[0]), pairs)
        return sample

    reference = solve(log_snr(schedule, max(40, 4 * check(steps))), unipc)

    def rmse(log_high: float, log_low: float, bend: float) -> float:
        """Mean over rows of the root mean squared error."""
        sample = solve(curved(schedule, steps, math.exp(log_high), math.exp(log_low), bend), solver)
        return float((sample - reference).square().flatten(1).mean(1).sqrt().mean())

    best = [*map(math.log, _range(steps)), 0.0]
    least = rmse(*best)
    for stride in (1.0, 0.5, 0.25):
        for index, unit in enumerate((0.7, 0.7, 0.4)):
            for change in (stride * unit, -stride * unit):
                trial = [*best[:index], best[index] + change, *best[index + 1 :]]
                error = rmse(*trial)
                if error < least:
                    best, least = trial, error
                    break
    return math.exp(best[0]), math.exp(best[1]), best[2]
