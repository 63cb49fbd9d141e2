"""Samplers: from noise to images along a grid of (alpha, sigma), where x = alpha x0 + sigma e.

Each is a generator function. It evaluates ``denoise(x, alpha, sigma)``, E[x0 | x], independently of networks, schedules
and guidance, and yields x and the estimate of x0 after each step, for previews and films. A grid runs from noise (alpha
may be 0) to data, (1, 0) last. One evaluation per step, except ``heun`` (two).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.core.noise import Noise

Denoise = Callable[[Tensor, float, float], Tensor]
Grid = Sequence[tuple[float, float]]
Steps = Iterator[tuple[Tensor, Tensor]]  # (x, estimate of x0), both (B, C, H, W)


def _fresh(noise: Noise | None, x: Tensor) -> Tensor:
    """New noise in x's shape, from a stream per row."""
    if noise is None:
        raise UsageError("A stochastic sampler needs random numbers: pass a Noise.")
    return noise(*x.shape[1:]).to(x)


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, eta: float = 0.0) -> Steps:
    """Song et al., arXiv:2010.02502; eta = 1 is DDPM's ancestral step (Ho et al., arXiv:2006.11239).

    At eta = 0 it equals Euler's method in sigma / alpha (Karras et al., arXiv:2206.00364), Euler's method in rectified
    flow's t (Liu et al., arXiv:2209.03003), and the first-order DPM-Solver: all are linear in x0 and e.
    """
    for (a, s), (b, r) in pairwise(grid):
        x0 = denoise(x, a, s)
        up = eta * r / s * math.sqrt(max(s**2 - (a * r / b) ** 2, 0.0))  # of the exact posterior at eta = 1
        x = b * x0 + math.sqrt(r**2 - up**2) * (x - a * x0) / s
        if up:
            x = x + up * _fresh(noise, x)
        yield x, x0


def heun(
    denoise: Denoise,
    x: Tensor,
    grid: Grid,
    noise: Noise | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> Steps:
    """The trapezoidal rule in sigma / alpha, order 2, two evaluations per step; Karras et al., arXiv:2206.00364.

    With churn it is their algorithm 2: noise is added before each step, and the step removes it.

    Args:
        s_churn: sigma / alpha is increased by the fraction s_churn / steps, at most sqrt(2) - 1. 0: no churn.
        s_tmin, s_tmax: churn only if sigma / alpha is between these.
        s_noise: standard deviation of the added noise; slightly above 1 compensates for lost detail.

    Raises:
        UsageError: churn without ``noise``.
    """
    share = min(s_churn / (len(grid) - 1), math.sqrt(2) - 1)
    for (a, s), (b, r) in pairwise(grid):
        if share and a and s_tmin <= s / a <= s_tmax:
            raised = (1 + share) * s  # alpha stays: the ratio is raised
            x = x + s_noise * math.sqrt(raised**2 - s**2) * _fresh(noise, x)
            s = raised
        x0 = denoise(x, a, s)
        end = b * x0 + r * (x - a * x0) / s
        if r and a:  # the last step, and a step from alpha = 0, are Euler steps
            derivative = (x / a - x0) * a / s
            later = (end / b - denoise(end, b, r)) * b / r
            end = b * (x / a + (r / b - s / a) * (derivative + later) / 2)
        x = end
        yield x, x0


def dpm_solver_2m(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, eta: float = 0.0) -> Steps:
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095); eta = 1 is its SDE form. Order 2 with one evaluation a step.

    Raises:
        UsageError: eta above 0 without ``noise``.
    """
    before: Tensor | None = None
    step_before = 0.0
    for (a, s), (b, r) in pairwise(grid):
        x0 = denoise(x, a, s)
        step = math.inf if r == 0 or a == 0 else math.log(b * s / (r * a))  # of the log signal-to-noise ratio
        estimate = x0
        if before is not None and math.isfinite(step) and math.isfinite(step_before):
            estimate = x0 + (x0 - before) * step / (2 * step_before)
        decay = math.exp(-step) if not eta else math.exp(-2 * step)
        if a == 0:
            x = b * estimate + r * x / s
        else:
            x = b * (1 - decay) * estimate + r / s * (1 if not eta else math.exp(-step)) * x
            if eta and r:
                x = x + r * math.sqrt(1 - decay) * _fresh(noise, x)
        before, step_before = x0, step
        yield x, x0


def unipc(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, order: int = 2) -> Steps:
    """UniPC, a multistep predictor and corrector (Zhao et al., arXiv:2302.04867); one evaluation per step.

    Each evaluation first corrects the current x, then predicts the next. Both are DDIM steps with x0 replaced by a mean
    over the step of the polynomial through the last ``order`` estimates. The corrector weights it by alpha / sigma,
    which is exact; the predictor, which extrapolates, uses the unweighted mean, which is more stable over long steps
    (at order 2 the paper's coefficient 1/2, and DPM-Solver++(2M)).

    Args:
        order: number of estimates per step, and order of convergence; 1 is ``ddim``.

    Raises:
        UsageError: order below 1.
    """
    if order < 1:
        raise UsageError(f"UniPC's order must be at least 1, not {order}.")
    past: list[tuple[float, Tensor]] = []  # (log alpha / sigma, estimate), newest last
    start = x
    for index, ((a, s), (b, r)) in enumerate(pairwise(grid)):
        x0 = denoise(x, a, s)
        past = [*past, (_half_log_snr(a, s), x0)][-order:]
        if len(past) > 1:
            (c, q), corrected = grid[index - 1], _mean(past, past[-2][0], past[-1][0], weighted=True)
            x = s / q * start + (a - s * c / q) * corrected
        start = x
        if r == 0:
            x = b * x0
        else:
            x = r / s * start + (b - r * a / s) * _mean(past, past[-1][0], _half_log_snr(b, r), weighted=False)
        yield x, x0


def _half_log_snr(alpha: float, sigma: float) -> float:
    """log(alpha / sigma), bounded below by a ratio of 1 / 100, so that pure noise is finite too."""
    return math.log(alpha / sigma + 0.01)


def _mean(history: list[tuple[float, Tensor]], start: float, end: float, weighted: bool) -> Tensor:
    """The mean from ``start`` to ``end`` of the polynomial through the estimates, as functions of log(alpha / sigma).

    ``weighted``: by alpha / sigma; the step is then exact if that polynomial is E[x0|x].
    """
    step = end - start
    moments = [1.0]  # of the position between start (0) and end (1)
    for k in range(1, len(history)):
        moments.append(-1 / math.expm1(-step) - k / step * moments[-1] if weighted else 1 / (k + 1))
    nodes = torch.tensor([(at - start) / step for at, _ in history], dtype=torch.float64)
    powers = torch.stack([nodes**k for k in range(len(history))])
    weights = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))
    return sum((w * x0 for w, (_, x0) in zip(weights.tolist(), history, strict=True)), torch.zeros_like(history[0][1]))


SAMPLERS: dict[str, Callable[..., Steps]] = {  # (denoise, x, grid, noise)
    "ddpm": partial(ddim, eta=1.0),
    "ddim": ddim,
    "euler": ddim,
    "heun": heun,
    "heun-churn": partial(heun, s_churn=40.0, s_tmin=0.05, s_tmax=50.0, s_noise=1.003),  # EDM's for ImageNet, table 5
    "dpm++2m": dpm_solver_2m,
    "dpm++2m-sde": partial(dpm_solver_2m, eta=1.0),
    "unipc": unipc,
}
STOCHASTIC = ("ddpm", "heun-churn", "dpm++2m-sde")  # these add noise in each step
