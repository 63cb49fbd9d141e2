"""Monotone rational-quadratic splines (Durkan et al., "Neural spline flows", arXiv:1906.04032, section 3.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LOG_SLOPE = math.log(1e3)  # largest logarithm of a slope at a knot, and of the mean slope of a bin


def rational_quadratic(x: Tensor, raw: Tensor, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """y, and log dy / dx; outside [-bound, bound] the identity, with a continuous slope.

    Args:
        x: (...), any values.
        raw: (..., 3 K - 1): logits of K widths and of K heights of bins, and K - 1 log-slopes at the knots between
            them, any values: they are bounded smoothly. At 0 the spline is the identity.
        bound: of the interval.
        inverse: x is y, and the other way round; the logarithm is of dx / dy.
    """
    bins = (raw.shape[-1] + 1) // 3
    logits, log_slopes = raw.split([2 * bins, bins - 1], -1)
    sizes = _bounded(logits.unflatten(-1, (2, bins)), _LOG_SLOPE / 2).exp()  # a softmax of bounded logits
    inner = bound * (2 * sizes[..., :-1].cumsum(-1) / sizes.sum(-1, keepdim=True) - 1)
    corners = F.pad(F.pad(inner, (1, 0), value=-bound), (0, 1), value=bound)  # (..., 2, K + 1): x and y of each knot
    slopes = F.pad(_bounded(log_slopes, _LOG_SLOPE).exp(), (1, 1), value=1.0)
    inside = x.abs() <= bound
    x_in = x.clamp(-bound, bound)
    index = (x_in[..., None] >= corners[..., 1 if inverse else 0, 1:-1]).sum(-1)
    ends = (index[..., None, None] + torch.arange(2, device=x.device)).expand(*x.shape, 3, 2)
    knots = torch.cat([corners, slopes[..., None, :]], -2).gather(-1, ends)  # one gather: its gradient is slow
    (x0, x1), (y0, y1), (d0, d1) = (pair.unbind(-1) for pair in knots.unbind(-2))
    width, height = x1 - x0, y1 - y0
    s = height / width
    if inverse:
        rise = x_in - y0
        bend = rise * (d0 + d1 - 2 * s)
        a, b, c = height * (s - d0) + bend, height * d0 - bend, -s * rise
        t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())  # the root of (B.12) without cancellation
        out = x0 + t * width
    else:
        t = (x_in - x0) / width
    product = t * (1 - t)
    denominator = s + (d0 + d1 - 2 * s) * product
    if not inverse:
        out = y0 + height * (s * t * t + d0 * product) / denominator
    slope = s * s * (d1 * t * t + 2 * s * product + d0 * (1 - t).square()) / denominator.square()
    log_slope = -slope.log() if inverse else slope.log()
    return torch.where(inside, out, x), torch.where(inside, log_slope, 0.0)


def _bounded(x: Tensor, most: float) -> Tensor:
    """x near 0, within ``most`` of it everywhere."""
    return x / (1 + x.abs() / most)
