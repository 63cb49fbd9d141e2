"""How likely a picture is to a diffusion model: a density by the probability flow, and the variational bound.

Both ask ``denoise`` for E[x0 | x] along a grid of (alpha, sigma), noise first as the samplers' (which see), of any
scaling. A pair without noise or without picture, (1, 0) or (0, 1), may end a grid; the numbers are those of the pairs
between. Everything starts from N(0, (alpha^2 + sigma^2) I) at the most noise, as sampling does.
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

RowDenoise = Callable[[Tensor, Any, Any], Tensor]  # a Denoise whose alpha and sigma may also be (B, 1, 1, 1)
_LOG_2PI = math.log(2 * math.pi)
DEQUANTISED = 1 / (127.5 * math.sqrt(12))  # standard deviation of u / 127.5 with u uniform on [-1/2, 1/2)


def _noisy(grid: Grid) -> list[tuple[float, float]]:
    """The pairs of a grid that have both picture and noise.

    Raises:
        UsageError: fewer than two.
    """
    pairs = [(a, s) for a, s in grid if a and s]
    if len(pairs) < 2:
        raise UsageError(
            f"A likelihood needs a grid of at least 2 pairs that have picture and noise, not {len(pairs)}."
        )
    return pairs


def even(high: float, low: float, steps: int) -> Grid:
    """steps + 1 pairs even in log(sigma / alpha), from ``high`` to ``low``, in the scaling alpha^2 + sigma^2 = 1.

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
    """Log-density of x (B, C, H, W) under the probability flow, nats per picture (B,).

    Song et al., arXiv:2011.13456, section 4.3: the ordinary differential equation that deterministic samplers follow
    carries the noise to a density, and log p changes along it by its divergence. The density is that of what such a
    sampler has made at the grid's least noise, divided by alpha there: of pictures that still hold Gaussian noise of
    standard deviation sigma / alpha. x is taken to be one of them.

    Heun's method in log(sigma / alpha), two evaluations a step and a backward pass for each probe; the error falls
    with the square of the steps. Works under ``torch.inference_mode``.

    Args:
        grid: even in log(sigma / alpha) is a good one.
        noise: where probes are drawn from, one stream a row.
        probes: directions in which Hutchinson's estimator looks at the divergence, drawn afresh at every evaluation:
            the log-density is then unbiased. None looks at every dimension in turn, exactly.

    Raises:
        UsageError: fewer than two pairs with noise, probes below 1, or probes without ``noise``.
    """
    if probes is not None and (probes < 1 or noise is None):
        raise UsageError("probes is at least 1, with a Noise to draw them from; or None for the exact divergence.")
    pairs = _noisy(grid)[::-1]

    def slope(z: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """d z / d log(sigma / alpha) in the scaling of alpha^2 + sigma^2 = 1, and its divergence (B,)."""
        scale = math.hypot(alpha, sigma)
        with torch.inference_mode(False), torch.enable_grad():
            here = z.detach().clone().requires_grad_(True)
            x0 = denoise(here * scale, alpha, sigma)
            trace = z.new_zeros(len(z))
            for direction in _directions(here, noise, probes):
                (pulled,) = torch.autograd.grad(x0, here, direction, retain_graph=True)
                trace = trace + (pulled * direction).flatten(1).sum(1)
        alpha, trace = alpha / scale, trace / (probes or 1)
        return alpha * (alpha * z - x0.detach()), alpha * (alpha * z[0].numel() - trace)

    alpha, sigma = pairs[0]
    shrink = alpha / math.hypot(alpha, sigma)
    z, log_det = shrink * x, x.new_full((len(x),), x[0].numel() * math.log(shrink))
    for (a, s), (b, r) in pairwise(pairs):
        step = math.log(r / b) - math.log(s / a)
        first, growth = slope(z, a, s)
        second, other = slope(z + step * first, b, r)
        z = z + step / 2 * (first + second)
        log_det = log_det + step / 2 * (growth + other)
    return log_det - 0.5 * (z.square() + _LOG_2PI).flatten(1).sum(1)


def _directions(x: Tensor, noise: Noise | None, probes: int | None) -> Iterator[Tensor]:
    """Vectors v in x's shape with E[v v'] = I (Rademacher's signs), or the whole basis."""
    if probes is None:
        for place in range(x[0].numel()):
            direction = torch.zeros_like(x, memory_format=torch.contiguous_format)
            direction.view(len(x), -1)[:, place] = 1
            yield direction
    for _ in range(probes or 0):
        assert noise is not None
        yield 2 * noise.bernoulli(0.5, *x.shape[1:]).to(x) - 1


def flow_log_prob_8bit(denoise: Denoise, image: Tensor, grid: Grid, noise: Noise, probes: int | None = 1) -> Tensor:
    """``flow_log_prob`` of 8-bit pictures in [-1, 1] under uniform dequantisation, nats per picture (B,).

    Its mean over the draws is a lower bound of log P(image), P being the flow's density rounded to 8 bits (Theis et
    al., arXiv:1511.01844), up to the error of the steps. A grid that ends at ``DEQUANTISED`` is a good one: dequantised
    pictures have as much noise as the flow's own.
    """
    x = image + noise.uniform(*image.shape[1:], low=-0.5, high=0.5).to(image) / 127.5
    return flow_log_prob(denoise, x, grid, noise, probes) - image[0].numel() * math.log(127.5)


def variational_bound(denoise: RowDenoise, image: Tensor, grid: Grid, noise: Noise, times: int | None = 1) -> Tensor:
    """Lower bound of log P(image) of 8-bit pictures in [-1, 1] (B, C, H, W), nats per picture (B,), in expectation.

    Ho et al., arXiv:2006.11239, equation 5, of the chain whose states have the grid's pairs, and any scaling:

        -KL(q(x_T|x_0) || N(0, (alpha_T^2 + sigma_T^2) I)) - sum_t KL(q(x_t-1|x_t, x_0) || p(x_t-1|x_t))
            + log p(x_0|x_1)

    p(x_t-1|x_t) is q(x_t-1|x_t, x_0) with ``denoise(x_t)`` in the place of x_0, the variance being the posterior's:
    what the sampler "ddpm" draws from. Its KL is |x_0 - denoise(x_t)|^2 / 2 times the growth of alpha^2 / sigma^2 in
    that step (Kingma et al., arXiv:2107.00630, section 4). p(x_0|x_1) is ``eight_bit_log_prob`` about denoise(x_1), its
    standard deviation sigma_1 / alpha_1.

    Args:
        noise: one stream a row.
        times: how many of the chain's KLs each picture looks at, drawn at random, the likely large ones more often
            and weighted accordingly: unbiased, for times + 1 evaluations; ``denoise`` is then given alpha and sigma of
            shape (B, 1, 1, 1). None takes the whole sum, for as many evaluations as there are pairs.

    Raises:
        UsageError: fewer than two pairs with noise, times below 1.
    """
    pairs = _noisy(grid)
    if times is not None and times < 1:
        raise UsageError(f"times is at least 1, or None for every step of the chain, not {times}.")

    def guess(alpha: float | Tensor, sigma: float | Tensor) -> Tensor:
        return denoise(alpha * image + sigma * noise(*image.shape[1:]).to(image), alpha, sigma)

    (alpha, sigma), total = pairs[0], pairs[0][0] ** 2 + pairs[0][1] ** 2
    prior = 0.5 * ((alpha * image).square() / total + sigma**2 / total - 1 - math.log(sigma**2 / total))
    alpha, sigma = pairs[-1]
    bound = eight_bit_log_prob(image, guess(alpha, sigma), sigma / alpha) - prior.flatten(1).sum(1)
    snr = torch.tensor([(a / s) ** 2 for a, s in pairs], dtype=torch.float64)
    growth = snr.diff()
    if times is None:
        for pair, weight in zip(pairs, growth.tolist(), strict=False):
            bound = bound - weight / 2 * (image - guess(*pair)).square().flatten(1).sum(1)
        return bound
    share = growth / (snr[:-1] + 10 * snr[:-1].sqrt())  # about growth |x_0 - denoise(x_t)|^2, with 10 for pictures
    share = share / share.sum()
    weights = (growth / share / (2 * times)).to(image)
    levels, ends = torch.tensor(pairs, dtype=torch.float64).to(image), share.cumsum(0).to(image)
    for part, chance in enumerate(noise.uniform(times).to(image).unbind(1)):  # each time from its own part of the chain
        place = torch.searchsorted(ends, (part + chance) / times).clamp(max=len(growth) - 1)
        error = image - guess(*(level[place][:, None, None, None] for level in levels.unbind(1)))
        bound = bound - weights[place] * error.square().flatten(1).sum(1)
    return bound


def eight_bit_log_prob(image: Tensor, mean: Tensor, deviation: float) -> Tensor:
    """log P(image) where P rounds N(mean, deviation^2) to the nearest of 256 levels in [-1, 1], nats per picture (B,).

    Ho et al., arXiv:2006.11239, equation 13. The outermost levels take all that lies beyond them.
    """
    half = 1 / 255
    low = ((image - half - mean) / deviation).masked_fill(image < -1 + half, -math.inf)
    high = ((image + half - mean) / deviation).masked_fill(image > 1 - half, math.inf)
    upper = low + high > 0  # there the distribution function is near 1: take the difference in the other tail
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return (above + torch.log(-torch.expm1(below - above))).flatten(1).sum(1)
