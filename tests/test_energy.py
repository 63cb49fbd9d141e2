"""Restricted Boltzmann machines against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.core.noise import Noise
from reverie.models.energy.machine import Machine, drawn, log_mean


def states(units: int) -> torch.Tensor:
    """All 2^units binary states, float64."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)


def machine(visible: int = 5, hidden: int = 4, classes: int = 0, kind: str = "binary", scale: float = 1.0) -> Machine:
    made = Machine(visible + classes, hidden, classes, kind).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    made.offset.copy_(torch.rand(visible + classes, generator=generator))
    return made


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


@pytest.mark.parametrize("classes", [0, 3])
def test_log_z_and_free_energies_are_sums_over_all_states(classes):
    m = machine(classes=classes)
    v, h = visible_states(m), states(4)
    table = joint(m, v, h)
    torch.testing.assert_close(m.log_partition(rows=3), table.flatten().logsumexp(0))
    torch.testing.assert_close(-m.free_energy(v), table.logsumexp(1))
    m.weight.data.zero_()
    torch.testing.assert_close(m.log_base(), m.log_partition())


def test_the_partition_function_of_gaussian_units_is_an_integral():
    m = machine(visible=1, hidden=3, kind="gaussian")
    x = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    total = (-m.free_energy(x[:, None])).exp().sum() * 1e-3
    torch.testing.assert_close(m.log_partition().exp(), total)


@pytest.mark.parametrize("classes", [0, 3])
def test_conditionals_are_those_of_the_joint_distribution(classes):
    m = machine(classes=classes)
    v, h = visible_states(m), states(4)
    p = joint(m, v, h).exp()
    torch.testing.assert_close(m.hidden(v), (p / p.sum(1, keepdim=True)) @ h)
    torch.testing.assert_close(m.visible(h), (p / p.sum(0, keepdim=True)).T @ v)


@pytest.mark.parametrize("classes", [0, 3])
def test_gibbs_sampling_leaves_the_distribution_as_it_is(classes):
    m = machine(classes=classes, scale=0.7)
    v = visible_states(m)
    p = (-m.free_energy(v)).softmax(0)
    count = 40_000
    start = v[torch.multinomial(p, count, True, generator=torch.Generator().manual_seed(0))]
    after = m.sweep(start, Noise.of_seeds(range(count)))
    at = (after[:, None] == v[None]).all(2).double().mean(0) if count * len(v) < 5e6 else None
    assert at is not None and at.sum() == pytest.approx(1)
    assert ((at - p).abs() < 4.5 * (p * (1 - p) / count).sqrt() + 1e-9).all()


def test_annealed_importance_sampling_finds_the_enumerated_log_z():
    m = machine(visible=8, hidden=10)
    value, low, high = log_mean(m.anneal(Noise.of_seeds(range(500)), 200))
    truth = float(m.log_partition().detach())
    assert low < truth < high and high - low < 0.3 and value == pytest.approx(truth, abs=0.15)


def test_the_mean_of_weights_has_the_interval_of_its_standard_error():
    weights = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    value, low, high = log_mean(weights.log() + 7)
    error = 1.96 * weights.std().item() / 2
    assert (value, low, high) == pytest.approx([7 + math.log(1.25 + e) for e in (0, -error, error)])


def test_draws_have_their_probabilities():
    p = torch.tensor([[0.0, 1e-3, 0.25, 0.5, 0.9, 1.0, 1.0]]).expand(50_000, 7)
    rate = drawn(p, Noise.of_seeds(range(50_000))).mean(0)
    assert rate[0] == 0 and rate[5] == rate[6] == 1
    assert ((rate - p[0]).abs() < 4 * (p[0] * (1 - p[0]) / 50_000).sqrt() + 1e-9).all()


def exact_gradient(m: Machine, data: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(m.free_energy(data).mean() + m.log_partition(), m.weight)
    return gradient


def test_the_gradient_of_contrastive_divergence_tends_to_the_likelihood_s_with_k():
    m = machine(visible=6, hidden=4, scale=1.6)
    data = states(6)[[3, 20, 41, 62]]
    truth, errors = exact_gradient(m, data), []
    for k in (1, 4, 32):
        v = data.repeat(15_000, 1)
        noise = Noise.of_seeds(range(len(v)))
        with torch.no_grad():
            for _ in range(k):
                v = m.sweep(v, noise)
        (gradient,) = torch.autograd.grad(m.free_energy(data).mean() - m.free_energy(v).mean(), m.weight)
        errors.append(float((gradient - truth).norm() / truth.norm()))
    print(errors)
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.03


def test_the_likelihood_in_the_log_is_that_of_enumeration(tmp_path, bars):
    """Trajectory AIS: its estimate after training is within 0.1 nats of the enumerated likelihood."""
    run = rv.train(
        "rbm", bars, steps=300, batch_size=64, hidden=8, chains=512, lr=0.1, ema=0, seed=0, out=tmp_path / "rbm"
    )
    model = rv.load(run.path)
    machine = model.machine
    weights = model.learner.log_weight
    estimate = weights.logsumexp(0) - math.log(len(weights))
    assert float(estimate) == pytest.approx(float(machine.log_partition().detach()), abs=0.15)


def test_a_clamped_label_stays_and_its_conditional_is_the_joint_s():
    m = machine(visible=3, hidden=3, classes=2, scale=1.0)
    from reverie.core.card import Output
    from reverie.models.energy.rbm import RBM, Negative, Sparsity

    model = RBM(m, Output("image", (1, 3), 1), Negative(chains=2), Sparsity())
    count, v = 20_000, visible_states(m)
    label = torch.ones(count, dtype=torch.int64)
    images = torch.zeros(count, 3)
    *_, last = model.stream(Noise.of_seeds(range(count)), label, sweeps=30)
    images = last.render()["image"].flatten(1)
    p = (-m.free_energy(v)).exp() * v[:, -1]
    truth = (p / p.sum()) @ v[:, :3]
    assert torch.allclose((images.mean(0).double() + 1) / 2, truth, atol=0.015)


def test_exact_and_estimated_likelihoods_agree():
    m = machine(visible=16, hidden=6, scale=0.5)
    from reverie.core.card import Output
    from reverie.models.energy.rbm import RBM, Negative, Sparsity

    model = RBM(m, Output("image", (4, 4), 1), Negative(chains=2), Sparsity())
    batch = Batch({"x": (torch.arange(64).view(4, 1, 4, 4) % 3 == 0).float() * 2 - 1})
    torch.testing.assert_close(model.estimate(batch), model.log_prob(batch), atol=0.05, rtol=0)
