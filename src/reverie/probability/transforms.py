"""Invertible layers of normalizing flows on maps with channels last, x (B, H, W, C).

Each returns y and log |det dy / dx| in nats, of rows (B,) or, where it is the same for all rows, 0-dim; ``inverse``
gives x of y.

Affine couplings: Dinh et al., "Density estimation using Real NVP", arXiv:1605.08803. ActNorm and invertible 1x1
convolutions: Kingma and Dhariwal, "Glow", arXiv:1807.03039. Spline couplings: Durkan et al., arXiv:1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.probability.splines import rational_quadratic

_LEAST_STD = 1e-3
_MOST_LOG_SCALE = 1.0  # of one coupling


class ActNorm(nn.Module):
    """x exp(log_scale) + shift for each channel, fitted to give the first batch mean 0 and variance 1.

    Args:
        channels: of x (..., C).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp() + self.shift, self.log_scale.sum() * _positions(x)

    def inverse(self, y: Tensor, *_: Any) -> Tensor:
        return (y - self.shift) * (-self.log_scale).exp()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set scale and shift by the mean and the standard deviation of each channel."""
        std, mean = torch.std_mean(x.flatten(0, -2), 0)
        std = std.clamp(min=_LEAST_STD)
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean / std)


class NormalisedConv1x1(nn.Module):
    """ActNorm, then an invertible 1x1 convolution P L (U + diag(s)) that starts as a rotation; one product of both.

    Args:
        channels: of x (..., C).
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ActNorm(channels)
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
        permutation, lower, upper = (part.float() for part in torch.linalg.lu(rotation))
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", upper.diag().sign())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))
        self.log_s = nn.Parameter(upper.diag().abs().log())

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """P, L with a diagonal of 1, and U + diag(s)."""
        eye = torch.eye(len(self.sign), dtype=self.sign.dtype, device=self.sign.device)
        lower, upper = self.lower.tril(-1) + eye, self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())
        return self.permutation.to(dtype), lower.to(dtype), upper.to(dtype)

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            permutation, lower, upper = self.factors(x.dtype)
            weight = permutation @ (lower @ upper)
            y = F.linear(x, weight * self.norm.log_scale.exp(), weight @ self.norm.shift.to(x.dtype))
        return y, (self.norm.log_scale.sum() + self.log_s.sum()) * _positions(x)

    def inverse(self, y: Tensor, *_: Any) -> Tensor:
        permutation, lower, upper = self.factors(y.dtype)
        columns = permutation.T @ y.flatten(0, -2).T
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        return self.norm.inverse(columns.T.view_as(y))

    def fit(self, x: Tensor) -> None:
        """Fit the ActNorm."""
        self.norm.fit(x)


class Permutation(nn.Module):
    """The channels in another order.

    Args:
        order: channel i of y is channel order[i] of x.
    """

    order: Tensor

    def __init__(self, order: Sequence[int]):
        super().__init__()
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return x[..., self.order], x.new_zeros(())

    def inverse(self, y: Tensor, *_: Any) -> Tensor:
        return y[..., self.order.argsort()]


class Elementwise(Protocol):
    """An invertible function of each value, with ``parameters`` numbers for each."""

    parameters: int

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, H, W, C) and raw (B, H, W, C * parameters), the identity at 0, to y and log dy / dx of x's shape."""

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        """x of y."""


class Affine:
    """x exp(log_scale) + shift, with log_scale within 1 of 0."""

    parameters = 2

    def terms(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The logarithm of the scale, and the shift."""
        log_scale, shift = raw.chunk(2, -1)
        return _MOST_LOG_SCALE * torch.tanh(log_scale / _MOST_LOG_SCALE), shift

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, shift = self.terms(raw)
        return x * log_scale.exp() + shift, log_scale

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        log_scale, shift = self.terms(raw)
        return (y - shift) * (-log_scale).exp()


class Spline:
    """A monotone rational-quadratic spline on [-bound, bound], the identity beyond.

    Args:
        bins: of the spline.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0):
        self.bound, self.parameters = bound, 3 * bins - 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(x, raw.unflatten(-1, (-1, self.parameters)), self.bound)

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        return rational_quadratic(y, raw.unflatten(-1, (-1, self.parameters)), self.bound, inverse=True)[0]


class AffineSpline:
    """An affine function, then a spline."""

    def __init__(self, bins: int = 8):
        self.affine, self.spline = Affine(), Spline(bins)
        self.parameters = self.affine.parameters + self.spline.parameters

    def split(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of the affine function, and of the spline."""
        affine, spline = raw.tensor_split([self.affine.parameters * x.shape[-1]], -1)
        return affine, spline

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        affine, spline = self.split(x, raw)
        x, log_scale = self.affine.forward(x, affine)
        y, log_slope = self.spline.forward(x, spline)
        return y, log_scale + log_slope

    def inverse(self, y: Tensor, raw: Tensor) -> Tensor:
        affine, spline = self.split(y, raw)
        return self.affine.inverse(self.spline.inverse(y, spline), affine)


class Coupling(nn.Module):
    """The last channels transformed value by value, by a network of the first ones.

    Args:
        net: (first channels, with those of ``context`` behind them (B, C, H, W), label) to the parameters.
        elementwise: function of the last channels.
        kept: number of first channels.
    """

    def __init__(self, net: nn.Module, elementwise: Elementwise, kept: int):
        super().__init__()
        self.net, self.elementwise, self.kept = net, elementwise, kept

    def raw(self, a: Tensor, label: Tensor | None, context: Tensor | None) -> Tensor:
        """Parameters of the elementwise function, of the type of ``a``, which may be a finer one than the network's."""
        inputs = a if context is None else torch.cat([a, context], -1)
        dtype = next(self.net.parameters()).dtype
        return self.net(inputs.permute(0, 3, 1, 2).to(dtype), label).permute(0, 2, 3, 1).to(a.dtype)

    def forward(self, x: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = x.tensor_split([self.kept], -1)
        y, log_slope = self.elementwise.forward(b, self.raw(a, label, context))
        return torch.cat([a, y], -1), log_slope.sum((1, 2, 3))

    def inverse(self, y: Tensor, label: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        a, b = y.tensor_split([self.kept], -1)
        return torch.cat([a, self.elementwise.inverse(b, self.raw(a, label, context))], -1)


class Logit(nn.Module):
    """logit(alpha + (1 - 2 alpha) v) of v in (0, 1), for images dequantised around levels in [-1, 1] (B, ...)."""

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * (x * 127.5 + 128) / 256
        log_slope = math.log((1 - 2 * self.alpha) * 127.5 / 256) - (p.log() + (-p).log1p())
        return torch.logit(p), log_slope.flatten(1).sum(1)

    def inverse(self, y: Tensor, *_: Any) -> Tensor:
        v = (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha)
        return (v * 256 - 128) / 127.5


@torch.no_grad()
def fit_actnorm(transform: nn.Module, *inputs: Any) -> None:
    """Fit every ActNorm of a transform to what it gets, from first to last, in one evaluation."""
    layers = [layer for layer in transform.modules() if isinstance(layer, ActNorm | NormalisedConv1x1)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: layer.fit(args[0])) for layer in layers]
    try:
        transform(*inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _positions(x: Tensor) -> int:
    """Values of a row's map in each channel."""
    return x[0, ..., 0].numel()
