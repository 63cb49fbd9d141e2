"""Monotone rational-quadratic splines (Durkan et al., "Neural spline flows", arXiv:1906.04032, section 3.1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    inside = x.abs() <= bound
    x_in = x.clamp(-bound, bound)
    bins = _Bin.apply(x_in.flatten(), raw.flatten(0, -2), bound, inverse)
    x0, y0, width, height, d0, d1 = bins.view(6, *x.shape)
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


class _Bin(torch.autograd.Function):
    """The bin of each x (N,): lower left corner, width, height, slopes at both ends (6, N); raw (N, P) has a gradient.

    A value's bin depends on few of its parameters, so one formula for the gradient is faster than autograd's, array by
    array. Parameters lie in planes. Sizes are not differences of corners, which would cancel in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, raw: Tensor, bound: float, inverse: bool) -> Tensor:
        bins, planes = (raw.shape[-1] + 1) // 3, raw.T.contiguous()
        logits, log_slopes = planes[: 2 * bins].unflatten(0, (2, bins)), planes[2 * bins :]
        flat = logits.abs().div_(_LOG_SLOPE / 2).add_(1)
        sizes = (logits / flat).exp_()  # a softmax of bounded logits
        sums = sizes.cumsum(1)
        unit = 2 * bound / sums[:, -1]
        knots = (sums[int(inverse), :-1] * unit[int(inverse)]).sub_(bound)
        index = (x >= knots).sum(0)
        at = index.expand(2, 1, -1)
        size, lower = sizes.gather(1, at)[:, 0], sums.gather(1, (at - 1).clamp(min=0))[:, 0] * (index > 0)
        ends = torch.stack([index - 1, index])
        between = (ends >= 0) & (ends < bins - 1)
        ends = ends.clamp(0, bins - 2)
        log_slope = log_slopes.gather(0, ends) * between
        bend = log_slope.abs().div_(_LOG_SLOPE).add_(1)
        slope = (log_slope / bend).exp_()
        ctx.save_for_backward(flat, sizes, index, unit, lower, size, ends, slope / bend.square() * between)
        ctx.bound = bound
        return torch.cat([lower * unit - bound, size * unit, slope])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        flat, sizes, index, unit, lower, size, ends, slope_gradient = ctx.saved_tensors
        bins, (of_lower, of_size, of_slope) = sizes.shape[1], grad.split(2)
        of_total = (of_lower * lower + of_size * size) / (2 * ctx.bound) * unit
        number = torch.arange(bins, device=index.device)[:, None]
        below, upto = (torch.clamp(index + step - number, 0, 1).to(grad.dtype) for step in (0, 1))  # 0 or 1
        of_bins = torch.addcmul(-of_total[:, None], below, (of_lower - of_size)[:, None])
        of_bins.addcmul_(upto, of_size[:, None]).mul_(unit[:, None])
        of_bins.mul_(sizes).div_(flat).div_(flat)
        of_slopes = sizes.new_zeros(bins - 1, len(index)).scatter_add_(0, ends, of_slope * slope_gradient)
        return None, torch.cat([of_bins.flatten(0, 1), of_slopes]).T.contiguous(), None, None
