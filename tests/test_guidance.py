"""Guidance against Bayes' rule: a Gaussian mixture whose classes are its components."""

from __future__ import annotations

import math

import pytest
import torch

from reverie.diffusion.guidance import classified, guided
from reverie.diffusion.samplers import unipc

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.1]], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.09, 0.02], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
PAIRS = [
    pytest.param(0.6, 0.8, id="variance-preserving"),
    pytest.param(1.0, 3.0, id="variance-exploding"),
    pytest.param(0.3, 0.7, id="rectified-flow"),
]


def log_posterior(x, alpha, sigma):
    """log p(c | x) of every component (B, 3)."""
    total = alpha**2 * VARIANCES + sigma**2
    gap = x[:, None] - alpha * MEANS
    return (WEIGHTS.log() - gap.square().sum(2) / (2 * total) - total.log()).log_softmax(1)


def component(c):
    """E[x0 | x, c]."""
    return lambda x, alpha, sigma: (
        MEANS[c] + alpha * VARIANCES[c] / (alpha**2 * VARIANCES[c] + sigma**2) * (x - alpha * MEANS[c])
    )


def mixture(x, alpha, sigma):
    """E[x0 | x]."""
    each = torch.stack([component(c)(x, alpha, sigma) for c in range(3)], 1)
    return (log_posterior(x, alpha, sigma).exp()[..., None] * each).sum(1)


def points(rows=6):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_scale_1_is_the_conditional_model_itself_and_scale_0_the_weaker_one():
    conditional = component(1)
    assert guided(conditional, mixture, 1.0) is conditional and guided(conditional, mixture, 1) is conditional
    assert torch.equal(guided(conditional, mixture, 0.0)(points(), 0.6, 0.8), mixture(points(), 0.6, 0.8))


@pytest.mark.parametrize("a, s", PAIRS)
@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_classifier_free_guidance_is_a_sharper_posterior(a, s, scale):
    """E[x0|x] + scale (E[x0|x,c] - E[x0|x]) is the denoiser of p(x) p(c|x)^scale: the implicit classifier's slope."""
    c = torch.tensor([0, 1, 2, 0, 1, 2])
    x = points().requires_grad_(True)
    (slope,) = torch.autograd.grad(log_posterior(x, a, s)[torch.arange(6), c].sum(), x)
    x = x.detach()
    conditional = torch.stack([component(int(k))(row[None], a, s)[0] for k, row in zip(c, x, strict=True)])
    result = guided(lambda *_: conditional, mixture, scale)(x, a, s)
    assert torch.allclose(result, mixture(x, a, s) + scale * s**2 / a * slope, atol=1e-10)


@pytest.mark.parametrize("a, s", PAIRS)
@pytest.mark.parametrize("c", [0, 1, 2])
def test_classifier_guidance_of_scale_1_is_bayes_rule(a, s, c):
    """With the exact classifier of noised points it gives E[x0|x,c], under inference mode too."""
    steered = classified(mixture, lambda x, alpha, sigma: log_posterior(x, alpha, sigma)[:, c], 1.0)
    assert torch.allclose(steered(points(), a, s), component(c)(points(), a, s), atol=1e-10)
    with torch.inference_mode():
        assert torch.allclose(steered(points(), a, s), component(c)(points(), a, s), atol=1e-10)


@pytest.mark.parametrize("a, s", PAIRS)
def test_classifier_and_classifier_free_guidance_agree_at_every_scale(a, s):
    for scale in (0.5, 3.0):
        steered = classified(mixture, lambda x, alpha, sigma: log_posterior(x, alpha, sigma)[:, 2], scale)
        free = guided(component(2), mixture, scale)
        assert torch.allclose(steered(points(), a, s), free(points(), a, s), atol=1e-10)


def test_classifier_guidance_of_scale_0_is_off_and_pure_noise_has_no_class():
    def never(x, alpha, sigma):
        raise AssertionError("the classifier was asked")

    assert classified(mixture, never, 0) is mixture
    assert torch.equal(classified(mixture, never, 2.0)(points(), 0.0, 1.0), mixture(points(), 0.0, 1.0))


@pytest.mark.parametrize("scale", [1.5, 4.0])
def test_autoguidance_goes_away_from_the_weaker_model(scale):
    """D = D_weak + scale (D - D_weak) (arXiv:2406.02507, equation 3), here with a blurred mixture as the weaker one."""

    def weaker(x, alpha, sigma):
        return mixture(x, alpha, math.hypot(sigma, 0.4))

    x = points()
    expected = scale * mixture(x, 0.6, 0.8) + (1 - scale) * weaker(x, 0.6, 0.8)
    assert torch.allclose(guided(mixture, weaker, scale)(x, 0.6, 0.8), expected, atol=1e-12)


def test_a_class_is_drawn_by_a_model_that_knows_none():
    """Steered from pure noise by the exact classifier, the sampler draws component 2 and not the mixture."""
    grid = [(i / 60, 1 - i / 60) for i in range(61)]
    steered = classified(mixture, lambda x, alpha, sigma: log_posterior(x, alpha, sigma)[:, 2], 1.0)
    *_, (samples, _) = unipc(steered, points(4000), grid)
    # the first step alone is blind: at alpha = 0 nothing is known of a class
    assert torch.allclose(samples.mean(0), MEANS[2], atol=0.03)
    assert torch.allclose(samples.var(0), VARIANCES[2].expand(2), rtol=0.15)
