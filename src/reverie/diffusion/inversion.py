"""Inversion: the probability flow from data to noise, and back, by Heun's method.

Song et al., arXiv:2010.02502, section 4.3 (DDIM inversion is its first-order form). Latents have unit variance: x is
scaled so that alpha^2 + sigma^2 = 1.
"""

from __future__ import annotations

from torch import Tensor

from reverie.diffusion.samplers import Denoise, Grid, heun


def to_noise(denoise: Denoise, x0: Tensor, grid: Grid) -> Tensor:
    """Clean samples (B, C, H, W) to their noise, the inverse of ``from_noise`` up to the discretisation error.

    Args:
        grid: noise first, with alpha^2 + sigma^2 = 1 and sigma > 0, such as ``likelihood.even``.
    """
    upwards = list(reversed(grid))
    *_, (x, _) = heun(denoise, upwards[0][0] * x0, upwards)
    return x


def from_noise(denoise: Denoise, noise: Tensor, grid: Grid) -> Tensor:
    """Noise (B, C, H, W) of unit variance to clean samples."""
    *_, (x, _) = heun(denoise, noise, [*grid, (1.0, 0.0)])
    return x
