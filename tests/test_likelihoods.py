"""Likelihoods of decoders: probabilities sum to 1, densities bound them, means are means."""

from __future__ import annotations

import math

import pytest
import torch

from reverie.core.noise import Noise
from reverie.probability.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    DiscretisedLogistic,
    Gaussian,
    bits_per_dim,
    dequantise,
    discretised_gaussian,
    discretised_logistic,
    log_bins,
)

LEVELS = torch.arange(256, dtype=torch.float64).div(127.5).sub(1).view(256, 1, 1, 1)  # every 8-bit value, a row each


def rng(rows: int) -> Noise:
    return Noise.of_seeds(range(rows))


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.05), (-1.3, 0.2), (0.999, 0.004), (0.4, 2.0)])
@pytest.mark.parametrize("log_prob", [discretised_gaussian, discretised_logistic])
def test_a_discretised_distribution_gives_the_256_levels_probabilities_that_sum_to_1(log_prob, mean, scale):
    mean, scale = (torch.full_like(LEVELS, value) for value in (mean, scale))
    assert float(log_prob(LEVELS, mean, scale).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_a_categorical_likelihood_is_the_softmax_of_its_level():
    logits = torch.randn(1, 256, 1, 1, generator=torch.Generator().manual_seed(0)).double().expand(256, -1, -1, -1)
    log_p = -Categorical().nll(LEVELS, logits, rng(256))
    torch.testing.assert_close(log_p.double(), logits[0, :, 0, 0].log_softmax(0), atol=1e-6, rtol=1e-6)
    mean = Categorical().mean(logits[:1])
    expected = (logits[0, :, 0, 0].softmax(0) * LEVELS[:, 0, 0, 0]).sum()
    assert float(mean) == pytest.approx(float(expected), abs=1e-6)


def test_channels_of_a_categorical_likelihood_are_independent():
    logits = torch.randn(4, 512, 3, 3, generator=torch.Generator().manual_seed(0))
    image = torch.randint(0, 256, (4, 2, 3, 3), generator=torch.Generator().manual_seed(1)).float() / 127.5 - 1
    first, second = (logits.unflatten(1, (256, 2))[:, :, c : c + 1].flatten(1, 2) for c in (0, 1))
    parts = [Categorical().nll(image[:, c : c + 1], part, rng(4)) for c, part in enumerate((first, second))]
    torch.testing.assert_close(Categorical().nll(image, logits, rng(4)), parts[0] + parts[1])


def test_the_dequantised_gaussian_bounds_the_exact_probability_of_the_levels():
    image, mean = torch.zeros(4096, 1, 1, 1) + 1 / 255, torch.full((4096, 1, 1, 1), 0.02)
    bound = -Gaussian(0.05).nll(image, mean, rng(4096)).double()
    exact = discretised_gaussian(image[:1].double(), mean[:1].double(), 0.05)
    assert float(bound.mean()) <= float(exact) + 3 * float(bound.std()) / 64
    assert float(bound.mean()) == pytest.approx(float(exact), abs=0.01)


def test_dequantisation_stays_within_the_bin_and_its_constant_is_the_bins_width():
    image = torch.zeros(1000, 1, 1, 1)
    noise = dequantise(image, rng(1000)) * 127.5
    assert (
        float(noise.min()) >= -0.5 and float(noise.max()) < 0.5 and float(noise.std()) == pytest.approx(12**-0.5, 0.1)
    )
    assert log_bins(torch.zeros(2, 3, 4, 5)) == pytest.approx(60 * math.log(127.5))


def test_bits_per_dim_of_a_uniform_distribution_over_256_levels_is_8():
    assert bits_per_dim(10 * math.log(256), 10) == pytest.approx(8)


def test_bernoulli_is_the_cross_entropy_of_a_probability():
    image, logit = torch.tensor([[[[1.0]]], [[[-1.0]]]]), torch.full((2, 1, 1, 1), 0.7)
    p = 1 / (1 + math.exp(-0.7))
    torch.testing.assert_close(
        Bernoulli().nll(image, logit, rng(2)), torch.tensor([-math.log(p), -math.log(1 - p)]), atol=1e-6, rtol=0
    )
    assert float(Bernoulli().mean(logit)[0]) == pytest.approx(2 * p - 1, abs=1e-6)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_has_finite_gradients_at_black_and_white(name):
    likelihood = LIKELIHOODS[name](0.1)
    image = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    output = torch.zeros(2, 3 * likelihood.outputs, 4, 4, requires_grad=True)
    nll = likelihood.nll(image, output, rng(2))
    nll.sum().backward()
    assert nll.shape == (2,) and output.grad is not None and bool(output.grad.isfinite().all())
    assert likelihood.mean(output).shape == image.shape


def test_the_logistic_mean_that_fits_best_is_the_image():
    image = torch.full((1, 1, 8, 8), 0.3)
    output = torch.zeros(1, 2, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        DiscretisedLogistic().nll(image, output, rng(1)).sum().backward()
        optimizer.step()
    assert float((DiscretisedLogistic().mean(output.detach()) - image).abs().max()) < 0.01
