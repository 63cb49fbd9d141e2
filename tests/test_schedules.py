"""Schedules, predictions, weightings and time grids against the formulas of their papers, in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.diffusion import grids
from reverie.diffusion.denoiser import clipped, denoiser
from reverie.diffusion.prediction import PREDICTIONS, WEIGHTINGS, edm, weigh
from reverie.diffusion.schedules import Cosine, Karras, Linear, RectifiedFlow

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "short-linear": Linear(20),
    "short-cosine": Cosine(20),
    "karras": Karras(),
    "flow": RectifiedFlow(),
}
PAIRS = [
    pytest.param(0.6, 0.8, id="variance-preserving"),
    pytest.param(1.0, 3.0, id="variance-exploding"),
    pytest.param(0.3, 0.7, id="rectified-flow"),
]


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Schedules


def test_the_linear_table_is_the_product_of_its_betas():
    """beta from 1e-4 to 0.02 in even steps (arXiv:2006.11239, section 4); other lengths add as much noise in all."""
    product = 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        assert float(Linear().alphas_bar[i]) == pytest.approx(product, rel=1e-12)
    assert product == pytest.approx(4.0358e-5, rel=1e-4)
    assert Linear(250).betas.tolist()[0] == pytest.approx(4e-4) and Linear(250).betas.tolist()[-1] == pytest.approx(
        0.08
    )


def test_the_cosine_table_is_the_cosine_until_beta_is_capped():
    """alpha-bar(t) = f(t) / f(0), f(t) = cos^2((t + 0.008) / 1.008 pi / 2) (arXiv:2102.09672, equation 17)."""

    def f(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    table = Cosine()
    for step in (1, 2, 250, 500, 999):
        assert float(table.alphas_bar[step - 1]) == pytest.approx(f(step / 1000) / f(0), rel=1e-9)
    assert float(table.betas[-1]) == 0.999 and (table.betas[:-1] < 0.999).all()


@pytest.mark.parametrize("ours, theirs", [(Linear, "linear"), (Cosine, "squaredcos_cap_v2")])
def test_the_tables_are_those_of_diffusers(ours, theirs):
    diffusers = pytest.importorskip("diffusers")
    table = diffusers.DDPMScheduler(beta_schedule=theirs).alphas_cumprod
    assert torch.allclose(ours().alphas_bar.float(), table, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name, total",
    [("linear", "squares"), ("cosine", "squares"), ("short-cosine", "squares"), ("karras", "alpha"), ("flow", "sum")],
)
def test_a_schedule_keeps_to_its_scaling(name, total):
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha_sigma(torch.linspace(max(schedule.first, 1e-3), 1, 777, dtype=torch.float64))
    kept = {"squares": alpha**2 + sigma**2, "alpha": alpha, "sum": alpha + sigma}[total]
    assert torch.allclose(kept, torch.ones_like(kept), atol=1e-12)
    assert (sigma.diff() > 0).all() and (alpha.diff() <= 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_time_of_a_ratio_is_the_time_whose_ratio_it_is(name):
    schedule = SCHEDULES[name]
    t = torch.linspace(max(schedule.first, 1e-3), 1, 1234, dtype=torch.float64)
    alpha, sigma = schedule.alpha_sigma(t)
    assert torch.allclose(schedule.t_from_ratio(sigma / alpha), t, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 20, 1000])
@pytest.mark.parametrize("table", [Linear, Cosine])
def test_a_table_has_its_own_steps_and_nothing_beyond_them(table, steps):
    chain = table(steps)
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    alpha, sigma = chain.alpha_sigma(i / steps)
    assert torch.allclose(alpha**2, chain.alphas_bar, rtol=1e-9) and torch.allclose(
        sigma**2, 1 - chain.alphas_bar, rtol=1e-9
    )
    assert torch.allclose(chain.c_noise(i / steps), i - 1)  # 0 ... T - 1
    ends = chain.t_from_ratio(torch.tensor([0.0, 1e-9, 1e9, math.inf], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([1 / steps, 1 / steps, 1, 1])
    times = chain.sample_t(Noise.of_seeds(range(40 * steps))).double() * steps
    counts = torch.bincount(times.round().long(), minlength=steps + 1)
    assert torch.allclose(times, times.round(), atol=1e-3)
    assert counts[0] == 0 and (counts[1:] > 5).all() and len(counts) == steps + 1


def test_karras_is_edm_s_schedule():
    """Table 1 and equation 5 of arXiv:2206.00364: 0.002 to 80 with rho 7; c_noise = ln(sigma) / 4; log-normal draws."""
    schedule = Karras()
    _, sigma = schedule.alpha_sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    middle = ((0.002 ** (1 / 7) + 80 ** (1 / 7)) / 2) ** 7
    assert sigma.tolist() == pytest.approx([0.002, middle, 80.0])
    assert schedule.c_noise(torch.tensor([1.0], dtype=torch.float64)).item() == pytest.approx(1000 * math.log(80) / 4)
    _, times = Karras(mean=-0.4, std=1.1).alpha_sigma(schedule.sample_t(Noise.of_seeds(range(20000))).double())
    _, sampled = schedule.alpha_sigma(schedule.sample_t(Noise.of_seeds(range(20000))).double())
    assert torch.equal(times, sampled)  # the pair of a time does not depend on what training draws
    assert sampled.log().mean().item() == pytest.approx(-1.2, abs=0.03)
    assert sampled.log().std().item() == pytest.approx(1.2, abs=0.03)


def test_flow_draws_logit_normal_times_or_even_ones():
    """Esser et al., arXiv:2403.03206, section 3.1."""
    logit = RectifiedFlow(0.3, 0.8).sample_t(Noise.of_seeds(range(20000))).double().logit()
    assert logit.mean().item() == pytest.approx(0.3, abs=0.02) and logit.std().item() == pytest.approx(0.8, abs=0.02)
    even = RectifiedFlow(std=0).sample_t(Noise.of_seeds(range(20000))).double()
    assert even.min() > 0 and even.max() < 1
    assert even.mean().item() == pytest.approx(0.5, abs=0.01) and even.var().item() == pytest.approx(1 / 12, rel=0.03)


# Predictions and weightings


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("a, s", PAIRS)
def test_x0_comes_back_exactly_from_what_the_network_should_say(name, a, s):
    prediction, alpha, sigma = PREDICTIONS[name], column(a, a), column(s, s)
    x0, e = numbers(0, 2, 3, 4, 4), numbers(1, 2, 3, 4, 4)
    p, q = prediction.target(alpha, sigma)
    predicted = p * x0 + q * e
    result = prediction.c_skip(alpha, sigma) * (alpha * x0 + sigma * e) + prediction.c_out(alpha, sigma) * predicted
    assert torch.allclose(result, x0, atol=1e-12)


@pytest.mark.parametrize("a, s", PAIRS)
def test_each_prediction_is_what_its_paper_has_the_network_say(a, s):
    alpha, sigma = column(a), column(s)
    x0, e = numbers(0, 1, 1, 2, 2), numbers(1, 1, 1, 2, 2)
    expected = {"noise": e, "x0": x0, "v": alpha * e - sigma * x0, "velocity": e - x0}
    for name, target in expected.items():
        p, q = PREDICTIONS[name].target(alpha, sigma)
        assert torch.allclose(p * x0 + q * e, target, atol=1e-12)
        assert (PREDICTIONS[name].c_in(alpha, sigma) == 1).all()


@pytest.mark.parametrize("data", [0.5, 1.3])
@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_edm_s_preconditioning_is_table_1_and_gives_the_network_unit_variances(data, sigma):
    ones, s, total = column(1.0), column(sigma), sigma**2 + data**2
    preconditioned = edm(data)
    assert float(preconditioned.c_skip(ones, s)) == pytest.approx(data**2 / total)
    assert float(preconditioned.c_out(ones, s)) == pytest.approx(sigma * data / math.sqrt(total))
    assert float(preconditioned.c_in(ones, s)) == pytest.approx(1 / math.sqrt(total))
    for a in (ones, 0.3 * ones):  # in another scaling too, at the same ratio
        p, q = preconditioned.target(a, a * s)
        assert float(p**2 * data**2 + q**2) == pytest.approx(1)
        assert float(preconditioned.c_in(a, a * s) ** 2 * (a**2 * data**2 + (a * s) ** 2)) == pytest.approx(1)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("a, s", PAIRS)
def test_a_weighting_is_the_same_loss_whatever_the_network_says(weighting, a, s):
    alpha, sigma = column(a), column(s)
    x0, e, guess = (numbers(seed, 1, 1, 2, 2) for seed in range(3))
    x = alpha * x0 + sigma * e
    loss = WEIGHTINGS[weighting](sigma / alpha) * (guess - x0).square()
    for prediction in PREDICTIONS.values():
        p, q = prediction.target(alpha, sigma)
        predicted = (guess - prediction.c_skip(alpha, sigma) * x) / prediction.c_out(
            alpha, sigma
        )  # so that x0' is the guess
        weighted = weigh(prediction, weighting, alpha, sigma) * (predicted - p * x0 - q * e).square()
        assert torch.allclose(weighted, loss, rtol=1e-9)


@pytest.mark.parametrize("ratio", [0.05, 0.4, 1 / math.sqrt(5), 0.5, 1.0, 7.0])
def test_min_snr_is_its_paper_s_weight_of_each_prediction(ratio):
    """Hang et al., arXiv:2303.09556, section 3.4: min(SNR, 5) of x0, over SNR of noise, over SNR + 1 of v."""
    snr, alpha = ratio**-2, 1 / math.sqrt(1 + ratio**2)
    least = min(snr, 5.0)
    for name, weight in {"x0": least, "noise": least / snr, "v": least / (snr + 1)}.items():
        assert float(weigh(PREDICTIONS[name], "min-snr", column(alpha), column(alpha * ratio))) == pytest.approx(weight)


@pytest.mark.parametrize(
    "name, weighting, pairs",
    [
        ("noise", "simple", [(0.6, 0.8), (1.0, 3.0), (0.3, 0.7)]),
        ("x0", "x0", [(0.6, 0.8), (1.0, 3.0), (0.3, 0.7)]),
        ("velocity", "velocity", [(0.6, 0.8), (1.0, 3.0), (0.3, 0.7)]),
        ("v", "v", [(0.6, 0.8), (0.28, 0.96)]),  # v's own error where alpha^2 + sigma^2 is 1
        ("edm", "edm", [(1.0, 0.01), (1.0, 3.0), (1.0, 70.0)]),  # lambda c_out^2 = 1 (arXiv:2206.00364, table 1)
    ],
)
def test_a_system_s_own_weighting_leaves_its_network_s_error_as_it_is(name, weighting, pairs):
    for a, s in pairs:
        assert float(weigh(PREDICTIONS[name], weighting, column(a), column(s))) == pytest.approx(1, rel=1e-12)


# Time grids


@pytest.mark.parametrize("grid", grids.GRIDS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
def test_a_grid_goes_from_the_most_noise_to_the_image_and_only_downwards(grid, name, steps):
    schedule = SCHEDULES[name]
    result = grids.GRIDS[grid](schedule, steps)
    ratios = [s / a if a else math.inf for a, s in result]
    alpha, sigma = schedule.alpha_sigma(torch.ones(1, dtype=torch.float64))
    assert len(result) == steps + 1 and result[-1] == (1.0, 0.0)
    assert all(low < high for high, low in itertools.pairwise(ratios)), ratios
    assert min(200.0, float(sigma / alpha)) <= ratios[0] * (1 + 1e-9)


@pytest.mark.parametrize("grid", grids.GRIDS)
@pytest.mark.parametrize("steps", [0, -1])
def test_no_grid_has_fewer_steps_than_one(grid, steps):
    with pytest.raises(UsageError, match=f"at least 1 step, not {steps}"):
        grids.GRIDS[grid](RectifiedFlow(), steps)


def test_the_uniform_grid_is_rectified_flow_s_and_ddim_s_trailing_one():
    assert torch.allclose(
        torch.tensor(grids.uniform(RectifiedFlow(), 4)),
        torch.tensor([(0, 1), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1, 0)]),
    )
    chain = Linear()
    expected = chain.alphas_bar[[999, 749, 499, 249]].sqrt().tolist()
    assert [a for a, _ in grids.uniform(chain, 4)] == pytest.approx([*expected, 1.0])


def test_the_karras_grid_is_equation_5():
    ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(ends[0] + i / 7 * (ends[1] - ends[0])) ** 7 for i in range(8)]
    assert [s for _, s in grids.karras(Karras(), 8)] == pytest.approx([*expected, 0.0])


def test_the_log_snr_grid_is_even_in_the_logarithm_after_its_first_stop():
    """From pure noise; then from 3 steps to 1.5 / steps, as far as the schedule goes."""
    first, *ratios = [s / a if a else math.inf for a, s in grids.log_snr(RectifiedFlow(), 8)[:-1]]
    steps = torch.tensor(ratios, dtype=torch.float64).log().diff()
    assert first == math.inf and ratios[0] == pytest.approx(24) and ratios[-1] == pytest.approx(1.5 / 8)
    assert torch.allclose(steps, steps.mean().expand(6), atol=1e-9)
    first, *ratios = [s / a for a, s in grids.log_snr(Karras(), 1000)[:-1]]
    assert first == pytest.approx(80) and ratios[0] < 80 and ratios[-1] == pytest.approx(0.002)


@pytest.mark.parametrize("bend", [-0.9, 0.9])
def test_a_bent_grid_keeps_its_ends_and_moves_its_stops(bend):
    straight, bent = ([s / a for a, s in grids.curved(Karras(), 9, 20.0, 0.1, b)[:-1]] for b in (0.0, bend))
    assert bent[:2] == pytest.approx(straight[:2]) and bent[-1] == pytest.approx(straight[-1])
    assert all((x < y) == (bend > 0) for x, y in zip(bent[2:-1], straight[2:-1], strict=True))
    assert all(low < high for high, low in itertools.pairwise(bent))


# The denoiser


def exact(x, alpha, sigma):
    """E[x0 | x] where x0 is N(0.3, 0.25): what a perfect network knows."""
    return 0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - 0.3 * alpha)


def perfect(schedule, prediction):
    """The network that says the expectation of its target, and what times it was asked for."""
    requested = []

    def network(x, timestep):
        requested.append(timestep)
        t = torch.linspace(0, 1, 200001, dtype=torch.float64)
        inputs = schedule.c_noise(t)
        t = t[torch.searchsorted(inputs, timestep.double()).clamp(max=200000)][:, None, None, None]
        alpha, sigma = schedule.alpha_sigma(t)
        x = x / prediction.c_in(alpha, sigma)
        x0 = exact(x, alpha, sigma)
        p, q = prediction.target(alpha, sigma)
        return p * x0 + q * (x - alpha * x0) / sigma

    return network, requested


@pytest.mark.parametrize("name", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["linear", "karras", "flow"])
@pytest.mark.parametrize("a, s", PAIRS)
def test_a_denoiser_serves_x_of_any_scaling(name, schedule, a, s):
    network, _ = perfect(SCHEDULES[schedule], PREDICTIONS[name])
    x = numbers(0, 3, 1, 2, 2)
    says = denoiser(network, SCHEDULES[schedule], PREDICTIONS[name])
    assert torch.allclose(says(x, a, s), exact(x, a, s), atol=2e-3)
    assert torch.allclose(says(7 * x, 7 * a, 7 * s), says(x, a, s), atol=1e-9)


def test_a_denoiser_takes_numbers_of_each_row():
    schedule, prediction = SCHEDULES["karras"], PREDICTIONS["edm"]
    says = denoiser(perfect(schedule, prediction)[0], schedule, prediction)
    x = numbers(0, 3, 1, 2, 2)
    pairs = [(1.0, 3.0), (0.6, 0.8), (0.3, 0.7)]
    together = says(x, column(*(a for a, _ in pairs)), column(*(s for _, s in pairs)))
    for row, pair in enumerate(pairs):
        assert torch.allclose(together[row : row + 1], says(x[row : row + 1], *pair), atol=1e-9)


@pytest.mark.parametrize("name, most", [("linear", 999), ("karras", 250 * math.log(80)), ("flow", 1000)])
def test_more_noise_than_the_schedule_has_is_told_as_its_most(name, most):
    schedule, prediction = SCHEDULES[name], PREDICTIONS["v"]
    network, requested = perfect(schedule, prediction)
    says = denoiser(network, schedule, prediction)
    for pair in ((0.0, 1.0), (1e-9, 1.0), (0.0, 80.0)):
        x0 = says(pair[1] * numbers(0, 3, 1, 2, 2), *pair)
        assert torch.allclose(requested[-1], torch.full((3,), float(most)), rtol=1e-6)
        assert torch.allclose(x0, torch.full_like(x0, 0.3), atol=0.02)  # pure noise says nothing of x0


def test_float32_images_stay_float32():
    schedule, prediction = Cosine(), PREDICTIONS["noise"]
    says = denoiser(lambda x, t: x, schedule, prediction)
    x = numbers(0, 2, 1, 2, 2).float()
    assert says(x, 0.6, 0.8).dtype == says(x, column(0.6, 0.5), column(0.8, 0.5)).dtype == torch.float32


def test_clipped_estimates_stay_in_the_data_s_range():
    far = clipped(lambda x, alpha, sigma: x, 0.5)(torch.tensor([-3.0, 0.2, 3.0]), 1.0, 1.0)
    assert far.tolist() == pytest.approx([-0.5, 0.2, 0.5])
