"""Solvers: an observation and its operator to samples of the images that it may be of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import Model, call, verbs_of
from reverie.diffusion.grids import uniform
from reverie.diffusion.likelihood import even
from reverie.diffusion.samplers import Denoise, ddim
from reverie.inference.rows import evaluating
from reverie.restoration.operators import Operator

ABLE = "a denoising-autoencoder, energy, autoregressive and diffusion models of images"  # to restore something
_ETA = 0.85  # fresh noise of each step, as a share of the ancestral sampler's (Wang et al., section 4)
_LAST = 2e-3  # sigma / alpha of the last step


def restore(
    model: Model,
    observation: Tensor,
    operator: Operator,
    noise: Noise,
    noise_std: float = 0.0,
    steps: int = 50,
    **cond: Any,
) -> Tensor:
    """Images (B, C, H, W) for observations, one for each row and stream of noise.

    A model with a ``denoiser`` samples from the posterior: where nothing is missing exactly, by the reverse process
    from the observation on; else approximately, by DDIM steps whose estimates agree with the observation (DDNM). A
    model that was trained to undo a corruption reconstructs.

    Args:
        model: whose card has ``restores``.
        observation: A x + noise of standard deviation ``noise_std``, on images that span 2.
        operator: A.
        noise: a stream a row.
        steps: of the sampler, or sweeps of an energy model's Markov chain. An autoregressive model draws once.
        cond: label or text of each row.
    Raises:
        UsageError: a model that restores nothing.
    """
    if not card_of(model).restores:
        raise UsageError(f"{name_of(model)} restores nothing: {ABLE} do.")
    with evaluating(model):
        if "complete" in verbs_of(model):
            return call(model, "complete", observation, operator.mask, noise, steps, **cond)
        if "denoiser" not in verbs_of(model):
            return model.decode(model.encode(observation, **cond), **cond)
        denoise = model.denoiser(**cond)
        if operator.is_identity and noise_std:
            return denoised(denoise, observation, noise, noise_std, steps)
        return null_space(denoise, observation, operator, noise, uniform(model.schedule, steps), noise_std)


def denoised(denoise: Denoise, observation: Tensor, noise: Noise, noise_std: float, steps: int) -> Tensor:
    """A sample of p(x0 | y = x0 + noise_std e): y is a state of the reverse process, which goes on from there."""
    grid = [*even(noise_std, min(_LAST, noise_std / 2), steps), (1.0, 0.0)]
    *_, (x, _) = ddim(denoise, grid[0][0] * observation, grid, noise, eta=1.0)
    return x.clamp(-1, 1)


def null_space(
    denoise: Denoise,
    observation: Tensor,
    operator: Operator,
    noise: Noise,
    grid: list[tuple[float, float]],
    noise_std: float = 0.0,
) -> Tensor:
    """DDNM (Wang et al., ICLR 2023, arXiv:2212.00490): every estimate of x0 is made to agree with the observation.

    With noise in the observation the agreement is weighted by min(1, sigma / (alpha noise_std)), so that the last steps
    do not reproduce it.
    """

    def consistent(x: Tensor, alpha: float, sigma: float) -> Tensor:
        weight = min(1.0, sigma / (alpha * noise_std)) if alpha and noise_std else 1.0
        return operator.project(denoise(x, alpha, sigma), observation, weight)

    shape = operator.pseudo_inverse(observation).shape[1:]
    start = noise(*shape).to(observation) * (grid[0][0] ** 2 + grid[0][1] ** 2) ** 0.5
    *_, (x, _) = ddim(consistent, start, grid, noise, eta=_ETA)
    return x.clamp(-1, 1)
