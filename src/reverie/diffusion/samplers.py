"""Samplers: from noise to pictures along a grid of (alpha, sigma), where x = alpha x0 + sigma e.

Each is a generator function. It asks ``denoise(x, alpha, sigma)`` for E[x0 | x], knows nothing of networks, schedules
or guidance, and yields after each step where x is and what x0 was thought to be: previews, films and teaching views
for free. A grid runs from noise (alpha may be 0) to data, (1, 0) last. One evaluation a step, but for ``heun`` (two).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from reverie.noise import Noise

Denoise = Callable[[Tensor, float, float], Tensor]
Grid = Sequence[tuple[float, float]]
Steps = Iterator[tuple[Tensor, Tensor]]  # (x, estimate of x0), both (B, C, H, W)


def ddim(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, eta: float = 0.0) -> Steps:
    """Song et al., arXiv:2010.02502; eta = 1 is DDPM's ancestral step (Ho et al., arXiv:2006.11239).

    At eta = 0 it is Euler's method in sigma / alpha (Karras et al., arXiv:2206.00364) and the first-order DPM-Solver.
    """
    for (a, s), (b, r) in pairwise(grid):
        x0 = denoise(x, a, s)
        up = eta * r / s * math.sqrt(max(s**2 - (a * r / b) ** 2, 0.0))  # of the exact posterior at eta = 1
        x = b * x0 + math.sqrt(r**2 - up**2) * (x - a * x0) / s
        if up:
            assert noise is not None
            x = x + up * noise(*x.shape[1:]).to(x)
        yield x, x0


def heun(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None) -> Steps:
    """The trapezoidal rule in sigma / alpha (Karras et al., arXiv:2206.00364); order 2, two evaluations."""
    for (a, s), (b, r) in pairwise(grid):
        x0 = denoise(x, a, s)
        end = b * x0 + r * (x - a * x0) / s
        if r and a:  # the last step, and one that starts where alpha is 0, stay Euler's
            slope = (x / a - x0) * a / s
            other = (end / b - denoise(end, b, r)) * b / r
            end = b * (x / a + (r / b - s / a) * (slope + other) / 2)
        x = end
        yield x, x0


def dpm_solver_2m(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, eta: float = 0.0) -> Steps:
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095); eta = 1 is its SDE form. Order 2 with one evaluation a step."""
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
                assert noise is not None
                x = x + r * math.sqrt(1 - decay) * noise(*x.shape[1:]).to(x)
        before, step_before = x0, step
        yield x, x0


def unipc(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, order: int = 3) -> Steps:
    """UniPC, the multistep predictor-corrector with B(h) = exp(-h) - 1 (Zhao et al., arXiv:2302.04867).

    Each evaluation corrects the point that it was made at before it predicts the next: one evaluation a step.
    """
    past: list[tuple[float, Tensor]] = []  # log signal-to-noise ratios and estimates, newest last
    start = x  # where the last step started, corrected
    for place, ((a, s), (b, r)) in enumerate(pairwise(grid)):
        x0 = denoise(x, a, s)
        now = math.log(a / s) if a else -math.inf
        if past:
            x = _unipc_step(start, grid[place - 1], (a, s), past[-order:], (now, x0))
        start = x
        past = [*past, (now, x0)][-order:] if a else []  # an estimate from pure noise has no finite place
        if a == 0 or r == 0:
            x = b * x0 + r * (x - a * x0) / s
        else:
            terms = min(order, len(grid) - 1 - place)  # few steps left: lower orders, which are steadier
            x = _unipc_step(x, (a, s), (b, r), past[-max(terms, 1) :], None)
        yield x, x0


def _unipc_step(
    x: Tensor,
    start: tuple[float, float],
    end: tuple[float, float],
    past: list[tuple[float, Tensor]],
    there: tuple[float, Tensor] | None,
) -> Tensor:
    """From ``start`` to ``end`` by the estimates of the past, and where it is known by that at the end."""
    (a, s), (b, r) = start, end
    (base, x0), older = past[-1], past[-2::-1]
    step = math.log(b / r) - math.log(a / s)
    known = [((at - base) / step, estimate) for at, estimate in older]
    if there is not None:
        known.append((1.0, there[1]))
    moved = r / s * x - b * math.expm1(-step) * x0
    if not known:
        return moved
    phi, targets = math.expm1(-step) / -step - 1, []
    for k in range(1, len(known) + 1):
        targets.append(phi * math.factorial(k) / math.expm1(-step))
        phi = phi / -step - 1 / math.factorial(k + 1)
    ratios = torch.tensor([ratio for ratio, _ in known], dtype=torch.float64)
    system = torch.stack([ratios**k for k in range(len(known))])
    weights = torch.linalg.solve(system, torch.tensor(targets, dtype=torch.float64)).tolist()
    change = sum(w * (estimate - x0) / ratio for w, (ratio, estimate) in zip(weights, known, strict=True))
    return moved - b * math.expm1(-step) * change


def _ancestral(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None) -> Steps:
    return ddim(denoise, x, grid, noise, eta=1.0)


def _sde(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None) -> Steps:
    return dpm_solver_2m(denoise, x, grid, noise, eta=1.0)


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Grid, Noise | None], Steps]] = {
    "ddpm": _ancestral,
    "ddim": ddim,
    "euler": ddim,
    "heun": heun,
    "dpm++2m": dpm_solver_2m,
    "dpm++2m-sde": _sde,
    "unipc": unipc,
}
