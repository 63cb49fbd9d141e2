"""Likelihoods of diffusion models against densities that are known, in float64."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.data.types import Dataset, Report, Split
from reverie.diffusion.likelihood import discretised_gaussian, flow_log_prob, flow_log_prob_8bit, variational_bound
from reverie.evaluation.likelihood import MODERATE, likelihood
from reverie.workflow.artifacts import held_out_scores

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.1]], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.09, 0.02], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SCALINGS = {
    "variance-preserving": lambda k: (1 / math.hypot(1, k), k / math.hypot(1, k)),
    "edm": lambda k: (1.0, k),
    "flow": lambda k: (1 / (1 + k), k / (1 + k)),
}
scaling = pytest.mark.parametrize("scale", SCALINGS.values(), ids=SCALINGS)
MEAN, VARIANCE = -0.2, 0.09  # of Gaussian images


def grid(scale, steps, low=0.02, high=2e4):
    """Even in log(sigma / alpha), noise first, ending as samplers' grids do; high enough for the prior to be exact."""
    ratios = torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64).exp()
    return [scale(k) for k in ratios.tolist()] + [(1.0, 0.0)]


def mixture(x, alpha, sigma):
    """E[x0 | x] of a Gaussian mixture of images (B, 1, 1, 2)."""
    alpha, sigma = (torch.as_tensor(part, dtype=torch.float64).view(-1, 1) for part in (alpha, sigma))
    total = alpha**2 * VARIANCES + sigma**2  # (B or 1, 3)
    gap = x.flatten(1)[:, None] - alpha[..., None] * MEANS  # (B, 3, 2)
    share = (WEIGHTS.log() - gap.square().sum(2) / (2 * total) - total.log()).softmax(1)
    return (share[..., None] * (MEANS + (alpha * VARIANCES / total)[..., None] * gap)).sum(1).view_as(x)


def density(x, ratio):
    """log p(x) of the mixture under noise of standard deviation ``ratio``."""
    total = VARIANCES + ratio**2
    gap = x.flatten(1)[:, None] - MEANS
    return (WEIGHTS.log() - gap.square().sum(2) / (2 * total) - (2 * math.pi * total).log()).logsumexp(1)


def gaussian(x, alpha, sigma):
    """E[x0 | x] where every pixel is of N(MEAN, VARIANCE)."""
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def points(count):
    generator = torch.Generator().manual_seed(0)
    return 0.7 * torch.randn(count, 1, 1, 2, generator=generator, dtype=torch.float64)


def levels():
    """All 256 grey levels, an image each: (256, 1, 1, 1)."""
    return (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(256, 1, 1, 1)


def within(values, exact, errors=4.5):
    """Whether the mean of independent values (N,) is that number, up to chance."""
    return abs(float(values.mean() - exact)) < errors * float(values.std()) / math.sqrt(len(values))


# The probability flow


@scaling
def test_the_flow_s_density_converges_to_the_exact_one_with_order_2(scale):
    x = points(24)
    exact = density(x, 0.02)
    errors = [float((flow_log_prob(mixture, x, grid(scale, n), probes=None) - exact).abs().mean()) for n in (120, 240)]
    assert errors[1] < 2e-3 and math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15), errors


def test_the_density_does_not_depend_on_the_scaling_or_on_pairs_without_image():
    x = points(5)
    some = [flow_log_prob(mixture, x, grid(scale, 30), probes=None) for scale in SCALINGS.values()]
    started = flow_log_prob(mixture, x, [(0.0, 1.0), *grid(SCALINGS["flow"], 30)], probes=None)
    assert all(torch.allclose(single, started, atol=1e-9) for single in some)


def test_random_probes_give_the_exact_divergence_on_average_and_more_probes_vary_less():
    x, path = points(1).expand(4000, 1, 1, 2), grid(SCALINGS["edm"], 12)
    exact = flow_log_prob(mixture, x[:1], path, probes=None)[0]
    single, four = (flow_log_prob(mixture, x, path, Noise.of_step(3, 0, 4000), probes) for probes in (1, 4))
    assert within(single, exact) and within(four, exact)
    assert float(single.var() / four.var()) == pytest.approx(4, rel=0.25)


def test_the_density_of_an_image_does_not_depend_on_its_batch_nor_on_inference_mode():
    x, path = points(7), grid(SCALINGS["variance-preserving"], 10)
    together = flow_log_prob(mixture, x, path, Noise.of_step(3, 0, 7), 2)
    with torch.inference_mode():
        alone = flow_log_prob(mixture, x.clone()[4:5], path, Noise.of_step(3, 0, 7)[4:5], 2)
    assert torch.allclose(alone, together[4:5], atol=1e-12)


def test_the_dequantised_density_is_that_of_a_point_in_the_pixel_s_bin_and_lies_below_its_probability_on_average():
    variance, low, wide = 1e-4, 0.002, 1 / 127.5  # a narrow Gaussian: its density changes within a bin
    narrow = lambda x, a, s: a * variance / (a**2 * variance + s**2) * x  # noqa: E731
    exact = Normal(0.0, math.sqrt(variance + low**2))
    image = torch.full((2000, 1, 1, 1), 4 * wide, dtype=torch.float64)
    path = grid(SCALINGS["flow"], 300, low=low)
    result = flow_log_prob_8bit(narrow, image, path, Noise.of_step(1, 0, 2000), None)
    dequantised = image + Noise.of_step(1, 0, 2000).uniform(1, 1, 1, low=-0.5, high=0.5) * wide
    assert torch.allclose(result, exact.log_prob(dequantised).flatten() + math.log(wide), atol=0.03)
    mass = float((exact.cdf(image[0] + wide / 2) - exact.cdf(image[0] - wide / 2)).log())
    assert mass - 0.5 < float(result.mean()) < mass - 0.1


# The bound


def chain_log_prob(image, path):
    """Exact log P(image) of the chain with ``gaussian``: all of it is linear, so what it draws is normal, rounded."""
    *states, (alpha, sigma) = path[:-1]
    mean, variance = 0.0, states[0][0] ** 2 + states[0][1] ** 2
    for (a, s), (b, r) in pairwise([*states, (alpha, sigma)]):
        gain = a * VARIANCE / (a**2 * VARIANCE + s**2)  # E[x0|x] = MEAN + gain (x - a MEAN)
        kept = a / b * r**2 / s**2  # Bayes' rule: the weight of x_s in the mean of q(x_r | x_s, x0)
        moved = b * (1 - (a * r / (b * s)) ** 2)  # and of x0
        slope = kept + moved * gain
        mean = slope * mean + moved * (1 - gain * a) * MEAN
        variance = slope**2 * variance + r**2 * (1 - (a * r / (b * s)) ** 2)
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    mean, variance = MEAN + gain * (mean - alpha * MEAN), gain**2 * variance + (sigma / alpha) ** 2
    return discretised_gaussian(image, torch.full_like(image, mean), math.sqrt(variance))


def mean_bound(path, rows=256, **options):
    """The bound of all grey levels, many draws each: (256,) means and their standard errors."""
    image = levels().repeat_interleave(rows, 0)
    result = variational_bound(gaussian, image, path, Noise.of_step(7, 0, len(image)), **options).view(256, rows)
    return result.mean(1), result.std(1) / math.sqrt(rows)


@scaling
def test_the_bound_lies_below_the_exact_likelihood_and_comes_near_it_as_the_chain_grows(scale):
    """The gap is averaged over what the chain itself draws: it is then a KL, of the path that led to an image."""
    gaps = []
    for steps in (4, 16, 128):
        path = grid(scale, steps, low=0.05, high=50)
        exact = chain_log_prob(levels(), path)
        assert float(exact.exp().sum()) == pytest.approx(1, abs=1e-9)
        image = levels().repeat_interleave(64, 0)
        draws = variational_bound(gaussian, image, path, Noise.of_step(7, 0, len(image)), times=None).view(256, 64)
        assert (draws.mean(1) < exact + 4.5 * draws.std(1) / 8).all()
        gaps.append(float((exact.exp() * (exact - draws.mean(1))).sum()))
    assert gaps[0] > 3 * gaps[1] > 15 * gaps[2] and gaps[2] < 0.1, gaps


@scaling
def test_the_bound_is_the_sum_of_the_kls_of_its_definition(scale):
    """q(x_r | x_s, x0) by Bayes' rule, its KLs by torch."""
    image, path = points(3).clamp(-1, 1), grid(scale, 6, low=0.1, high=20)
    rng = Noise.of_step(5, 0, 3)
    state = lambda a, s: a * image + s * rng(1, 1, 2).double()  # noqa: E731
    (first_alpha, first_sigma), (alpha, sigma) = path[0], path[-2]
    exact = discretised_gaussian(image, mixture(state(alpha, sigma), alpha, sigma), sigma / alpha)
    start = Normal(torch.zeros_like(image), math.hypot(first_alpha, first_sigma))
    exact = exact - kl_divergence(Normal(first_alpha * image, first_sigma), start).flatten(1).sum(1)
    for (a, s), (b, r) in pairwise(path[:-1]):
        x, ratio = state(a, s), a / b
        between = s**2 - ratio**2 * r**2  # variance of x_s given x_r
        variance = 1 / (1 / r**2 + ratio**2 / between)
        mean = lambda x0: variance * (b * x0 / r**2 + ratio * x / between)  # noqa: B023, E731
        q, p = (Normal(mean(x0), variance**0.5) for x0 in (image, mixture(x, a, s)))
        exact = exact - kl_divergence(q, p).flatten(1).sum(1)
    result = variational_bound(mixture, image, path, Noise.of_step(5, 0, 3), times=None)
    assert torch.allclose(result, exact, atol=1e-9)


def test_random_times_give_the_whole_sum_on_average_and_more_of_them_vary_less():
    image, path = points(1).clamp(-1, 1).expand(6000, 1, 1, 2), grid(SCALINGS["variance-preserving"], 40)
    complete, single, four = (
        variational_bound(mixture, image, path, Noise.of_step(9, 0, 6000), times) for times in (None, 1, 4)
    )
    assert within(single - complete, 0) and within(four - complete, 0)  # both draw the last step's noise alike
    assert float((four - complete).var()) < float((single - complete).var()) / 2


def test_one_time_is_enough_where_errors_are_as_the_draw_of_times_expects():
    """|x0 - denoise|^2 of k^2 / (1 + 10 k) at every noise level k: then every draw is the whole sum."""
    image, path = levels(), grid(SCALINGS["flow"], 50, low=0.01, high=50)
    wrong = lambda x, a, s: image + s / a * (1 + 10 * s / a) ** -0.5  # noqa: E731
    complete, single = (variational_bound(wrong, image, path, Noise.of_step(2, 0, 256), times) for times in (None, 1))
    assert torch.allclose(complete, single, atol=1e-9) and float(complete.max()) < -1


def test_the_bound_of_an_image_does_not_depend_on_its_batch():
    image, path = points(7).clamp(-1, 1), grid(SCALINGS["edm"], 10)
    for times in (None, 1, 3):
        together = variational_bound(mixture, image, path, Noise.of_step(3, 0, 7), times)
        alone = variational_bound(mixture, image[4:5], path, Noise.of_step(3, 0, 7)[4:5], times)
        assert torch.allclose(alone, together[4:5], atol=1e-12)


@pytest.mark.parametrize("mean, deviation", [(0.3, 0.01), (-0.999, 0.002), (-3.0, 0.1), (0.0, 2.0)])
def test_the_256_levels_of_the_last_step_share_all_probability(mean, deviation):
    result = discretised_gaussian(levels(), torch.full((1, 1, 1, 1), mean, dtype=torch.float64), deviation)
    assert float(result.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_the_last_step_s_far_tails_are_true_in_float32():
    mean, deviation = 0.9, 0.002
    result = discretised_gaussian(levels().float(), torch.full((1, 1, 1, 1), mean), deviation)
    exact = discretised_gaussian(levels(), torch.full((1, 1, 1, 1), mean, dtype=torch.float64), deviation)
    assert result.isfinite().all() and float(exact.min()) < -1e5
    assert torch.allclose(result.double(), exact, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x, path, rng: flow_log_prob(mixture, x, path[-2:], rng),
        lambda x, path, rng: flow_log_prob(mixture, x, path, rng, probes=0),
        lambda x, path, rng: flow_log_prob(mixture, x, path),
        lambda x, path, rng: variational_bound(mixture, x, path[-2:], rng),
        lambda x, path, rng: variational_bound(mixture, x, path, rng, times=0),
    ],
)
def test_wrong_use_is_told(ask):
    with pytest.raises(UsageError, match="at least"):
        ask(points(2), grid(SCALINGS["edm"], 4), Noise.of_step(0, 0, 2))


# Of a model


def small(name, **options):
    """A system whose network says something at every noise level."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = registry.build(name, shape=8, channels=1, width=8, **options).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.2 * torch.randn_like(p))
    return model


def batch_of(rows, **more):
    image = Noise.of_step(1, 0, rows).integers(256, 1, 8, 8) / 127.5 - 1
    return Batch({"x": image} | more, Noise.of_step(2, 0, rows))


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow-matching"])
def test_a_model_s_bound_and_flow_do_not_depend_on_the_batch(name):
    model = small(name, classes=3, conditional="label")
    label = torch.tensor([0, 1, 2, -1, 0])
    for score in (lambda b: model.elbo(b, times=2), lambda b: model.log_prob(b, steps=3)):
        with torch.inference_mode():
            together = score(batch_of(5, label=label))
            alone = score(batch_of(5, label=label).cut(2, 4))
        assert together.isfinite().all() and torch.allclose(together[2:4], alone, rtol=1e-4)
        assert not torch.allclose(together, score(batch_of(5, label=label.flip(0))), rtol=1e-4)


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow-matching"])
def test_a_model_s_bound_is_unbiased_for_the_whole_chain(name):
    """A thousand cheap estimates against every step of the chain: rows may have noise levels of their own."""
    model, rows = small(name), 1000
    image = batch_of(1)["x"].expand(rows, 1, 8, 8)
    with torch.inference_mode():
        some = model.elbo(Batch({"x": image}, Noise.of_step(4, 0, rows)))
        complete = variational_bound(model.denoiser(), image[:10], model.chain(), Noise.of_step(5, 0, 10), times=None)
    error = math.hypot(float(some.std()) / math.sqrt(rows), float(complete.std()) / math.sqrt(10))
    assert abs(float(some.mean() - complete.mean())) < 4.5 * error
    assert error < 0.02 * abs(float(complete.mean()))  # a bias would be seen


def test_a_model_of_captions_that_still_learns_has_a_likelihood_under_inference_mode():
    model = small("flow-matching", conditional="text")
    with torch.inference_mode():
        result = model.log_prob(batch_of(2, text=["a red heart", "a cat"]), steps=2)
    assert result.isfinite().all() and next(model.parameters()).requires_grad


# What is reported


class Telling(torch.nn.Module):
    """Reports its options: a bound of -times, and an integral of the image's first pixel."""

    def __init__(self):
        super().__init__()
        self.somewhere = torch.nn.Parameter(torch.zeros(1))
        self.calls, self.card = [], dataclasses.replace(small("flow-matching").card, networks=())

    def elbo(self, batch, times=1):
        self.calls.append("elbo")
        return torch.full((len(batch["x"]),), -float(times))

    def log_prob(self, batch, steps=50, probes=1):
        self.calls.append("log_prob")
        return batch["x"][:, 0, 0, 0]


def ramp(count):
    """Images that lie in order of brightness."""
    images = np.linspace(0, 255, count).astype(np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2)
    return Split({"x": images, "label": np.full(count, -1), "text": [""] * count})


def test_every_number_says_how_it_was_found_and_what_takes_long_is_left_out_unless_wanted():
    result = {metric: (number, passport) for metric, number, passport in likelihood(Telling(), ramp(400))}
    assert list(result) == ["nll-bound", "bits-per-dim-bound", "nll-ode", "bits-per-dim-ode"]
    bound, passport = result["nll-bound"]
    fields = {"exact": False, "held_out": 400, "times": 8, "dequantisation": "none"}
    assert bound.value == 8 and fields.items() <= passport.items()
    integral, passport = result["nll-ode"]
    fields = {"exact": False, "held_out": 256, "steps": 50, "probes": 1, "dequantisation": "uniform"}
    assert (
        abs(integral.value) < 0.01 and fields.items() <= passport.items()
    )  # from all of the ramp, not from its dark end
    quick = [(metric, passport["times"]) for metric, _, passport in likelihood(Telling(), ramp(400), MODERATE)]
    assert quick == [("nll-bound", 1), ("bits-per-dim-bound", 1)]


def test_the_end_of_training_scores_by_the_quick_bound_alone():
    model, some = Telling(), ramp(10)
    scores = held_out_scores(model, Dataset("", some.spec, [], some, some, "", Report(20)))
    assert set(model.calls) == {"elbo"}
    assert scores == {"nll-bound": 1, "bits-per-dim-bound": pytest.approx(1 / 64 / math.log(2))}
