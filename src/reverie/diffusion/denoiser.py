"""E[x0 | x] at (alpha, sigma): the one view of a trained network that samplers, guidance and likelihoods consume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.diffusion.prediction import Prediction
from reverie.diffusion.samplers import Denoise
from reverie.diffusion.schedules import Schedule

Network = Callable[[Tensor, Tensor], Tensor]  # (input (B, C, H, W), timesteps (B,)) -> output (B, C, H, W)


def _exact(value: float | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def denoiser(network: Network, schedule: Schedule, prediction: Prediction) -> Denoise:
    """``denoise(x, alpha, sigma)``, of any scaling: x is brought to the schedule's own before the network sees it.

    Alpha and sigma are numbers, or one of each a row: (B, 1, 1, 1). More noise than the schedule has, up to alpha 0,
    is told as its most.

    Args:
        network: with its condition bound.
    """

    def denoise(x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        alpha, sigma = _exact(alpha), _exact(sigma)
        t = schedule.time(sigma / alpha).clamp(max=1)  # the ratio is inf at alpha 0
        a, s = schedule.pair(t)
        own = x * ((a**2 + s**2) / (alpha**2 + sigma**2)).sqrt().to(x.dtype)
        times = schedule.timestep(t).float().to(x.device).flatten().expand(len(x))
        output = network(own * prediction.scale(a, s).to(x.dtype), times).to(x.dtype)
        return prediction.skip(a, s).to(x.dtype) * own + prediction.gain(a, s).to(x.dtype) * output

    return denoise


def clipped(denoise: Denoise, limit: float = 1.0) -> Denoise:
    """Estimates clamped to [-limit, limit], the range of the data (Ho et al., arXiv:2006.11239, section 3.3)."""
    return lambda x, alpha, sigma: denoise(x, alpha, sigma).clamp(-limit, limit)
