"""Guidance: denoisers composed of denoisers, independent of the sampler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reverie.diffusion.samplers import Denoise


def guided(denoise: Denoise, weaker: Denoise, scale: float) -> Denoise:
    """weaker + scale (denoise - weaker), in x0.

    Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) if ``weaker`` is the same network under the null
    condition; autoguidance (Karras et al., arXiv:2406.02507) if it is a smaller or less trained network. Scale 1 is
    off.
    """
    if scale == 1:
        return denoise
    return lambda x, alpha, sigma: torch.lerp(weaker(x, alpha, sigma), denoise(x, alpha, sigma), scale)


def classified(denoise: Denoise, log_likelihood: Callable[[Tensor, float, float], Tensor], scale: float) -> Denoise:
    """Classifier guidance: E[x0|x, c] = E[x0|x] + sigma^2 / alpha grad log p(c|x).

    Dhariwal and Nguyen, arXiv:2105.05233.

    Args:
        denoise: the unconditional denoiser.
        log_likelihood: log p(c | x) of each row (B,), by a classifier trained on noisy images.
        scale: 0 is off, 1 is Bayes' rule, above 1 is sharper.
    """
    if scale == 0:
        return denoise

    def steered(x: Tensor, alpha: float, sigma: float) -> Tensor:
        if alpha == 0:  # pure noise is independent of the class
            return denoise(x, alpha, sigma)
        with torch.enable_grad(), torch.inference_mode(False):
            leaf = x.detach().clone().requires_grad_(True)
            (grad,) = torch.autograd.grad(log_likelihood(leaf, alpha, sigma).sum(), leaf)
        return denoise(x, alpha, sigma) + scale * sigma**2 / alpha * grad

    return steered
