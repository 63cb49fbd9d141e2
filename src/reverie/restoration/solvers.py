"""Solvers: an observation and its operator to samples of the images that it may be of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import Frame, Model, call, verbs_of
from reverie.diffusion.frames import last_image
from reverie.diffusion.grids import uniform
from reverie.diffusion.likelihood import even
from reverie.diffusion.samplers import Denoise, Steps, ddim
from reverie.inference.rows import evaluating
from reverie.restoration.operators import Operator

ABLE = "a denoising-autoencoder, energy, autoregressive, token and diffusion models of images"  # to restore something
_ETA = 0.85  # fresh noise of each step, as a share of the ancestral sampler's (Wang et al., section 4)
_LAST = 2e-3  # sigma / alpha of the last step


def restore(model: Model, observation: Tensor, operator: Operator, noise: Noise, **options: Any) -> Tensor:
    """Images (B, C, H, W) for observations: the last state of ``restoring``, whose arguments these are."""
    with evaluating(model):
        return last_image(restoring(model, observation, operator, noise, **options))


def in_steps(model: Model) -> bool:
    """Whether its restorations appear step by step."""
    return not {"complete", "denoiser"}.isdisjoint(verbs_of(model))


def restoring(
    model: Model,
    observation: Tensor,
    operator: Operator,
    noise: Noise,
    noise_std: float = 0.0,
    steps: int = 50,
    **cond: Any,
) -> Iterator[Frame]:
    """The states of restoration; the image of the last is the restoration of each row, by its stream of noise.

    A model with a ``denoiser`` samples from the posterior: where nothing is missing exactly, by the reverse process
    from the observation on; else approximately, by DDIM steps whose estimates agree with the observation (DDNM). A
    model that was trained to undo a corruption reconstructs, in one pass.

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
    if "complete" in verbs_of(model):
        yield from call(model, "complete", observation, operator.mask, noise, steps, **cond)
    elif "denoiser" not in verbs_of(model):
        yield _frame(1.0, model.decode(model.encode(observation, **cond), **cond))
    else:
        denoise = model.denoiser(**cond)
        if operator.is_identity and noise_std:
            solver, total = denoised(denoise, observation, noise, noise_std, steps), steps + 1
        else:
            grid = uniform(model.schedule, steps)
            solver, total = null_space(denoise, observation, operator, noise, grid, noise_std), steps
        for step, (_, x0) in enumerate(solver, 1):  # the last x is its estimate
            yield _frame(step / total, x0)


def _frame(progress: float, image: Tensor) -> Frame:
    return Frame(progress, {"image": image}, partial(_render, image))


def _render(image: Tensor) -> dict[str, Tensor]:
    return {"image": image.clamp(-1, 1)}


def denoised(denoise: Denoise, observation: Tensor, noise: Noise, noise_std: float, steps: int) -> Steps:
    """A sample of p(x0 | y = x0 + noise_std e): y is a state of the reverse process, which goes on from there."""
    grid = [*even(noise_std, min(_LAST, noise_std / 2), steps), (1.0, 0.0)]
    return ddim(denoise, grid[0][0] * observation, grid, noise, eta=1.0)


def null_space(
    denoise: Denoise,
    observation: Tensor,
    operator: Operator,
    noise: Noise,
    grid: list[tuple[float, float]],
    noise_std: float = 0.0,
) -> Steps:
    """DDNM (Wang et al., ICLR 2023, arXiv:2212.00490): every estimate of x0 is made to agree with the observation.

    With noise in the observation the agreement is weighted by min(1, sigma / (alpha noise_std)), so that the last steps
    do not reproduce it.
    """

    def consistent(x: Tensor, alpha: float, sigma: float) -> Tensor:
        weight = min(1.0, sigma / (alpha * noise_std)) if alpha and noise_std else 1.0
        return operator.project(denoise(x, alpha, sigma), observation, weight)

    shape = operator.pseudo_inverse(observation).shape[1:]
    start = noise(*shape).to(observation) * (grid[0][0] ** 2 + grid[0][1] ** 2) ** 0.5
    return ddim(consistent, start, grid, noise, eta=_ETA)
