"""Restricted Boltzmann machines and belief networks against enumeration."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.card import Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold
from reverie.diffusion.frames import last_image
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.likelihood import _widened
from reverie.inference.features import features_of
from reverie.media.origin import origin_of
from reverie.models.energy import belief
from reverie.models.energy.belief import BeliefNet
from reverie.models.energy.contrastive import Learner, Negative, Sparsity
from reverie.models.energy.machine import Machine, Units, bernoulli, log_mean
from reverie.models.energy.tempering import exchange, ladder, spaced


def states(units: int) -> torch.Tensor:
    """All 2^units binary states, float64."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def machine(visible: int = 5, hidden: int = 4, classes: int = 0, kind: str = "binary", scale=1.0, seed=0) -> Machine:
    made = Machine(visible + classes, hidden, classes, kind).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    made.offset.copy_(torch.rand(visible + classes, generator=generator))
    made.base_bias.copy_(torch.randn(visible + classes, generator=generator) / 2)
    return made


def net(*machines: Machine, shape=None, units=Units(), chains: int = 2) -> BeliefNet:
    pixels = machines[0].units[0] - machines[0].classes
    output = Output("image", shape or (1, pixels), 1)
    model = BeliefNet(machines, output, units, Negative(chains=chains)).eval()
    model.up.double()
    for depth in range(len(model.up)):
        model._recognise(depth)
    return model


def joint(m: Machine, v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """-E(v, h) of all pairs, (V states, H states), by the definition."""
    x, y = v - m.offset, h - 0.5
    own = x @ m.visible_bias if m.kind == "binary" else -(x - m.visible_bias).square().sum(1) / 2
    return own[:, None] + (y @ m.hidden_bias)[None] + x @ m.weight @ y.T


def visible_states(m: Machine) -> torch.Tensor:
    pixels = states(m.units[0] - m.classes)
    if not m.classes:
        return pixels
    labels = torch.eye(m.classes, dtype=torch.float64)
    return torch.cat([pixels.repeat_interleave(m.classes, 0), labels.repeat(len(pixels), 1)], 1)


def images_of(v: torch.Tensor) -> Batch:
    return Batch({"x": (2 * v - 1).float()[:, None, None]})


def draw_exactly(p: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    """Indices of states with these probabilities."""
    return torch.multinomial(p, count, True, generator=torch.Generator().manual_seed(seed))


def assert_frequencies(draws: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> None:
    """The states v (S, V) are among draws (N, V) as often as p (S,) says, within 4.5 standard errors."""
    powers = 2.0 ** torch.arange(v.shape[1], dtype=torch.float64)
    index = {float(code): i for i, code in enumerate((v @ powers).tolist())}
    places = torch.tensor([index[code] for code in (draws.double() @ powers).tolist()])
    rate = places.bincount(minlength=len(v)).double() / len(draws)
    assert ((rate - p).abs() < 4.5 * (p * (1 - p) / len(draws)).sqrt() + 1e-9).all()


# A machine


@pytest.mark.parametrize(("hidden", "classes"), [(4, 0), (4, 3), (7, 0)])  # 7: summed over the visible units
def test_log_z_and_free_energies_are_sums_over_all_states(hidden, classes):
    m = machine(hidden=hidden, classes=classes)
    v, h = visible_states(m), states(hidden)
    table = joint(m, v, h)
    torch.testing.assert_close(m.log_partition(rows=3), table.flatten().logsumexp(0))
    torch.testing.assert_close(-m.free_energy(v), table.logsumexp(1))


@pytest.mark.parametrize(("kind", "classes"), [("binary", 0), ("binary", 3), ("gaussian", 0)])
def test_the_base_has_independent_units_and_a_known_log_z(kind, classes):
    m = machine(classes=classes, kind=kind)
    base = m.base()
    torch.testing.assert_close(m.log_base(), base.log_partition())
    assert not base.weight.any() and m.weight.any() and torch.equal(base.visible_bias, m.base_bias)


def test_the_partition_function_of_gaussian_units_is_an_integral():
    m = machine(visible=1, hidden=3, kind="gaussian")
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    total = (-m.free_energy(x[:, None])).exp().sum() * 1e-3
    torch.testing.assert_close(m.log_partition().exp(), total)


def mixture(m: Machine) -> torch.distributions.MixtureSameFamily:
    """p(v) of Gaussian units without Z: a mixture with a component of variance 1 for each state of the hidden units."""
    y = states(m.units[1]) - 0.5
    shift = m.visible_bias + y @ m.weight.T
    log_p = y @ m.hidden_bias + (shift.square() - m.visible_bias.square()).sum(1) / 2
    component = torch.distributions.Independent(torch.distributions.Normal(m.offset + shift, 1.0), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=log_p), component)


def test_gaussian_units_have_the_density_gradient_and_log_z_of_a_mixture_of_gaussians():
    m = machine(visible=4, hidden=5, kind="gaussian", scale=0.8)
    data = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact, ours = mixture(m).log_prob(data), -m.free_energy(data) - m.log_partition()
    torch.testing.assert_close(ours, exact)
    parameters = [m.weight, m.visible_bias, m.hidden_bias]
    for a, b in zip(*(torch.autograd.grad(log_p.mean(), parameters) for log_p in (ours, exact)), strict=True):
        torch.testing.assert_close(a, b)
    _, low, high = log_mean(m.anneal(Noise.of_seeds(range(500)), 200)[1])
    assert low < float(m.log_partition().detach()) < high and high - low < 0.3


@pytest.mark.parametrize("classes", [0, 3])
def test_conditionals_are_those_of_the_joint_distribution(classes):
    m = machine(classes=classes)
    v, h = visible_states(m), states(4)
    p = joint(m, v, h).exp()
    torch.testing.assert_close(m.hidden(v), (p / p.sum(1, keepdim=True)) @ h)
    torch.testing.assert_close(m.visible(h), (p / p.sum(0, keepdim=True)).T @ v)
    if not classes:
        index = torch.arange(len(v))
        log_p = p.log() - p.sum(0).log()
        torch.testing.assert_close(-m.nll(v, h[3].expand(len(v), -1)), log_p[index, 3])


@pytest.mark.parametrize("classes", [0, 3])
def test_gibbs_sampling_leaves_the_distribution_as_it_is(classes):
    m = machine(classes=classes, scale=0.7)
    v = visible_states(m)
    p = (-m.free_energy(v)).softmax(0).detach()
    start = v[draw_exactly(p, 40_000)]
    assert_frequencies(m.sweep(start, Noise.of_seeds(range(len(start)))), v, p)


def test_annealed_importance_sampling_finds_the_enumerated_log_z():
    m = machine(visible=8, hidden=10)
    value, low, high = log_mean(m.anneal(Noise.of_seeds(range(500)), 200)[1])
    truth = float(m.log_partition().detach())
    assert low < truth < high and high - low < 0.3 and value == pytest.approx(truth, abs=0.15)


@pytest.mark.parametrize("kind", ["binary", "gaussian"])
def test_live_estimates_of_log_z_cover_the_enumerated_one_about_as_often_as_they_say(kind):
    """Those of the log: 64 chains, the fewest steps; the log of a mean is below its expectation, so a few miss."""
    m = machine(visible=6, hidden=6, kind=kind, scale=0.5)
    learner, truth, covered = Learner(m, Negative(), Sparsity()).double(), float(m.log_partition().detach()), 0
    for step in range(24):
        learner._estimate(Batch({}, Noise.of_step(fold(step), 0, 4)))
        value, half = learner.likelihood.tolist()
        covered += abs(-value - truth) < half  # the energy of data is 0 here
    assert covered >= 20 and 0 < half < 0.5


def test_the_mean_of_weights_has_the_interval_of_its_standard_error():
    weights = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    value, low, high = log_mean(weights.log() + 7)
    error = 1.96 * weights.std().item() / 2
    assert (value, low, high) == pytest.approx([7 + math.log(1.25 + e) for e in (0, -error, error)])


def test_draws_have_their_probabilities():
    p = torch.tensor([[0.0, 1e-3, 0.25, 0.5, 0.9, 1.0, 1.0]]).expand(50_000, 7)
    rate = bernoulli(p, Noise.of_seeds(range(50_000))).mean(0)
    assert rate[0] == 0 and rate[5] == rate[6] == 1
    assert ((rate - p[0]).abs() < 4 * (p[0] * (1 - p[0]) / 50_000).sqrt() + 1e-9).all()


# Tempering


def test_the_exchange_ratio_is_that_of_the_enumerated_distributions():
    a, b = machine(seed=1), machine(seed=2)
    v = states(5)
    log_a, log_b = ((-m.free_energy(v)).log_softmax(0) for m in (a, b))
    i, j = torch.arange(32), torch.arange(32).flip(0)
    truth = log_a[j] + log_b[i] - log_a[i] - log_b[j]
    torch.testing.assert_close(exchange(a, b, v[i], v[j]), truth)


@torch.no_grad()
def test_tempering_leaves_every_machine_s_distribution_as_it_is():
    rungs = [machine().base(), machine(scale=0.6), machine(scale=1.2, seed=1)]
    v, count = states(5), 30_000
    p = [(-rung.free_energy(v)).softmax(0) for rung in rungs]
    chains = [v[draw_exactly(q, count, seed)] for seed, q in enumerate(p)]
    before = [chain.clone() for chain in chains]
    noise = Noise.of_seeds(range(count))
    for parity in (0, 1):
        ladder(rungs, chains, noise, parity, lambda v: v)
        for chain, q in zip(chains, p, strict=True):
            assert_frequencies(chain, v, q)
    assert not any(torch.equal(old, new) for old, new in zip(before, chains, strict=True))


@torch.no_grad()
def test_tempering_brings_a_chain_out_of_a_mode_that_gibbs_sampling_never_leaves():
    deep = Machine(6, 6).double()
    deep.weight.copy_(12 * torch.eye(6) + 6)  # all units on, or all off
    deep.offset.fill_(0.5)
    rungs = spaced(deep)
    count, noise = 200, Noise.of_seeds(range(200))
    chains = [torch.ones(count, 6, dtype=torch.float64) for _ in rungs]
    for sweep in range(60):
        ladder(rungs, chains, noise, sweep % 2, lambda v: v)
    assert 0.35 < chains[-1].mean() < 0.65
    for a, b, v, w in zip(rungs, rungs[1:], chains, chains[1:], strict=False):
        assert exchange(a, b, v, w).clamp(max=0).exp().mean() > 0.3
    alone = torch.ones(count, 6, dtype=torch.float64)
    for _ in range(60):
        alone = deep.sweep(alone, noise)
    assert alone.mean() > 0.95


# Training


def exact_gradient(m: Machine, data: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(m.free_energy(data).mean() + m.log_partition(), m.weight)
    return gradient


def test_the_gradient_of_contrastive_divergence_tends_to_the_likelihood_s_with_k():
    m = machine(visible=6, hidden=4, scale=1.6)
    data = states(6)[[3, 20, 41, 62]]
    rows = data.repeat(15_000, 1)
    truth, errors = exact_gradient(m, data), []
    for k in (1, 4, 32):
        learner = Learner(m, Negative("cd", k=k), Sparsity())
        errors.append(error_of(step_gradient(learner, rows)[0], truth))
    assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2] and errors[2] < 0.05, errors


def step_gradient(learner: Learner, rows: torch.Tensor, step: int = 0) -> tuple[torch.Tensor, dict]:
    """The gradient of the weights in a step of training, and the step's outputs."""
    batch = Batch({}, Noise.of_step(fold(step), 0, len(rows)), row=torch.arange(len(rows)))
    outputs = learner.gibbs(rows, batch)
    loss = learner.loss(batch, outputs)["loss"]
    return torch.autograd.grad(loss, learner.machine.weight)[0], outputs


def error_of(gradient: torch.Tensor, truth: torch.Tensor) -> float:
    return float((gradient - truth).norm() / truth.norm())


def test_the_gradient_of_persistent_chains_tends_to_the_likelihood_s_from_step_to_step():
    """With one sweep in each step, from independent units; chains that started again would stay where they are."""
    m = machine(visible=6, hidden=4, scale=1.6)
    data, count = states(6)[[3, 20, 41, 62]], 60_000
    learner, rows = Learner(m, Negative(chains=count, ais_chains=0), Sparsity()).double(), data.repeat(count // 4, 1)
    learner.chain.copy_(m.anneal(Noise.of_seeds(range(count)), 1)[0])
    truth, errors = exact_gradient(m, data), []
    for step in range(30):
        gradient, outputs = step_gradient(learner, rows, step)
        learner.keep(Batch({}), outputs, {"pcd/free_energy": torch.zeros((), dtype=torch.float64)})
        errors.append(error_of(gradient, truth))
    assert errors[0] > 3 * errors[-1] and errors[-1] < 0.05, errors


@torch.no_grad()
def test_the_gradient_of_tempered_chains_tends_to_the_likelihood_s_with_sweeps():
    m = machine(visible=6, hidden=4, scale=1.6)
    data, count, noise = states(6)[[3, 20, 41, 62]], 15_000, Noise.of_seeds(range(15_000))
    rungs, errors = spaced(m), []
    with torch.enable_grad():
        truth = exact_gradient(m, data)
    chains = [data[:1].expand(count, -1).clone() for _ in rungs]
    for sweep in range(24):
        ladder(rungs, chains, noise, sweep % 2, lambda v: v)
        with torch.enable_grad():
            loss = m.free_energy(data).mean() - m.free_energy(chains[-1]).mean()
            errors.append(error_of(torch.autograd.grad(loss, m.weight)[0], truth))
    assert errors[0] > 3 * errors[-1] and errors[-1] < 0.05, errors


def fitted(data, name="rbm", steps=250, lr=0.1, batch_size=64, **options) -> BeliefNet:
    """A model after some steps, without the files of a run."""
    torch.manual_seed(0)
    model = rv.build(name, data, **options)
    for _ in rv.fit(model, data, steps=steps, batch_size=batch_size, lr=lr, ema=0, warmup=0, seed=0):
        pass
    return model


@pytest.fixture(scope="module")
def small(bars):
    """An RBM of few hidden units."""
    return fitted(rv.open_data(bars), hidden=8, chains=512, lr=0.2)


@pytest.fixture(scope="module")
def trained(bars, tmp_path_factory):
    """A run of a few steps."""
    out = tmp_path_factory.mktemp("energy") / "rbm"
    return rv.train("rbm", bars, out=out, quiet=True, steps=20, batch_size=16, hidden=8, chains=32, log_every=1)


def test_the_likelihood_in_the_log_is_that_of_enumeration(small, trained, bars):
    """The last estimate, of recent batches, is that of all training images within a nat."""
    value, error = small.top.likelihood.tolist()
    x = torch.from_numpy(rv.open_data(bars).train["x"].astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    assert value == pytest.approx(float(small.log_prob(Batch({"x": x})).mean()), abs=1) and 0 < error < 0.2
    assert float(small.top.machine.weight.detach().norm()) > 3
    assert all(-80 < line["update/log_likelihood"] < 0 for line in trained.metrics())


def test_persistent_chains_follow_the_model(small):
    """Their means are those of the enumerated distribution, within five standard errors."""
    m, h = copy.deepcopy(small.top.machine).double().requires_grad_(False), states(8)
    truth = (m._log_visible(m.outputs(h)) + (h - 0.5) @ m.hidden_bias).softmax(0) @ m.visible(h)
    chain = small.top.chain
    assert ((chain.mean(0) - truth).abs() < 5 * (truth * (1 - truth) / len(chain)).sqrt() + 0.02).all()


def test_a_step_waits_for_the_device_only_where_an_estimate_may_be_due():
    """Tensors of the device "meta" have no values, so whatever needs one raises."""
    learner = Learner(Machine(6, 4), Negative(chains=8), Sparsity()).to("meta")
    outputs = {"usage": torch.rand(5, 4), "slot": torch.arange(5), "model": torch.rand(5, 6)}
    outputs = {name: value.to("meta") for name, value in outputs.items()}
    with torch.no_grad():
        for step in range(1, 10):
            learner.keep(Batch(step=step), outputs, {"pcd/free_energy": torch.zeros((), device="meta")})
        with pytest.raises(RuntimeError, match="meta"):
            learner.keep(Batch(step=10), outputs, {"pcd/free_energy": torch.zeros((), device="meta")})


def test_sparsity_lowers_the_use_of_hidden_units(small, bars):
    sparse = fitted(rv.open_data(bars), hidden=8, sparsity=3.0, sparsity_target=0.05, ais_chains=0)
    assert sparse.top.usage.mean() < 0.15 < 0.3 < small.top.usage.mean()
    strict = fitted(rv.open_data(bars), hidden=8, sparsity=30.0, sparsity_target=0.2, ais_chains=0)
    assert strict.top.usage.tolist() == pytest.approx([0.2] * 8, abs=0.03)


def test_fewer_chains_than_rows_are_refused_before_there_is_a_run(bars, tmp_path):
    with pytest.raises(UsageError, match="chains must be at least the batch size 64"):
        rv.train("rbm", bars, out=tmp_path / "r", steps=1, batch_size=64, chains=8, quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("visible", "announced"), [("binary", True), ("gaussian", False)])
def test_the_training_and_the_run_say_how_grey_is_read(visible, announced, bars, tmp_path, call):
    words = ("--data", bars, "--visible", visible, "--hidden", 4, "--batch-size", 8, "--steps", 1, "--out", "r")
    code, _, error = call("train", "rbm", *words)
    reading = "read grey as the probability that a pixel is on"
    assert code == 0 and (reading in error) == announced, error
    assert (reading in call("show", "r")[1]) == announced


def test_a_wrong_option_names_the_system(bars):
    with pytest.raises(UsageError, match=r"momentum of rbm must be from 0 to 0\.999"):
        rv.train("rbm", bars, momentum=3.0, steps=1, quiet=True)


def test_layers_that_have_been_trained_stay_as_they_are_to_the_bit(bars):
    model = rv.build("dbn", rv.open_data(bars), hidden=(8, 6), wake_sleep=0.0, chains=32)
    steps = []
    for _ in rv.fit(model, bars, steps=20, batch_size=16, ema=0):
        steps.append({name: value.clone() for name, value in model.state_dict().items()})

    def changed(first: int, last: int) -> set[str]:
        return {name for name, value in steps[first].items() if not torch.equal(value, steps[last][name])}

    learnt = {"weight", "visible_bias", "hidden_bias"}
    machines = [{f"layers.{depth}.machine.{name}" for name in learnt} for depth in (0, 1)]
    first, second = changed(0, 9), changed(10, 19)
    assert machines[0] <= first and not {name for name in first if not name.startswith("layers.0.")}
    assert machines[1] <= second and not {name for name in second if not name.startswith("layers.1.")}
    v = torch.eye(64)
    torch.testing.assert_close(model.recognition[0](v), model.machines[0](v))


# Images


def test_a_clamped_label_stays_and_its_conditional_is_the_joint_s():
    m = machine(visible=3, hidden=3, classes=2)
    model, count, v = net(m), 20_000, visible_states(m)
    label = torch.ones(count, dtype=torch.int64)
    *_, last = model.stream(Noise.of_seeds(range(count)), label, sweeps=30)
    images = last.render()["image"].flatten(1)
    p = (-m.free_energy(v)).exp() * v[:, -1]
    truth = (p / p.sum()) @ v[:, :3]
    assert torch.allclose((images.mean(0).double() + 1) / 2, truth, atol=0.015)


@torch.no_grad()
def test_completed_pixels_have_the_conditional_distribution_of_the_known_ones():
    m = machine(visible=4, hidden=3)
    v, count = states(4), 20_000
    image = torch.tensor([1.0, -1.0, 0.3, 0.3]).expand(count, 1, 1, 4)
    mask = torch.tensor([True, True, False, False]).view(1, 1, 1, 4)
    result = last_image(net(m).complete(image, mask, Noise.of_seeds(range(count)), sweeps=30))
    assert torch.equal(result[..., :2], image[..., :2])
    p = (-m.free_energy(v)).softmax(0) * ((v[:, 0] == 1) & (v[:, 1] == 0))
    truth = (p / p.sum()) @ v[:, 2:]
    assert torch.allclose((result.flatten(1)[:, 2:].double().mean(0) + 1) / 2, truth, atol=0.015)


def test_exact_and_estimated_likelihoods_agree():
    model = net(machine(visible=16, hidden=6, scale=0.5), shape=(4, 4))
    batch = Batch({"x": (torch.arange(64).view(4, 1, 4, 4) % 3 == 0).float() * 2 - 1})
    exact = model.log_prob(batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "enumerable", False)
        patch.setattr(belief, "_ANNEALED", (200, 200))
        estimated = net(model.top.machine, shape=(4, 4)).estimate(batch)
    torch.testing.assert_close(estimated, exact, atol=0.05, rtol=0)
    assert not torch.equal(estimated, exact)


def test_the_likelihood_of_a_conditional_machine_is_a_sum_over_its_labels():
    m = machine(visible=4, hidden=3, classes=3)
    log_p = net(m).log_prob(images_of(states(4)))
    assert float(log_p.exp().sum()) == pytest.approx(1)
    v = visible_states(m)
    torch.testing.assert_close(log_p, (-m.free_energy(v)).log_softmax(0).detach().view(16, 3).logsumexp(1))


def test_a_density_of_gaussian_pixels_integrates_to_one():
    model = net(machine(visible=1, hidden=3, kind="gaussian", scale=0.5), units=Units("gaussian", 0.2))
    x = torch.linspace(-4, 4, 8001)
    total = model.log_prob(Batch({"x": x[:, None, None, None]})).exp().sum() * 1e-3
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_the_error_of_log_z_widens_the_interval_of_a_likelihood():
    wide = _widened(Estimate(90.0, 89.0, 91.0), 500.0, 499.0, 500.5)
    assert (wide.value, wide.low, wide.high) == pytest.approx((90, 90 - math.sqrt(2), 90 + math.sqrt(1.25)))


# Belief networks


def belief_net() -> BeliefNet:
    return net(machine(visible=5, hidden=4), machine(visible=4, hidden=3, seed=1))


@torch.no_grad()
def enumerated(model: BeliefNet) -> torch.Tensor:
    """log p(v) of all states of the pixels, two layers."""
    lower, upper = model.machines
    v, h = states(lower.units[0]), states(upper.units[0])
    log_h = (-upper.free_energy(h)).log_softmax(0)
    log_v = torch.stack([-lower.nll(v, row.expand(len(v), -1)) for row in h], 1)
    return (log_v + log_h).logsumexp(1)


def test_the_bound_of_a_belief_network_is_below_the_enumerated_likelihood_and_tends_to_it():
    model = belief_net()
    truth = enumerated(model)
    assert float(truth.exp().sum()) == pytest.approx(1)
    v = states(5)[[0, 7, 19, 30]]
    rows = v.repeat_interleave(4000, 0)
    bound = model.elbo(images_of(rows)).view(4, -1)
    error = bound.std(1) / math.sqrt(4000)
    assert (bound.mean(1) < truth[[0, 7, 19, 30]]).all()
    exact = torch.stack([exact_bound(*model.machines, row[None]) for row in v])
    assert ((bound.mean(1) - exact).abs() < 4.5 * error).all()
    tight = model.elbo(images_of(v.repeat_interleave(200, 0)), samples=200).view(4, -1).mean(1)
    assert (tight > bound.mean(1)).all() and torch.allclose(tight, truth[[0, 7, 19, 30]], atol=0.1)


@torch.no_grad()
def test_samples_of_a_belief_network_have_its_enumerated_distribution():
    model, count = belief_net(), 20_000
    truth = (enumerated(model).exp() @ states(5)).float()
    for method in ("gibbs", "tempering"):
        images = model.sample(Noise.of_seeds(range(count)), sweeps=25, method=method)
        assert torch.allclose((images.flatten(1).mean(0) + 1) / 2, truth, atol=0.015)


def test_a_second_layer_raises_the_bound():
    """A mirror has the likelihood of the layer below as its bound, for every draw; learning its units raises it."""
    lower, upper = machine(visible=6, hidden=4), Machine(4, 8).double()
    upper.settle(torch.rand(4).double())
    upper.weight.data.zero_()
    upper.mirror(lower)
    v, h = states(6)[[3, 20, 41, 62]], states(4)
    exact = net(lower).log_prob(images_of(v))
    assert torch.allclose(net(lower, upper).elbo(images_of(v)), exact)
    alone = float(exact.mean())
    q = lower.hidden(v).detach()
    q = (h @ q.log().T + (1 - h) @ (1 - q).log().T).exp()  # (16, 4)
    assert float(exact_bound(lower, upper, v)) == pytest.approx(alone)
    optimizer = torch.optim.Adam(upper.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-(q.mean(1) * (-upper.free_energy(h)).log_softmax(0)).sum()).backward()
        optimizer.step()
    raised = float(exact_bound(lower, upper, v))
    bound = net(lower, upper).elbo(images_of(v.repeat_interleave(2000, 0)))
    assert raised > alone + 0.1 and float(bound.mean()) == pytest.approx(raised, abs=4 * float(bound.std()) / 89)


def test_a_mirror_needs_binary_units_below_and_room_for_them():
    assert Machine(4, 6).mirrors(Machine(6, 4)) and not Machine(4, 5).mirrors(Machine(6, 4))
    assert not Machine(4, 6).mirrors(Machine(6, 4, kind="gaussian"))


@torch.no_grad()
def exact_bound(lower: Machine, upper: Machine, v: torch.Tensor) -> torch.Tensor:
    """The mean over images of the bound with the lower machine's posterior, summed over all h."""
    q, h = lower.hidden(v), states(lower.units[1])
    log_q = (h @ q.log().T + (1 - h) @ (1 - q).log().T).T  # (images, states)
    log_v = torch.stack([-lower.nll(v, row.expand(len(v), -1)) for row in h], 1)
    log_p = log_v + (-upper.free_energy(h)).log_softmax(0)
    return (log_q.exp() * (log_p - log_q)).sum(1).mean()


def test_wake_sleep_changes_every_layer_and_raises_the_bound(bars):
    data = rv.open_data(bars)
    options = {"hidden": (6, 8), "chains": 64, "ais_chains": 0, "wake_sleep": 1e4}
    first, tuned = (fitted(data, "dbn", steps, 8.0, **options) for steps in (1, 250))
    moved = [n for n, p in tuned.named_parameters() if not torch.equal(p, first.get_parameter(n))]
    assert {"layers.0.machine.weight", "layers.1.machine.weight", "up.0.weight", "up.0.bias"} <= set(moved)
    assert torch.equal(tuned.machines[0].hidden_bias, first.machines[0].hidden_bias)  # of the untied posterior
    x = torch.from_numpy(data.train["x"].astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    before, after = (float(model.elbo(Batch({"x": x}), samples=20).mean()) for model in (first, tuned))
    assert after > before + 1, (before, after)


def test_one_layer_is_no_belief_network(bars):
    with pytest.raises(UsageError, match="at least two layers"):
        rv.build("dbn", rv.open_data(bars), hidden=(8,))


# What users see


def test_restoring_by_completion_keeps_what_is_known(trained, call, tmp_path):
    code, _, error = call("restore", trained.path, "complete", "--mask", "left-half", "-n", "3", "--out", "c.npz")
    assert code == 0, error
    rows = np.load(tmp_path / "c.npz")
    assert np.array_equal(rows["restored 1"][:, :, 4:], rows["truth"][:, :, 4:])
    assert not np.array_equal(rows["restored 1"], rows["truth"])
    code, _, error = call("restore", trained.path, "inpaint", "-n", "1")
    assert code == 2 and "It can restore: complete" in error


def test_an_evaluation_states_log_z_with_its_interval(bars, tmp_path, call):
    rv.train("rbm", bars, out=tmp_path / "r", steps=5, batch_size=16, hidden=17, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(belief, "_ANNEALED", (64, 50))
        code, out, error = call("evaluate", tmp_path / "r", "--metrics", "nll", "--json")
    assert code == 0, error
    (score,) = [s for s in json.loads(out)["scores"] if s["metric"] == "nll-ais-binary"]
    value, low, high = score["passport"]["log_partition"]
    assert low < value < high and score["passport"]["kind"] == "estimate"


def test_the_weights_of_hidden_units_are_drawn_as_images(trained, call, tmp_path):
    model = rv.load(trained.path)
    images = rv.receptive_fields(model, channels=[0, 5])
    weight = model.top.machine.weight.detach()[:, [0, 5]].T.view(2, 8, 8)
    expected = weight / weight.abs().amax((1, 2), keepdim=True)
    assert torch.allclose(torch.from_numpy(images.array[..., 0].astype(np.float32) / 127.5 - 1), expected, atol=0.01)
    assert images.conditions["scale"] == pytest.approx((weight.abs().amax((1, 2)) / 2).tolist(), rel=1e-4)
    for _ in range(2):  # its origin lets it be replaced
        code, out, error = call("filters", trained.path, "--weights", "--out", tmp_path / "w.png")
        assert code == 0 and "8 units of layers.0.machine" in out, error
    assert origin_of(tmp_path / "w.png")["weights"]["checkpoint"] == 20


@pytest.mark.parametrize(("layer", "why"), [("0", "computes maps"), ("3", "no linear function")])
def test_weights_of_layers_that_are_not_linear_in_the_image_are_refused(layer, why):
    from reverie.nets.features import Features

    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(108, 4)
    )
    with pytest.raises(UsageError, match=why):
        rv.receptive_fields(features_of(Features(network, channels=1, size=(8, 8))), layer)
