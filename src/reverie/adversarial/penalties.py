"""Differentiable gradient penalties of discriminator and generator, per row.

R1: Mescheder et al., ICML 2018, arXiv:1801.04406. Gradient penalty: Gulrajani et al., NeurIPS 2017, arXiv:1704.00028.
Path length: Karras et al., CVPR 2020, arXiv:1912.04958.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from reverie.core.noise import Noise


def grad_norm_sq(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """|d score / d x|^2 of each row (B,), differentiable; ``score`` returns a number per row.

    If rows share a score (packing), the gradient is split into rows.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(score(x).sum(), x, create_graph=torch.is_grad_enabled())
    return grad.square().flatten(1).sum(1)


def between(real: Tensor, fakes: Tensor, rng: Noise) -> Tensor:
    """Uniformly random points between each real image and a fake."""
    return torch.lerp(real, fakes, rng.uniform(1, 1, 1).to(real))


def path_lengths(synthesis: Callable[[Tensor, Noise], Tensor], w: Tensor, rng: Noise) -> Tensor:
    """|J' y| of each row, J the Jacobian of images by styles and y noise, as a mean over styles (B,)."""
    images = synthesis(w, rng).float()
    y = rng(*images.shape[1:]) / math.sqrt(images.shape[2] * images.shape[3])
    (grad,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
    return grad.float().square().sum(2).mean(1).sqrt()
