"""The likelihood of an image under a diffusion model: a density by the probability flow, and the variational bound.

Both evaluate ``denoise``, E[x0 | x], along a grid of (alpha, sigma), noise first as for the samplers, of any scaling.
Pairs at the ends of a grid without noise or without image, (1, 0) or (0, 1), are ignored. The prior at the maximum
noise is N(0, (alpha^2 + sigma^2) I), as in sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.diffusion.samplers import Denoise, Grid
from reverie.probability.likelihoods import LOG_2PI, dequantise, discretised_gaussian, log_bins

RowDenoise = Callable[[Tensor, Any, Any], Tensor]  # a Denoise that also accepts alpha and sigma of (B, 1, 1, 1)


def _noisy(grid: Grid) -> list[tuple[float, float]]:
    """The pairs of a grid with alpha > 0 and sigma > 0.

    Raises:
        UsageError: fewer than two.
    """
    pairs = [(a, s) for a, s in grid if a and s]
    if len(pairs) < 2:
        raise UsageError(f"A likelihood needs a grid of at least 2 pairs with image and noise, not {len(pairs)}.")
    return pairs


def even(high: float, low: float, steps: int) -> Grid:
    """steps + 1 pairs uniform in log(sigma / alpha), from ``high`` to ``low``, with alpha^2 + sigma^2 = 1.

    Raises:
        UsageError: steps below 1.
    """
    if steps < 1:
        raise UsageError(f"A likelihood needs at least 1 step, not {steps}.")
    ratios = torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64).exp().tolist()
    return [(1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)) for ratio in ratios]


def flow_log_prob(
    denoise: Denoise, x: Tensor, grid: Grid, noise: Noise | None = None, probes: int | None = 1
) -> Tensor:
    """Log-density of x (B, C, H, W) under the probability flow, nats per image (B,).

    Song et al., arXiv:2011.13456, section 4.3: deterministic samplers solve an ordinary differential equation that maps
    the noise distribution to a density; along it log p changes by the divergence. The density is of the sampler's x at
    the grid's smallest noise, divided by alpha: of images with Gaussian noise of standard deviation sigma / alpha. x is
    treated as such an image.

    Heun's method in log(sigma / alpha), two evaluations per step and a backward pass per probe; the error decreases
    quadratically in the number of steps. Works under ``torch.inference_mode``.

    Args:
        grid: preferably uniform in log(sigma / alpha).
        noise: the random numbers of the probes, one stream per row.
        probes: number of random directions of Hutchinson's estimator of the divergence, new ones at every evaluation:
            the log-density is then unbiased. None: the exact divergence, over all dimensions.

    Raises:
        UsageError: fewer than two pairs with noise, probes below 1, or probes without ``noise``.
    """
    if probes is not None and (probes < 1 or noise is None):
        raise UsageError("probes must be at least 1, with a Noise for them; or None for the exact divergence.")
    pairs = _noisy(grid)[::-1]

    def derivative(z: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """d z / d log(sigma / alpha) in the scaling of alpha^2 + sigma^2 = 1, and its divergence (B,)."""
        scale = math.hypot(alpha, sigma)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = z.detach().clone().requires_grad_(True)
            x0 = denoise(leaf * scale, alpha, sigma)
            trace = z.new_zeros(len(z))
            for direction in _directions(leaf, noise, probes):
                (product,) = torch.autograd.grad(x0, leaf, direction, retain_graph=True)
                trace = trace + (product * direction).flatten(1).sum(1)
        alpha, trace = alpha / scale, trace / (probes or 1)
        return alpha * (alpha * z - x0.detach()), alpha * (alpha * z[0].numel() - trace)

    alpha, sigma = pairs[0]
    shrink = alpha / math.hypot(alpha, sigma)
    z, log_det = shrink * x, x.new_full((len(x),), x[0].numel() * math.log(shrink))
    for (a, s), (b, r) in pairwise(pairs):
        step = math.log(r / b) - math.log(s / a)
        first, divergence = derivative(z, a, s)
        second, later_divergence = derivative(z + step * first, b, r)
        z = z + step / 2 * (first + second)
        log_det = log_det + step / 2 * (divergence + later_divergence)
    return log_det - 0.5 * (z.square() + LOG_2PI).flatten(1).sum(1)


def _directions(x: Tensor, noise: Noise | None, probes: int | None) -> Iterator[Tensor]:
    """Vectors v in x's shape with E[v v'] = I (Rademacher signs), or the standard basis."""
    if probes is None:
        for index in range(x[0].numel()):
            direction = torch.zeros_like(x, memory_format=torch.contiguous_format)
            direction.view(len(x), -1)[:, index] = 1
            yield direction
    for _ in range(probes or 0):
        assert noise is not None
        yield 2 * noise.bernoulli(0.5, *x.shape[1:]).to(x) - 1


def flow_log_prob_8bit(denoise: Denoise, image: Tensor, grid: Grid, noise: Noise, probes: int | None = 1) -> Tensor:
    """``flow_log_prob`` of 8-bit images in [-1, 1] under uniform dequantisation, nats per image (B,).

    Its expectation is a lower bound of log P(image), P being the flow's density rounded to 8 bits (Theis et al.,
    arXiv:1511.01844), up to the discretisation error. The grid should end at ``DEQUANTISED_STD``, the standard
    deviation of the noise in dequantised images.
    """
    return flow_log_prob(denoise, dequantise(image, noise), grid, noise, probes) - log_bins(image)


def variational_bound(denoise: RowDenoise, image: Tensor, grid: Grid, noise: Noise, times: int | None = 1) -> Tensor:
    """Lower bound of log P(image) of 8-bit images in [-1, 1] (B, C, H, W), nats per image (B,), in expectation.

    Ho et al., arXiv:2006.11239, equation 5, for the chain of the grid's pairs, of any scaling:

        -KL(q(x_T|x_0) || N(0, (alpha_T^2 + sigma_T^2) I)) - sum_t KL(q(x_t-1|x_t, x_0) || p(x_t-1|x_t))
            + log p(x_0|x_1)

    p(x_t-1|x_t) is q(x_t-1|x_t, x_0) with x_0 replaced by ``denoise(x_t)`` and the posterior's variance, as in the
    sampler "ddpm". Its KL is |x_0 - denoise(x_t)|^2 / 2 times the increase of alpha^2 / sigma^2 in that step (Kingma et
    al., arXiv:2107.00630, section 4). p(x_0|x_1) is ``discretised_gaussian`` around denoise(x_1) with standard
    deviation sigma_1 / alpha_1.

    Args:
        noise: one stream per row.
        times: number of KL terms per image, sampled with probabilities about proportional to their size and weighted
            accordingly: unbiased, with times + 1 evaluations; ``denoise`` then receives alpha and sigma of shape
            (B, 1, 1, 1). None: all terms, with an evaluation per pair.

    Raises:
        UsageError: fewer than two pairs with noise, times below 1.
    """
    pairs = _noisy(grid)
    if times is not None and times < 1:
        raise UsageError(f"times must be at least 1, or None for every step of the chain, not {times}.")

    def estimate(alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        return denoise(alpha * image + sigma * noise(*image.shape[1:]).to(image), alpha, sigma)

    (alpha, sigma), total = pairs[0], pairs[0][0] ** 2 + pairs[0][1] ** 2
    prior = 0.5 * ((alpha * image).square() / total + sigma**2 / total - 1 - math.log(sigma**2 / total))
    alpha, sigma = pairs[-1]
    bound = discretised_gaussian(image, estimate(alpha, sigma), sigma / alpha) - prior.flatten(1).sum(1)
    snr = torch.tensor([(a / s) ** 2 for a, s in pairs], dtype=torch.float64)
    growth = snr.diff()
    if times is None:
        for pair, weight in zip(pairs, growth.tolist(), strict=False):
            bound = bound - weight / 2 * (image - estimate(*pair)).square().flatten(1).sum(1)
        return bound
    share = growth / (snr[:-1] + 10 * snr[:-1].sqrt())  # about growth |x_0 - denoise(x_t)|^2, with 10 for images
    share = share / share.sum()
    weights = (growth / share / (2 * times)).to(image)
    levels, ends = torch.tensor(pairs, dtype=torch.float64).to(image), share.cumsum(0).to(image)
    for part, chance in enumerate(noise.uniform(times).to(image).unbind(1)):  # stratified over the chain
        index = torch.searchsorted(ends, (part + chance) / times).clamp(max=len(growth) - 1)
        error = image - estimate(*(level[index][:, None, None, None] for level in levels.unbind(1)))
        bound = bound - weights[index] * error.square().flatten(1).sum(1)
    return bound
