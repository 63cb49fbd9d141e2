"""Penalties on gradients of the discriminator and of the generator, row by row and differentiable.

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
    """|d score / d x|^2 of each row (B,), itself differentiable; ``score`` gives a number a row.

    Where rows share a score (packing), each row's part of its gradient counts for itself.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(score(x).sum(), x, create_graph=torch.is_grad_enabled())
    return grad.square().flatten(1).sum(1)


def between(real: Tensor, fakes: Tensor, rng: Noise) -> Tensor:
    """A point on the line from each real image to a fake, uniformly drawn."""
    return torch.lerp(real, fakes, rng.uniform(1, 1, 1).to(real))


def path_lengths(synthesis: Callable[[Tensor, Noise], Tensor], w: Tensor, rng: Noise) -> Tensor:
    """|J' y| of each row, J the Jacobian of images by styles and y noise, as a mean over styles (B,)."""
    images = synthesis(w, rng).float()
    y = rng(*images.shape[1:]) / math.sqrt(images.shape[2] * images.shape[3])
    (grad,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
    return grad.float().square().sum(2).mean(1).sqrt()
