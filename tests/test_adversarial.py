"""Losses of GANs against their formulas, penalties against known gradients, the best discriminator of two Gaussians."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from reverie.adversarial.augmentation import adaptive, diffaugment
from reverie.adversarial.losses import GAN_LOSSES, sample_diversity
from reverie.adversarial.penalties import between, grad_norm_sq
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.card import Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.precision import pick_precision
from reverie.data.batches import Batches
from reverie.data.types import Split
from reverie.models.gans.base import GAN, Adversarial
from reverie.models.gans.generators import LatentGenerator
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.discriminators import Discriminator, spectral_norm
from reverie.optim.phase import stages_of
from reverie.training.step import Engine

FLAT = torch.float64


def batch_of(rows=8, size=8, channels=1, classes=3, step=0):
    rng = Noise.of_step(11, 0, rows)
    image = rng.uniform(channels, size, size, low=-1, high=1)
    return Batch({"x": image, "label": rng.integers(classes)}, Noise.of_step(3 + step, 0, rows), progress=0.5)


# Losses


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_gradients_are_those_of_the_formulas(name):
    real, fake = (torch.linspace(-3, 3, 7, dtype=FLAT).add(shift).requires_grad_(True) for shift in (0.1, -0.3))
    gan_loss, d = GAN_LOSSES[name], torch.sigmoid
    of_d = torch.autograd.grad(gan_loss.d_loss(real, fake).sum(), (real, fake))
    of_g = torch.autograd.grad(gan_loss.g_loss(real, fake).sum(), (real, fake), allow_unused=True)
    zero, ones = torch.zeros_like(real), torch.ones_like(real)
    truth = {  # (dD/dreal, dD/dfake, dG/dfake)
        "minimax": (d(real) - 1, d(fake), -d(fake)),
        "non-saturating": (d(real) - 1, d(fake), d(fake) - 1),
        "least-squares": (real - 1, fake, fake - 1),
        "hinge": (-(real < 1).double(), (fake > -1).double(), -ones),
        "wasserstein": (-ones, ones, -ones),
        "r3": (d(real - fake) - 1, 1 - d(real - fake), -d(real - fake)),
    }[name]
    for grad, expected in zip((*of_d, of_g[1]), truth, strict=True):
        torch.testing.assert_close(grad, expected.detach())
    assert (of_g[0] is not None and bool((of_g[0] != zero).any())) == gan_loss.paired


def test_where_d_is_saturated_the_minimax_gradient_vanishes_and_the_other_does_not():
    fake = torch.tensor([-10.0], dtype=FLAT, requires_grad=True)
    (flat,) = torch.autograd.grad(GAN_LOSSES["minimax"].g_loss(fake, fake), fake)
    (steep,) = torch.autograd.grad(GAN_LOSSES["non-saturating"].g_loss(fake, fake), fake)
    assert abs(float(flat)) < 5e-5 and abs(float(steep)) > 0.9999


@pytest.mark.parametrize("loss, probability", [("minimax", True), ("non-saturating", True), ("hinge", False)])
def test_the_log_has_d_s_probabilities_and_the_logit_gradient_that_follows_from_them(loss, probability):
    model, batch = registry.build("gan", shape=8, channels=1, width=16, loss=loss), batch_of()
    outputs = model.generate_fakes(batch)
    metrics = model.d_loss(batch, outputs)
    assert ("p_real" in metrics) == ("p_fake" in metrics) == probability
    if probability:
        grad = metrics["p_fake"] if loss == "minimax" else 1 - metrics["p_fake"]
        torch.testing.assert_close(model.g_loss(batch, outputs)["logit_grad"], grad)
        assert 0 < float(metrics["p_real"]) < 1


@pytest.mark.parametrize(
    "name, best",
    [
        ("minimax", lambda p, q: torch.log(p / q)),
        ("non-saturating", lambda p, q: torch.log(p / q)),
        ("least-squares", lambda p, q: p / (p + q)),
    ],
)
def test_the_best_discriminator_of_two_gaussians_is_recovered(name, best):
    """By Newton's method on D's values, E over both densities by quadrature."""
    x = torch.linspace(-4, 4, 81, dtype=FLAT)
    p, q = (torch.exp(-((x - mean) ** 2) / (2 * s**2)) / s for mean, s in ((0.5, 1.0), (-0.7, 1.5)))
    logit = torch.zeros_like(x, requires_grad=True)
    zero = torch.zeros_like(x)
    for _ in range(30):
        d_loss = GAN_LOSSES[name].d_loss
        loss = (p * (d_loss(logit, zero) - d_loss(zero, zero)) + q * d_loss(zero, logit)).sum()
        (slope,) = torch.autograd.grad(loss, logit, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), logit)
        with torch.no_grad():
            logit -= (slope / bend).clamp(-1, 1)
    torch.testing.assert_close(logit.detach(), best(p, q), atol=1e-8, rtol=0)


def test_relativistic_pairs_at_equal_logits_cost_log_two_with_a_gradient_of_a_half():
    logit = torch.zeros(4, dtype=FLAT, requires_grad=True)
    assert float(GAN_LOSSES["r3"].d_loss(logit, logit).mean().detach()) == pytest.approx(math.log(2))
    (slope,) = torch.autograd.grad(GAN_LOSSES["r3"].g_loss(logit.detach(), logit).sum(), logit)
    torch.testing.assert_close(slope, torch.full_like(slope, -0.5))


# Penalties


def test_squared_gradient_norms_of_functions_whose_gradient_is_known():
    x = torch.randn(5, 3, 4, 4, dtype=FLAT, generator=torch.Generator().manual_seed(0))
    a = torch.linspace(-1, 1, 48, dtype=FLAT).view(3, 4, 4)
    torch.testing.assert_close(grad_norm_sq(lambda x: (x * a).flatten(1).sum(1), x), a.square().sum().expand(5))
    norm_sq = grad_norm_sq(lambda x: x.square().flatten(1).sum(1) / 2, x)
    torch.testing.assert_close(norm_sq, x.square().flatten(1).sum(1))


class Bowl(nn.Module):
    """D(x) = a |x|^2 / 2, whose gradient is a x."""

    grouped = False

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5))

    def forward(self, x, label=None, sets=1):
        return self.a * x.square().flatten(1).sum(1) / 2, None


def bowl(**options):
    """A linear generator of 4x4 images against a bowl."""
    generator = LatentGenerator(nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4))), 3)
    return GAN(generator, Bowl(), Output("image", (4, 4), 1), adversarial=Adversarial(**options))


def test_penalties_are_what_they_say_for_a_gradient_that_is_known():
    model, batch = bowl(loss="wasserstein", r1=2.0, r2=3.0, gp_weight=5.0), batch_of(size=4)
    outputs = {"fakes": model.generate_fakes(batch)["fakes"].detach()}
    metrics = model.penalty_loss(batch.replace(rng=Noise.of_step(3, 0, 8)), outputs)
    fake, real, rng = outputs["fakes"], batch["x"], Noise.of_step(3, 0, 8)
    r1, r2 = (2.25 * x.square().flatten(1).sum(1).mean() for x in (real, fake))
    grad_norm = 1.5 * between(real, fake, rng).square().flatten(1).sum(1).sqrt()
    torch.testing.assert_close(metrics["r1"], r1)
    torch.testing.assert_close(metrics["r2"], r2)
    torch.testing.assert_close(metrics["loss"], r1 + 1.5 * r2 + 5 * (grad_norm - 1).square().mean())
    metrics["loss"].backward()  # differentiable: that is what a penalty is for
    assert float(model.discriminator.a.grad) != 0


@pytest.mark.parametrize("name", ["gan", "dcgan", "r3gan", "stylegan2"])
def test_a_phase_changes_its_own_network_only(name):
    size = 16 if name == "stylegan2" else 8
    model = registry.build(name, shape=size, channels=1, classes=3, width=8, r1=1.0)
    rows = Split(
        {"x": torch.randint(0, 255, (8, size, size, 1)).byte().numpy(), "label": torch.zeros(8).long().numpy()}
    )
    (stage,) = stages_of(model, lr=1e-2)
    for phase in stage.phases:
        alone = replace(stage, phases=[phase], update=None)
        engine = Engine(model, [alone], Batches(rows, 8, 0), pick_precision("fp32", torch.device("cpu")), ema=0)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        engine.step(0, 0.5)
        network = "discriminator." if phase.name.startswith("D") else "generator."
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert moved and all(key.startswith(network) for key in moved)
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("parts", [1, 2])
def test_all_phases_of_a_step_use_the_same_fakes_and_an_undivided_batch_generates_them_once(parts, monkeypatch):
    model = registry.build(
        "dcgan", shape=8, channels=1, classes=3, width=8, conditional="label", r1=1.0, penalty_every=2
    )
    rows = Split({"x": torch.randint(0, 255, (8, 8, 8, 1)).byte().numpy(), "label": torch.full((8,), -1).numpy()})
    fp32 = pick_precision("fp32", torch.device("cpu"))
    engine = Engine(model, stages_of(model), Batches(rows, 8, 0), fp32, ema=0, accumulate=parts)
    calls, seen = [], []
    generate, logits = model.generate, model.discriminator.forward
    monkeypatch.setattr(model, "generate", lambda *args: calls.append(torch.is_grad_enabled()) or generate(*args))
    monkeypatch.setattr(model.discriminator, "forward", lambda x, *a: seen.append((x.detach(), a[0])) or logits(x, *a))
    before = {key: value.clone() for key, value in model.generator.state_dict().items()}
    engine.step(0, 0.0)
    assert calls == ([True] if parts == 1 else [False] * 4 + [True] * 2)  # no graph of G for D's phases alone
    by_d, by_penalty, by_g = (seen[phase * parts : (phase + 1) * parts] for phase in range(3))
    for first, second, third in zip(by_d, by_penalty, by_g, strict=True):
        rows = len(third[0])
        for images, label in (first, second):  # real ones above
            assert torch.equal(images[rows:], third[0]) and torch.equal(label[rows:], third[1])
    assert any(not torch.equal(value, before[key]) for key, value in model.generator.state_dict().items())


def test_a_step_in_parts_is_the_step_of_the_undivided_batch():
    rows = Split({"x": torch.randint(0, 255, (8, 8, 8, 1)).byte().numpy(), "label": torch.zeros(8).long().numpy()})
    fp32, ends = pick_precision("fp32", torch.device("cpu")), []
    for parts in (1, 2):
        torch.manual_seed(0)
        model = registry.build("r3gan", shape=8, channels=1, width=8, d_augment="diffaugment", penalty_every=1)
        for phase in (stages := stages_of(model))[0].phases:
            phase.optimizer = torch.optim.SGD(phase.parameters, 0.01)  # Adam makes a step of any rounding
        Engine(model, stages, Batches(rows, 8, 0), fp32, ema=0, accumulate=parts, clip=0).step(0, 0.5)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)


def test_packed_images_share_a_logit_and_sample_diversity_is_zero_when_all_images_are_equal():
    discriminator = Discriminator(nn.Flatten(), 2 * 9, packing=2)
    x = torch.randn(6, 1, 3, 3)
    logits, _ = discriminator(x)
    assert logits.shape == (3,)
    torch.testing.assert_close(logits[1], discriminator.head(x[2:4].flatten()[None])[0, 0])
    assert float(sample_diversity(x[:1].expand(6, -1, -1, -1), x)) == 0.0
    torch.testing.assert_close(sample_diversity(3 * x, x), torch.tensor(9.0))
    assert float(sample_diversity(x[:1], x[:1])) == 1.0  # of one image nothing is known


def test_a_projection_adds_the_class_times_the_features():
    discriminator = Discriminator(nn.Flatten(), 9, classes=3)
    x, label = torch.randn(4, 1, 3, 3), torch.tensor([0, 1, 2, 0])
    by_hand = discriminator.head(x.flatten(1))[:, 0] + (discriminator.projection.weight[label] * x.flatten(1)).sum(1)
    torch.testing.assert_close(discriminator(x, label)[0], by_hand)


@pytest.mark.parametrize("layer", [nn.Linear(12, 7), nn.Linear(5, 9), nn.Conv2d(3, 8, 3)])
def test_spectral_normalisation_makes_the_largest_singular_value_one(layer):
    torch.manual_seed(0)  # also of the power iteration's first vector
    layer.reset_parameters()
    before = layer.weight.detach().clone()
    net = spectral_norm(nn.Sequential(layer))
    values = torch.linalg.svdvals(net[0].weight.detach().flatten(1))
    assert float(values[0]) == pytest.approx(1, abs=1e-4)
    expected = torch.linalg.svdvals(before.flatten(1))
    torch.testing.assert_close(values, expected / expected[0], atol=1e-4, rtol=1e-4)


# Augmentation


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_is_the_identity_to_the_bit_at_zero_and_changes_all_at_one(channels):
    x = torch.rand(16, channels, 12, 12) * 2 - 1
    assert torch.equal(adaptive(x, Noise.of_seeds(range(16)), torch.tensor(0.0)), x)
    changed = adaptive(x, Noise.of_seeds(range(16)), torch.tensor(1.0))
    assert bool((changed - x).abs().flatten(1).amax(1).gt(0.05).all())


@pytest.mark.parametrize("augment", [diffaugment, lambda x, rng: adaptive(x, rng, torch.tensor(0.8))])
def test_gradients_go_through_augmentations(augment):
    x = torch.rand(3, 3, 8, 8, dtype=FLAT, requires_grad=True)
    weight = torch.rand(3, 3, 8, 8, dtype=FLAT)

    def score(x):
        return (augment(x, Noise.of_seeds(range(3))).double() * weight).sum()

    (slope,) = torch.autograd.grad(score(x), x)
    step = torch.randn_like(x) * 1e-3
    with torch.no_grad():
        assert float(score(x + step) - score(x - step)) == pytest.approx(2 * float((slope * step).sum()), rel=1e-3)


@pytest.mark.parametrize("sign, direction", [(1.0, 1), (0.2, -1)])
def test_ada_s_probability_rises_where_d_overfits_falls_where_it_does_not_and_stays_within_bounds(sign, direction):
    model = registry.build("dcgan", shape=8, channels=1, width=8, d_augment="ada")
    model.augment_p.fill_(0.5)
    model.update_buffers(batch_of(), {}, {"D/real_sign": torch.tensor(sign)})
    assert float(model.augment_p) == pytest.approx(0.5 + direction * 1e-3)
    for _ in range(600):
        model.update_buffers(batch_of(), {}, {"D/real_sign": torch.tensor(sign)})
    assert float(model.augment_p) == max(0, direction)


# Wrong use


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("dcgan", {"shape": 30}, "size='?32"),
        ("stylegan2", {"shape": 28}, "size='?32"),
        ("progan", {"shape": 24}, "power of two"),
        ("dcgan", {"loss": "best"}, "non-saturating"),
        ("dcgan", {"conditional": "label", "classes": 1}, "two classes"),
        ("acgan", {"classes": 1}, "two classes"),
        ("acgan", {"conditional": "none", "classes": 3}, "dcgan"),
        ("gan", {"packing": 0}, "packing"),
        ("gan", {"d_augment": "all"}, "diffaugment"),
    ],
)
def test_errors_of_wrong_options_say_what_to_do(name, options, words):
    with pytest.raises(UsageError, match=words):
        registry.build(name, **{"shape": 16, "channels": 1} | options)


def test_the_gradient_moves_a_clamped_pixel_back_but_never_further_out():
    x = torch.tensor([2.0, 2.0, -2.0, -2.0, 0.5, -0.5], requires_grad=True)
    clamped = clamp_pixels(x)
    assert torch.equal(clamped, x.detach().clamp(-1, 1))
    clamped.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 3.0, -3.0]))  # descent goes against these
    assert x.grad.tolist() == [1.0, 0.0, 0.0, -1.0, 3.0, -3.0]
