"""Samplers against a Gaussian mixture, whose exact denoiser is known, and against Bayes' rule."""

from __future__ import annotations

import math

import pytest
import torch

from reverie.diffusion.samplers import ddim, dpm_solver_2m, heun, unipc

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.1]], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.09, 0.02], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def mixture(x, alpha, sigma):
    """E[x0 | x = alpha x0 + sigma e] for x0 of the mixture."""
    total = alpha**2 * VARIANCES + sigma**2
    gap = x[:, None] - alpha * MEANS
    share = (WEIGHTS.log() - gap.square().sum(2) / (2 * total) - total.log()).softmax(1)
    return (share[..., None] * (MEANS + (alpha * VARIANCES / total)[:, None] * gap)).sum(1)


def variance_preserving(steps):
    """Even in the log signal-to-noise ratio, from -6 to 6."""
    ratios = torch.linspace(-6, 6, steps + 1, dtype=torch.float64).tolist()
    return [(math.sqrt(1 / (1 + math.exp(-2 * k))), math.sqrt(1 / (1 + math.exp(2 * k)))) for k in ratios]


def karras(steps):
    """sigma from 80 to 0.002 with rho = 7, alpha 1."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return [(1.0, float(s)) for s in (80 ** (1 / 7) + u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7]


def last(steps):
    *_, (x, _) = steps
    return x


@pytest.fixture(scope="module", params=[variance_preserving, karras], ids=["variance-preserving", "karras"])
def problem(request):
    """A grid, where to start, and where the exact flow ends."""
    grid = request.param
    noise = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = noise * grid(1)[0][1]
    return grid, start, last(heun(mixture, start, grid(4000)))


@pytest.mark.parametrize("sampler, order", [(ddim, 1), (heun, 2), (dpm_solver_2m, 2), (unipc, 3)])
def test_a_solver_converges_with_its_order(problem, sampler, order):
    grid, start, truth = problem
    errors = [float((last(sampler(mixture, start, grid(n))) - truth).abs().mean()) for n in (40, 80, 160)]
    found = math.log2(errors[0] / errors[2]) / 2
    assert order - 0.15 < found < order + 1.2, errors


class Ones:
    """Noise that is one everywhere: what a step adds is its standard deviation."""

    def __init__(self, value):
        self.value = value

    def __call__(self, *shape):
        return torch.full((1, *shape), self.value, dtype=torch.float64)


@pytest.mark.parametrize("a, s, b, r", [(0.6, 0.8, 0.8, 0.6), (1.0, 5.0, 1.0, 2.0), (0.3, 0.7, 0.5, 0.5)])
def test_one_ancestral_step_has_the_mean_and_variance_of_the_exact_posterior(a, s, b, r):
    """q(x_r | x_s, x0) by Bayes' rule, in a variance-preserving, a variance-exploding and a rectified-flow pair."""
    x0, x = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    ratio = a / b
    between = s**2 - ratio**2 * r**2  # variance of x_s given x_r
    precision = 1 / r**2 + ratio**2 / between
    mean = (b * x0 / r**2 + ratio * x / between) / precision
    got, plus = (last(ddim(lambda *_: x0, x, [(a, s), (b, r)], Ones(v), eta=1.0)) for v in (0.0, 1.0))
    assert torch.allclose(got, mean, atol=1e-12)
    assert float(plus - got) == pytest.approx(precision**-0.5, abs=1e-12)


@pytest.mark.parametrize("sampler", [ddim, heun, dpm_solver_2m, unipc])
def test_the_last_step_ends_at_what_the_denoiser_says_and_every_step_is_shown(sampler):
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shown = list(sampler(mixture, x, [*variance_preserving(6), (1.0, 0.0)]))
    assert len(shown) == 7 and torch.allclose(shown[-1][0], shown[-1][1])


@pytest.mark.parametrize("sampler", [ddim, heun, dpm_solver_2m, unipc])
def test_a_grid_may_start_at_pure_noise(sampler):
    """Rectified flow at t = 1: alpha is 0, and nothing divides by it."""
    flow = [(i / 64, 1 - i / 64) for i in range(65)]
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn = last(sampler(mixture, x, flow))
    assert torch.allclose(drawn.mean(0), (WEIGHTS[:, None] * MEANS).sum(0), atol=0.12)


def test_the_stochastic_solver_draws_the_mixture_s_spread():
    x = torch.randn(4000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    noise = lambda *shape: torch.randn(4000, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    grid = [*variance_preserving(60), (1.0, 0.0)]
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    spread = (WEIGHTS[:, None] * (VARIANCES[:, None] + (MEANS - mean) ** 2)).sum(0)
    for sampler in (ddim, dpm_solver_2m):
        drawn = last(sampler(mixture, x * grid[0][1], grid, noise, eta=1.0))
        assert torch.allclose(drawn.mean(0), mean, atol=0.06)
        assert torch.allclose(drawn.var(0), spread, rtol=0.1)
