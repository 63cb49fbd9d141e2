"""E[x0 | x] at (alpha, sigma): the interface of a trained network to samplers, guidance and likelihoods."""

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
    """``denoise(x, alpha, sigma)`` for x of any scaling; x is rescaled to the schedule's scaling for the network.

    Alpha and sigma are numbers, or (B, 1, 1, 1). If sigma/alpha exceeds the schedule's maximum (also at alpha = 0), the
    network is conditioned on t = 1.

    Args:
        network: with its condition bound.
    """

    def denoise(x: Tensor, alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        alpha, sigma = _exact(alpha), _exact(sigma)
        t = schedule.t_from_ratio(sigma / alpha).clamp(max=1)  # the ratio is inf at alpha 0
        a, s = schedule.alpha_sigma(t)
        scaled = x * ((a**2 + s**2) / (alpha**2 + sigma**2)).sqrt().to(x.dtype)
        times = schedule.c_noise(t).float().to(x.device).flatten().expand(len(x))
        output = network(scaled * prediction.c_in(a, s).to(x.dtype), times).to(x.dtype)
        return prediction.c_skip(a, s).to(x.dtype) * scaled + prediction.c_out(a, s).to(x.dtype) * output

    return denoise


def clipped(denoise: Denoise, limit: float = 1.0) -> Denoise:
    """Clamp x0 estimates to [-limit, limit], the range of the data (Ho et al., arXiv:2006.11239, section 3.3)."""
    return lambda x, alpha, sigma: denoise(x, alpha, sigma).clamp(-limit, limit)
