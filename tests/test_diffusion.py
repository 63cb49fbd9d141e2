"""Samplers against a Gaussian mixture, whose exact denoiser is known, against Bayes' rule, and against diffusers."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.diffusion import grids
from reverie.diffusion.denoiser import clipped, denoiser
from reverie.diffusion.prediction import PREDICTIONS
from reverie.diffusion.samplers import SAMPLERS, STOCHASTIC, ddim, dpm_solver_2m, heun, unipc
from reverie.diffusion.schedules import Cosine, Karras, Linear, RectifiedFlow

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.3], [0.2, 1.1]], dtype=torch.float64)
VARIANCES = torch.tensor([0.04, 0.09, 0.02], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
ORDERS = [
    pytest.param(ddim, 1, id="ddim"),
    pytest.param(heun, 2, id="heun"),
    pytest.param(partial(heun, s_churn=0.0), 2, id="heun without churn"),
    pytest.param(dpm_solver_2m, 2, id="dpm++2m"),
    pytest.param(unipc, 2, id="unipc"),
    pytest.param(partial(unipc, order=3), 3, id="unipc of order 3"),
]


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


def from_pure_noise(steps):
    """Rectified flow from t = 1, where alpha is 0, to t = 0.1."""
    return [(0.9 * i / steps, 1 - 0.9 * i / steps) for i in range(steps + 1)]


def normal(rows, seed):
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def last(steps):
    *_, (x, _) = steps
    return x


def order_of(sampler, grid, start, truth):
    """From the errors with 80 and with 320 steps, and the errors."""
    errors = [float((last(sampler(mixture, start, grid(n))) - truth).abs().mean()) for n in (80, 160, 320)]
    return math.log2(errors[0] / errors[2]) / 2, errors


@pytest.fixture(scope="module", params=[variance_preserving, karras], ids=["variance-preserving", "karras"])
def problem(request):
    """A grid, where to start, and where the exact flow ends."""
    grid = request.param
    start = normal(32, 0) * grid(1)[0][1]
    return grid, start, last(unipc(mixture, start, grid(4000), order=3))


@pytest.mark.parametrize("sampler, order", ORDERS)
def test_a_solver_converges_with_its_order(problem, sampler, order):
    grid, start, truth = problem
    measured, errors = order_of(sampler, grid, start, truth)
    assert order - 0.15 < measured < order + 1.2, errors


def test_what_the_orders_are_measured_against_is_what_another_method_finds(problem):
    grid, start, truth = problem
    assert torch.allclose(last(heun(mixture, start, grid(4000))), truth, atol=1e-5)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_keeps_its_order_from_pure_noise(order):
    """An estimate from alpha = 0 has its place among the others."""
    start = normal(32, 0)
    truth = last(unipc(mixture, start, from_pure_noise(4000), order=3))
    measured, errors = order_of(partial(unipc, order=order), from_pure_noise, start, truth)
    assert order - 0.15 < measured < order + 1.2, errors


def test_unipc_is_exact_where_the_estimate_is_linear_in_its_place():
    """x / sigma then moves by the integral of (p + q log(z + 1/100)) dz with z = alpha / sigma."""
    p, q = 0.3, -0.7
    x = normal(4, 1)
    grid = [(0.0, 1.0), (0.2, 0.9), (0.5, 0.8), (0.9, 0.3), (1.0, 0.05), (1.0, 0.0)]

    def linear(x, alpha, sigma):
        return torch.full_like(x, p + q * math.log(alpha / sigma + 0.01))

    def integral(z):
        return p * z + q * (z + 0.01) * (math.log(z + 0.01) - 1)

    for order in (2, 3):
        places = [y for y, _ in unipc(linear, x, grid, order=order)]
        for (a, s), (b, r), state in zip(grid[1:], grid[2:-1], places[1:-1], strict=False):
            # what the next evaluation will correct: the mean over the step, once the far end is known
            z, w = a / s, b / r
            corrected = (x + (integral(z) - integral(0)) * torch.ones_like(x)) * s
            half = (linear(x, a, s) + linear(x, b, r)) / 2
            assert torch.allclose(state, r / s * corrected + r * (w - z) * half, atol=1e-12)


def test_unipc_of_order_1_is_ddim():
    x = normal(5, 1)
    grid = [*variance_preserving(6), (1.0, 0.0)]
    assert torch.allclose(last(unipc(mixture, x, grid, order=1)), last(ddim(mixture, x, grid)), atol=1e-12)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        next(unipc(mixture, x, grid, order=0))


def test_euler_is_the_straight_line_of_rectified_flow_and_of_sigma():
    """Textbook Euler steps in t along the velocity, and in sigma along (x - E[x0|x]) / sigma, are DDIM's."""
    x = normal(5, 1)
    flow = RectifiedFlow()
    y, grid = x, grids.uniform(flow, 7)
    for (a, s), (_, r) in pairwise(grid):
        x0 = mixture(y, a, s)
        velocity = (y - a * x0) / s - x0
        y = y + (r - s) * velocity
    assert torch.allclose(last(SAMPLERS["euler"](mixture, x, grid, None)), y, atol=1e-12)

    y, grid = 80 * x, grids.karras(Karras(), 7)
    for (_, s), (_, r) in pairwise(grid):
        y = y + (r - s) * (y - mixture(y, 1.0, s)) / s
    assert torch.allclose(last(SAMPLERS["euler"](mixture, 80 * x, grid, None)), y, atol=1e-11)


class Same:
    """Noise of one value everywhere: with 1, what a step adds is its standard deviation."""

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
    got, plus = (last(SAMPLERS["ddpm"](lambda *_: x0, x, [(a, s), (b, r)], Same(v))) for v in (0.0, 1.0))
    assert torch.allclose(got, mean, atol=1e-12)
    assert float(plus - got) == pytest.approx(precision**-0.5, abs=1e-12)


@pytest.mark.parametrize("a, s, b, r", [(0.6, 0.8, 0.8, 0.6), (1.0, 5.0, 1.0, 2.0), (0.3, 0.7, 0.5, 0.5)])
def test_churn_raises_the_noise_ratio_by_its_share_before_the_step(a, s, b, r):
    """Algorithm 2 of EDM: where x0 is known, Heun's step only shrinks what is noise, the added noise too."""
    x0, e = torch.tensor([[0.7]], dtype=torch.float64), -0.4
    grid = [(a, s), (b, r)]

    def ends(s_churn, **options):
        step = last(heun(lambda *_: x0, a * x0 + s * e, grid, Same(1.0), s_churn=s_churn, **options))
        return float((step - b * x0) / r)

    def raised(share, s_noise=1.0):  # x = a x0 + s e + s_noise sqrt(s'^2 - s^2), of deviation s' = (1 + share) s
        return (e + s_noise * math.sqrt((1 + share) ** 2 - 1)) / (1 + share)

    assert ends(0.2) == pytest.approx(raised(0.2), abs=1e-12)  # a grid of one step
    assert ends(40.0, s_noise=1.003) == pytest.approx(raised(math.sqrt(2) - 1, 1.003), abs=1e-12)
    assert ends(0.2, s_tmin=s / a) == pytest.approx(raised(0.2), abs=1e-12)
    assert ends(0.2, s_tmin=1.01 * s / a) == ends(0.2, s_tmax=0.99 * s / a) == pytest.approx(e, abs=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_ends_at_what_the_denoiser_says_and_every_step_is_shown(name):
    states = list(
        SAMPLERS[name](mixture, normal(5, 1), [*variance_preserving(6), (1.0, 0.0)], Noise.of_seeds(range(5)))
    )
    assert len(states) == 7 and torch.allclose(states[-1][0], states[-1][1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_grid_of_one_step_is_one_estimate(name):
    x = normal(5, 1)
    for grid in ([(0.0, 1.0), (1.0, 0.0)], [(1.0, 80.0), (1.0, 0.0)]):
        ((end, x0),) = SAMPLERS[name](mixture, x * grid[0][1], grid, Noise.of_seeds(range(5)))
        assert torch.allclose(end, x0, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_s_noise_is_its_own_in_every_sampler(name):
    """Row 3 of five is row 3 alone."""
    x, noise = normal(5, 1), Noise.of_seeds(range(5))
    grid = grids.log_snr(RectifiedFlow(), 6)
    alone = last(SAMPLERS[name](mixture, x[3:4], grid, noise[3:4]))
    assert torch.allclose(last(SAMPLERS[name](mixture, x, grid, noise))[3:4], alone, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_the_stochastic_samplers_need_noise(name):
    grid = grids.log_snr(RectifiedFlow(), 6)
    if name in STOCHASTIC:
        with pytest.raises(UsageError, match="pass a Noise"):
            last(SAMPLERS[name](mixture, normal(5, 1), grid, None))
    else:
        assert last(SAMPLERS[name](mixture, normal(5, 1), grid, None)).isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_grid_may_start_at_pure_noise(name):
    """Rectified flow at t = 1: alpha is 0, and nothing divides by it."""
    flow = [(i / 64, 1 - i / 64) for i in range(65)]
    samples = last(SAMPLERS[name](mixture, normal(400, 2), flow, Noise.of_seeds(range(400))))
    assert torch.allclose(samples.mean(0), (WEIGHTS[:, None] * MEANS).sum(0), atol=0.12)


def test_the_stochastic_solvers_draw_the_mixture_s_spread():
    noise = Noise.of_seeds(range(4000))
    grid = [*variance_preserving(120), (1.0, 0.0)]
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    spread = (WEIGHTS[:, None] * (VARIANCES[:, None] + (MEANS - mean) ** 2)).sum(0)
    for sampler in (partial(ddim, eta=1.0), partial(dpm_solver_2m, eta=1.0), partial(heun, s_churn=20.0)):
        samples = last(sampler(mixture, normal(4000, 3) * grid[0][1], grid, noise))
        assert torch.allclose(samples.mean(0), mean, atol=0.06)
        assert torch.allclose(samples.var(0), spread, rtol=0.1)


@pytest.mark.parametrize(
    "schedule", [RectifiedFlow(), Karras(), Cosine(), Linear()], ids=lambda s: type(s).__name__.lower()
)
@pytest.mark.parametrize("steps", [5, 6, 7, 8])
def test_the_optimised_grid_beats_every_fixed_one_on_noise_it_has_not_seen(schedule, steps):
    def miss(grid):
        return float((last(unipc(mixture, x * math.hypot(*grid[0]), grid)) - truth).square().mean(1).sqrt().mean())

    measured = grids.curved(schedule, steps, *grids.optimised(mixture, schedule, normal(16, 7), steps))
    x = normal(64, 5)
    fine = grids.log_snr(schedule, 300)
    truth = last(unipc(mixture, x * math.hypot(*fine[0]), fine))
    assert miss(measured) < 0.75 * min(miss(fixed(schedule, steps)) for fixed in grids.GRIDS.values())


@pytest.mark.parametrize("sampler", [ddim, heun])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_optimised_grid_of_a_solver_is_never_worse_than_the_log_snr_grid(sampler, steps):
    x, flow = normal(16, 7), RectifiedFlow()
    fine = grids.log_snr(flow, 300)
    truth = last(unipc(mixture, x, fine))
    measured = grids.curved(flow, steps, *grids.optimised(mixture, flow, x, steps, sampler))
    misses = [
        float((last(sampler(mixture, x * math.hypot(*grid[0]), grid)) - truth).square().mean(1).sqrt().mean())
        for grid in (measured, grids.log_snr(flow, steps))
    ]
    assert len(measured) == steps + 1 and misses[0] <= misses[1] + 1e-3


# DDPM and DDIM as their papers write them, and as diffusers runs them


def toy(x, timestep):
    """A network that says some noise: smooth, fixed, and different everywhere."""
    return 0.4 * x + 0.5 * torch.tanh(x.roll(1, -1) - 0.3) + 0.2 * torch.sin(timestep.to(x) / 150)[:, None, None, None]


def images(seed=0):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Drawn:
    """torch's own noise from a seed, as diffusers draws it."""

    def __init__(self, seed, dtype=torch.float64):
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape):
        return torch.randn(2, *shape, generator=self.generator, dtype=self.dtype)


TABLES = {"linear": (Linear(), "linear"), "cosine": (Cosine(), "squaredcos_cap_v2")}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("table", TABLES)
def test_ddim_goes_by_its_paper_s_equation_12(table, eta):
    schedule, _ = TABLES[table]
    x, noise, stops = images(), Drawn(1), [999, 700, 300, 50]
    bars = [float(schedule.alphas_bar[stop]) for stop in stops] + [1.0]
    y = x
    for stop, bar, then in zip(stops, bars, bars[1:], strict=False):
        predicted = toy(y, torch.full((2,), stop))
        spread = eta * math.sqrt((1 - then) / (1 - bar)) * math.sqrt(1 - bar / then)
        x0 = (y - math.sqrt(1 - bar) * predicted) / math.sqrt(bar)
        y = math.sqrt(then) * x0 + math.sqrt(1 - then - spread**2) * predicted
        y = y + (spread * noise(3, 8, 8) if spread else 0)
    grid = [(math.sqrt(bar), math.sqrt(1 - bar)) for bar in bars]
    ours = last(ddim(denoiser(toy, schedule, PREDICTIONS["noise"]), x, grid, Drawn(1), eta=eta))
    assert torch.allclose(ours, y, rtol=1e-4, atol=1e-4)  # the network is told the time in float32


def test_the_ancestral_sampler_is_ddpm_s_algorithm_2():
    """Over a chain of 20 steps, with the posterior's variance (their beta-tilde)."""
    schedule, x, noise = Linear(20), images(), Drawn(1)
    y = x
    for step in range(19, -1, -1):
        beta, bar = schedule.betas[step], schedule.alphas_bar[step]
        before = schedule.alphas_bar[step - 1] if step else torch.ones(())
        y = (y - beta / (1 - bar).sqrt() * toy(y, torch.full((2,), step))) / (1 - beta).sqrt()
        if step:
            y = y + ((1 - before) / (1 - bar) * beta).sqrt() * noise(3, 8, 8)
    ours = SAMPLERS["ddpm"](denoiser(toy, schedule, PREDICTIONS["noise"]), x, grids.uniform(schedule, 20), Drawn(1))
    assert torch.allclose(last(ours), y, rtol=1e-5, atol=1e-5)


def trajectory_of_diffusers(scheduler, steps, x, predict=toy, **options):
    scheduler.set_timesteps(steps)
    for step in scheduler.timesteps:
        x = scheduler.step(predict(x, step.expand(2)), step, x, **options).prev_sample
        yield x


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("clip", [False, True], ids=["as it comes", "clipped"])
def test_ddpm_s_trajectory_is_that_of_diffusers(table, clip):
    diffusers = pytest.importorskip("diffusers")
    schedule, name = TABLES[table]
    theirs = diffusers.DDPMScheduler(
        beta_schedule=name, variance_type="fixed_small", clip_sample=clip, timestep_spacing="trailing"
    )
    says = denoiser(toy, schedule, PREDICTIONS["noise"])
    ours = SAMPLERS["ddpm"](clipped(says) if clip else says, images(), grids.uniform(schedule, 50), Drawn(1))
    steps = trajectory_of_diffusers(theirs, 50, images(), generator=torch.Generator().manual_seed(1))
    for (mine, _), expected in zip(ours, steps, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_s_trajectory_is_that_of_diffusers(table, eta):
    diffusers = pytest.importorskip("diffusers")
    schedule, name = TABLES[table]
    theirs = diffusers.DDIMScheduler(beta_schedule=name, clip_sample=False, timestep_spacing="trailing")
    ours = ddim(denoiser(toy, schedule, PREDICTIONS["noise"]), images(), grids.uniform(schedule, 20), Drawn(1), eta)
    options = {"eta": eta, "generator": torch.Generator().manual_seed(1)}
    steps = trajectory_of_diffusers(theirs, 20, images(), **options)
    for (mine, _), expected in zip(ours, steps, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler, algorithm", [("dpm++2m", "dpmsolver++"), ("dpm++2m-sde", "sde-dpmsolver++")])
def test_dpm_solver_2m_s_trajectory_is_that_of_diffusers(sampler, algorithm):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="linear", algorithm_type=algorithm, timestep_spacing="trailing", lower_order_final=False
    )
    says, noise = denoiser(toy, Linear(), PREDICTIONS["noise"]), Drawn(1, torch.float32)
    ours = SAMPLERS[sampler](says, images(), grids.uniform(Linear(), 20), noise)
    steps = trajectory_of_diffusers(theirs, 20, images(), generator=torch.Generator().manual_seed(1))
    for (mine, _), expected in zip(ours, steps, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-4, atol=1e-4)
