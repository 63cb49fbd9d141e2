"""Samplers: from noise to pictures along a grid of (alpha, sigma), where x = alpha x0 + sigma e.

Each is a generator function. It asks ``denoise(x, alpha, sigma)`` for E[x0 | x], knows nothing of networks, schedules
or guidance, and yields after each step where x is and what x0 was thought to be: previews, films and teaching views
for free. A grid runs from noise (alpha may be 0) to data, (1, 0) last. One evaluation a step, but for ``heun`` (two).
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
    """New noise in x's shape, each row from its own stream."""
    if noise is None:
        raise UsageError("A stochastic sampler draws noise on its way: give it a Noise.")
    return noise(*x.shape[1:]).to(x)


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, eta: float = 0.0) -> Steps:
    """Song et al., arXiv:2010.02502; eta = 1 is DDPM's ancestral step (Ho et al., arXiv:2006.11239).

    At eta = 0 it is Euler's method in sigma / alpha (Karras et al., arXiv:2206.00364), in rectified flow's t along its
    velocity (Liu et al., arXiv:2209.03003), and the first-order DPM-Solver: in x0 and e, all of them go straight.
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
    """The trapezoidal rule in sigma / alpha, order 2, two evaluations a step; Karras et al., arXiv:2206.00364.

    With churn it is their algorithm 2: before each step noise is added, and the step takes it away again.

    Args:
        s_churn: how much: sigma / alpha grows by a share of s_churn / steps, at most sqrt(2) - 1. 0 adds none.
        s_tmin, s_tmax: churn only where sigma / alpha is between these.
        s_noise: standard deviation of the noise that is added; a little above 1 makes up for detail lost.

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
        if r and a:  # the last step, and one that starts where alpha is 0, stay Euler's
            slope = (x / a - x0) * a / s
            other = (end / b - denoise(end, b, r)) * b / r
            end = b * (x / a + (r / b - s / a) * (slope + other) / 2)
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
        guess = x0
        if before is not None and math.isfinite(step) and math.isfinite(step_before):
            guess = x0 + (x0 - before) * step / (2 * step_before)
        decay = math.exp(-step) if not eta else math.exp(-2 * step)
        if a == 0:
            x = b * guess + r * x / s
        else:
            x = b * (1 - decay) * guess + r / s * (1 if not eta else math.exp(-step)) * x
            if eta and r:
                x = x + r * math.sqrt(1 - decay) * _fresh(noise, x)
        before, step_before = x0, step
        yield x, x0


def unipc(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, order: int = 2) -> Steps:
    """UniPC, a multistep predictor and corrector (Zhao et al., arXiv:2302.04867); one evaluation a step.

    Each evaluation first corrects the point that it was made at, then predicts the next. Both go DDIM's way with a
    mean of the last ``order`` estimates in the place of one: that of the polynomial through them, over the step. The
    corrector weights it by alpha / sigma, which is exact; the predictor, which has to extrapolate, takes the plain
    mean, which is steadier over long steps (at order 2 that is the paper's coefficient 1/2, and DPM-Solver++(2M)).

    Args:
        order: how many estimates a step is made of, and how fast it converges; 1 is ``ddim``.

    Raises:
        UsageError: order below 1.
    """
    if order < 1:
        raise UsageError(f"UniPC's order is at least 1, not {order}.")
    past: list[tuple[float, Tensor]] = []  # places and estimates, newest last
    start = x
    for place, ((a, s), (b, r)) in enumerate(pairwise(grid)):
        x0 = denoise(x, a, s)
        past = [*past, (_place(a, s), x0)][-order:]
        if len(past) > 1:
            (c, q), corrected = grid[place - 1], _mean(past, past[-2][0], past[-1][0], weighted=True)
            x = s / q * start + (a - s * c / q) * corrected
        start = x
        if r == 0:
            x = b * x0
        else:
            x = r / s * start + (b - r * a / s) * _mean(past, past[-1][0], _place(b, r), weighted=False)
        yield x, x0


def _place(alpha: float, sigma: float) -> float:
    """Half the log signal-to-noise ratio, bent so that pure noise has a place too: no more than a ratio of 1 / 100."""
    return math.log(alpha / sigma + 0.01)


def _mean(known: list[tuple[float, Tensor]], start: float, end: float, weighted: bool) -> Tensor:
    """The mean from place ``start`` to place ``end`` of the polynomial through what is known at some places.

    ``weighted``: by exp(place), which makes the step exact where that polynomial is E[x0|x].
    """
    step = end - start
    moments = [1.0]  # of the place between start (0) and end (1)
    for k in range(1, len(known)):
        moments.append(-1 / math.expm1(-step) - k / step * moments[-1] if weighted else 1 / (k + 1))
    nodes = torch.tensor([(at - start) / step for at, _ in known], dtype=torch.float64)
    powers = torch.stack([nodes**k for k in range(len(known))])
    weights = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))
    return sum((w * x0 for w, (_, x0) in zip(weights.tolist(), known, strict=True)), torch.zeros_like(known[0][1]))


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
STOCHASTIC = ("ddpm", "heun-churn", "dpm++2m-sde")  # these draw noise on their way
