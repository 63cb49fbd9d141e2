"""E[x0 | x] at (alpha, sigma): the one view of a trained network that samplers, guidance and likelihoods consume."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.diffusion.prediction import Prediction
from reverie.diffusion.samplers import Denoise
from reverie.diffusion.schedules import Schedule

Network = Callable[[Tensor, Tensor], Tensor]  # (input (B, C, H, W), timesteps (B,)) -> output (B, C, H, W)


def denoiser(network: Network, schedule: Schedule, prediction: Prediction) -> Denoise:
    """``denoise(x, alpha, sigma)``, of any scaling: x is brought to the schedule's own before the network sees it.

    Args:
        network: with its condition bound.
    """

    def denoise(x: Tensor, alpha: float, sigma: float) -> Tensor:
        ratio = torch.tensor(sigma, dtype=torch.float64) / torch.tensor(alpha, dtype=torch.float64)  # inf at alpha 0
        t = schedule.time(ratio).clamp(max=1)
        a, s = schedule.pair(t)
        own = x * float((a**2 + s**2).sqrt() / (alpha**2 + sigma**2) ** 0.5)
        times = schedule.timestep(t).to(x.device, torch.float32).expand(len(x))
        output = network(own * float(prediction.scale(a, s)), times).to(x.dtype)
        return float(prediction.skip(a, s)) * own + float(prediction.gain(a, s)) * output

    return denoise


def clipped(denoise: Denoise, limit: float = 1.0) -> Denoise:
    """Estimates clamped to [-limit, limit], the range of the data (Ho et al., arXiv:2006.11239, section 3.3)."""
    return lambda x, alpha, sigma: denoise(x, alpha, sigma).clamp(-limit, limit)
