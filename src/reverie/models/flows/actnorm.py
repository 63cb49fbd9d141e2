"""Activation normalisation with a data-dependent start (Kingma and Dhariwal, "Glow", arXiv:1807.03039, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_LEAST_STD = 1e-3


class ActNorm(nn.Module):
    """x exp(log_scale) + shift for each channel, fitted to give the first batch mean 0 and variance 1.

    Args:
        channels: of x (B, C, ...).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.log_scale, self.shift = (nn.Parameter(torch.zeros(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and log |det dy / dx| in nats, the same for all rows (0-dim)."""
        broadcast = (-1, *[1] * (x.ndim - 2))
        y = x * self.log_scale.exp().view(broadcast) + self.shift.view(broadcast)
        return y, self.log_scale.sum() * x[0, 0].numel()

    def inverse(self, y: Tensor) -> Tensor:
        """x of y."""
        broadcast = (-1, *[1] * (y.ndim - 2))
        return (y - self.shift.view(broadcast)) * (-self.log_scale).exp().view(broadcast)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set scale and shift by the mean and the standard deviation of each channel of x (B, C, ...)."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        std, mean = torch.std_mean(x, axes)
        std = std.clamp(min=_LEAST_STD)
        self.log_scale.copy_(-std.log())
        self.shift.copy_(-mean / std)


@torch.no_grad()
def fit_actnorm(transform: nn.Module, *inputs: Any) -> None:
    """Fit every ActNorm of a transform to what it gets, from first to last, in one evaluation."""
    layers = [layer for layer in transform.modules() if isinstance(layer, ActNorm)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: layer.fit(args[0])) for layer in layers]
    try:
        transform(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
