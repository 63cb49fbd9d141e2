"""Normalizing flows against closed forms, autograd's Jacobian and another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from engine_cases import FP32, Batches, engine, images, walk
from reverie.core.batch import Batch
from reverie.core.card import Output, card_of
from reverie.core.errors import UsageError
from reverie.core.layout import to_device_layout
from reverie.core.noise import Noise
from reverie.models.flows.base import NormalizingFlow
from reverie.probability.multiscale import Steps, squeeze, unsqueeze
from reverie.probability.splines import rational_quadratic
from reverie.probability.transforms import (
    ActNorm,
    Affine,
    AffineSpline,
    Coupling,
    NormalisedConv1x1,
    Permutation,
    Spline,
)
from reverie.training.step import Engine

FLOWS = ["glow", "realnvp", "spline-flow"]
LEVELS = {"levels": 2, "width": 8, "couplings": 2, "conditional": "label"}


def flow(name, shape=8, channels=1, spread=0.1, **options):
    """A small flow in float64, away from its start."""
    torch.manual_seed(0)
    model = rv.build(name, shape=shape, channels=channels, classes=3, **LEVELS | options).double().eval()
    for p in model.parameters():
        p.data.add_(spread * torch.randn_like(p))
    return model


def bounds(model, batch, draws):
    """``log_prob`` of each row and draw of the dequantisation noise (draws, B)."""
    streams = [Noise.of_seeds(range(d * batch.rows, (d + 1) * batch.rows)) for d in range(draws)]
    with torch.no_grad():
        return torch.stack([model.log_prob(batch.replace(rng=rng)) for rng in streams])


def levels_of(*shape, seed=0):
    """8-bit images in [-1, 1], float64."""
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return levels.double() / 127.5 - 1


# Change of variables


@pytest.mark.parametrize("logit", [0.0, 0.05])
@pytest.mark.parametrize("name", FLOWS)
def test_the_log_determinant_is_that_of_autograd_s_jacobian(name, logit):
    model = flow(name, logit=logit)
    x, label = 0.9 * levels_of(3, 1, 8, 8), torch.tensor([0, 2, -1])
    _, log_det = model.transform(x, label)
    for row in range(3):
        z_of = lambda x, row=row: model.transform(x[None], label[row : row + 1])[0][0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(z_of, x[row]).view(64, 64)
        torch.testing.assert_close(jacobian.slogdet().logabsdet, log_det[row], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
def test_decode_inverts_encode(name, dtype, atol):
    model = flow(name, shape=(8, 12), channels=3, spread=0.03).to(dtype)
    image, label = levels_of(4, 3, 8, 12).to(dtype), torch.tensor([0, 1, 2, -1])
    z = model.encode(image, label)
    assert z.shape == (4, 3 * 8 * 12)
    torch.testing.assert_close(model.decode(z, label), image, rtol=0, atol=atol)


def test_squeeze_separates_the_colours_of_a_checkerboard_and_is_undone():
    x = torch.arange(2 * 4 * 6 * 3).view(2, 4, 6, 3)
    row, column = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    colour = ((row + column) % 2).view(1, 4, 6, 1).expand(2, 4, 6, 3)
    assert (squeeze(colour)[..., :6] == 0).all() and (squeeze(colour)[..., 6:] == 1).all()
    assert torch.equal(unsqueeze(squeeze(x)), x)


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_two_pixels_integrates_to_one(name):
    """Two layers of each kind on a map of one position and two channels, over a grid."""
    torch.manual_seed(0)
    layers = {
        "glow": lambda: [NormalisedConv1x1(2), Coupling(Net(1, 2), Affine(), 1)],
        "realnvp": lambda: [ActNorm(2), Permutation([1, 0]), Coupling(Net(1, 2), Affine(), 1)],
        "spline-flow": lambda: [NormalisedConv1x1(2), Coupling(Net(1, 25), AffineSpline(8), 1)],
    }[name]
    steps = Steps([*layers(), *layers()]).double()
    for p in steps.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    axis = torch.linspace(-15, 15, 501, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis).view(-1, 1, 1, 2)
    z, log_det = steps(x)
    log_p = log_det - 0.5 * z.square().flatten(1).sum(1) - math.log(2 * math.pi)
    assert log_p.exp().sum().item() * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


class Net(nn.Module):
    """A dense network on maps of one pixel, (B, C, 1, 1)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(inputs, 8, 1), nn.Tanh(), nn.Conv2d(8, outputs, 1))

    def forward(self, x, label=None):
        return self.layers(x)


@pytest.mark.parametrize("name", FLOWS)
def test_an_untrained_coupling_is_the_identity(name):
    torch.manual_seed(0)
    model = rv.build(name, shape=8, channels=1, **LEVELS | {"conditional": "none"})
    couplings = [m for m in model.modules() if isinstance(m, Coupling)]
    for coupling in couplings:
        x = torch.randn(2, 4, 4, 2 * coupling.kept)
        x = x if coupling.net.position.shape[-1] == 4 else x[:, :2, :2]
        y, log_det = coupling(x)
        torch.testing.assert_close(y, x, atol=1e-5, rtol=0)
        torch.testing.assert_close(log_det, torch.zeros(2), atol=1e-4, rtol=0)


# Splines


def test_a_spline_is_the_identity_at_zero_monotone_and_linear_beyond_its_bound():
    x = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, torch.zeros(2001, 23, dtype=torch.float64), 5.0)
    torch.testing.assert_close(y, x)
    assert log_slope.abs().max() < 1e-12
    raw = 3 * torch.randn(23, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(2001, 23)
    y, log_slope = rational_quadratic(x, raw, 5.0)
    assert (y.diff() > 0).all() and torch.equal(y[x.abs() > 5], x[x.abs() > 5])
    back, log_inverse = rational_quadratic(y, raw, 5.0, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-10, rtol=0)
    torch.testing.assert_close(log_inverse, -log_slope, atol=1e-7, rtol=0)


def test_the_slope_of_a_spline_is_autograd_s_and_it_joins_its_tails_smoothly():
    x = torch.tensor([-5 - 1e-9, -5 + 1e-9, -2.0, 0.3, 5 - 1e-9, 5 + 1e-9], dtype=torch.float64, requires_grad=True)
    raw = torch.randn(23, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(6, 23)
    y, log_slope = rational_quadratic(x, raw, 5.0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope.log(), log_slope.detach())
    torch.testing.assert_close(slope[[0, 1, 4, 5]], torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_spline_is_that_of_zuko():
    zuko = pytest.importorskip("zuko", exc_type=ImportError)
    torch.manual_seed(0)
    x, raw = 4 * torch.randn(50, 6, dtype=torch.float64), 3 * torch.randn(50, 6, 23, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, raw, 5.0)
    expected, expected_slope = zuko.transforms.MonotonicRQSTransform(*raw.split([8, 8, 7], -1)).call_and_ladj(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_slope, expected_slope)


def test_the_density_of_a_flow_of_splines_is_that_of_zuko_with_its_weights():
    zuko = pytest.importorskip("zuko", exc_type=ImportError)
    torch.manual_seed(0)
    shapes = [(8,), (8,), (7,)]
    spline = zuko.transforms.MonotonicRQSTransform
    theirs = zuko.flows.NICE(6, transforms=3, univariate=spline, shapes=shapes, hidden_features=(16, 16)).double()
    layers, order = [], list(range(6))
    for transform in theirs.transform.transforms:
        mask = transform.mask.tolist()
        kept = [i for i in range(6) if mask[i]] + [i for i in range(6) if not mask[i]]
        layers += [Permutation([order.index(i) for i in kept]), Coupling(Dense(transform.hyper), Spline(8), 3)]
        order = kept
    x = 2 * torch.randn(50, 6, dtype=torch.float64)
    z, log_det = Steps(layers).double()(x.view(50, 1, 1, 6))
    ours = log_det - 0.5 * (z.square().flatten(1).sum(1) + 6 * math.log(2 * math.pi))
    torch.testing.assert_close(ours, theirs().log_prob(x))


class Dense(nn.Module):
    """Another library's network of features, on maps of one pixel."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, label=None):
        return self.net(x.flatten(1))[:, :, None, None]


# Dequantisation


def test_the_bound_is_below_the_probability_of_each_level_and_many_draws_meet_it():
    """One pixel, N(0, 0.4^2)."""
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    model = NormalizingFlow(Scaled(1 / 0.4), Output("image", (1, 1), 1))
    edges = torch.cat([levels - 0.5 / 127.5, levels[-1:] + 0.5 / 127.5])
    exact = torch.special.ndtr(edges / 0.4).diff().log()
    batch = Batch({"x": levels.view(256, 1, 1, 1)})
    assert (bounds(model, batch, 100).mean(0) < exact + 0.01).all()
    torch.testing.assert_close(model.log_prob(batch, samples=200), exact, atol=5e-3, rtol=0)


class Scaled(nn.Module):
    """z = scale x."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale), dtype=torch.float64))

    def forward(self, x, label=None):
        return (x * self.scale).flatten(1), self.scale.log() * x[0].numel() * x.new_ones(len(x))

    def inverse(self, z, label=None):
        return (z / self.scale)[:, :, None, None]


class Posterior(nn.Module):
    """The dequantisation noise that is proportional to N(0, std^2) within the bin: the optimum for a Gaussian."""

    variational = True

    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, image, label, rng):
        low, high = (torch.special.ndtr((image + side) / self.std) for side in (-0.5 / 127.5, 0.5 / 127.5))
        u = rng.uniform(*image.shape[1:]).to(image)
        x = self.std * torch.special.ndtri(low + u * (high - low))
        log_q = -0.5 * (x / self.std).square() - math.log(self.std * math.sqrt(2 * math.pi)) - (high - low).log()
        return x, log_q.flatten(1).sum(1)


def test_the_optimal_dequantisation_makes_the_bound_exact_and_uniform_noise_does_not():
    """A Gaussian of one bin's width, so that densities differ within a bin."""
    std = 1 / 127.5
    levels = torch.arange(125, 131, dtype=torch.float64) / 127.5 - 1
    batch = Batch({"x": levels.view(6, 1, 1, 1)})
    exact = (torch.special.ndtr((levels + 0.5 * std) / std) - torch.special.ndtr((levels - 0.5 * std) / std)).log()
    output = Output("image", (1, 1), 1)
    optimal = NormalizingFlow(Scaled(1 / std), output, Posterior(std)).log_prob(batch)
    torch.testing.assert_close(optimal, exact, atol=1e-8, rtol=0)
    uniform = NormalizingFlow(Scaled(1 / std), output)
    gap = exact - bounds(uniform, batch, 300).mean(0)
    assert (gap > -0.02).all() and gap.mean() > 0.1


def test_the_noise_of_variational_dequantisation_stays_in_its_bin_with_the_density_of_its_map():
    model = flow("glow", dequantisation="variational", spread=0.05)
    image = levels_of(1, 1, 8, 8)
    x, log_q = model.dequantiser(image, None, Noise.of_seeds([3]))
    assert ((x - image).abs() < 0.5 / 127.5).all()
    e = Noise.of_seeds([3])(1, 8, 8).double()
    inside = lambda e: torch.sigmoid(model.dequantiser.flow(e[None], image)[0][0]) / 127.5  # noqa: E731
    jacobian = torch.autograd.functional.jacobian(inside, e[0]).view(64, 64)
    normal = -0.5 * (e.square().sum() + 64 * math.log(2 * math.pi))
    torch.testing.assert_close(log_q[0], normal - jacobian.slogdet().logabsdet)


def test_training_tightens_the_variational_bound_below_the_uniform_one():
    """Images of one level, whose density a fixed Gaussian of a bin's width gives: only q can learn."""
    torch.manual_seed(0)
    image = torch.full((32, 1, 2, 2), 3.0, dtype=torch.float64) / 127.5  # three bins from the mean
    output, narrow = Output("image", (2, 2), 1), 127.5
    batch = Batch({"x": image})
    dequantiser = rv.build("glow", shape=2, channels=1, width=8, couplings=1, dequantisation="variational").dequantiser
    model = NormalizingFlow(Scaled4(narrow), output, dequantiser.double())
    model.transform.requires_grad_(False)
    optimizer = torch.optim.Adam(dequantiser.parameters(), 0.03)
    for step in range(100):
        loss = -model.log_prob(batch.replace(rng=Noise.of_seeds(range(step * 32, step * 32 + 32)))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    uniform = NormalizingFlow(Scaled4(narrow), output)
    learned, plain = (bounds(flow, batch, 50).mean() for flow in (model, uniform))
    edges = torch.tensor([2.5, 3.5], dtype=torch.float64)
    exact = 4 * torch.special.ndtr(edges).diff().log().item()
    assert plain < learned < exact + 1e-3 and exact - learned < 0.3 * (exact - plain)


class Scaled4(Scaled):
    """z = scale x of images of 2x2."""

    def inverse(self, z, label=None):
        return (z / self.scale).view(-1, 1, 2, 2)


def test_the_card_names_the_dequantisation_and_calls_the_density_a_bound():
    for noise in ("uniform", "variational"):
        for method in card_of(rv.build("glow", shape=8, channels=1, width=8, dequantisation=noise)).likelihoods:
            assert (method.kind, method.of, method.dequantised, method.dequantisation) == (
                "bound",
                "8-bit",
                True,
                noise,
            )


# Training


def test_actnorm_starts_at_the_first_batch_and_keeps_another_run_s_weights():
    trainer = engine("glow", ema=0)
    model, stage = trainer.model, trainer.stages[0]
    stage.prepare(trainer.batches, True)
    batch = trainer.batches.global_batch(0)
    with torch.no_grad():
        x, _ = model.dequantiser(batch["x"], None, batch.rng)
        maps = squeeze(model.transform.preprocess(x)[0].permute(0, 2, 3, 1))
        for layer in model.transform.levels[0].layers:
            if isinstance(layer, NormalisedConv1x1):
                y, _ = layer.norm(maps)
                torch.testing.assert_close(y.mean((0, 1, 2)), torch.zeros(4), atol=1e-4, rtol=0)
                torch.testing.assert_close(y.std((0, 1, 2)), torch.ones(4), atol=1e-4, rtol=0)
            maps, _ = layer(maps)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage.prepare(trainer.batches, True)
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in model.state_dict().items())
    model.transform.levels[0].layers[0].norm.shift.data.add_(1)
    stage.prepare(trainer.batches, False)
    assert torch.equal(
        model.transform.levels[0].layers[0].norm.shift, before["transform.levels.0.layers.0.norm.shift"] + 1
    )


@pytest.mark.parametrize("name", FLOWS)
def test_fifty_seeds_at_a_high_rate_stay_finite_and_so_do_hot_samples(name):
    options = {"dequantisation": "variational"} if name == "glow" else {"logit": 0.05} if name == "realnvp" else {}
    batches = Batches(images(1, 8, 8), 8)
    for seed in range(50):
        torch.manual_seed(seed)
        model = rv.build(name, shape=8, channels=1, width=8, couplings=2, **options)
        for p in model.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
        trainer = Engine(to_device_layout(model, "cpu"), model.stages(lr=0.02), batches, FP32, warmup=1, ema=0)
        for metrics in walk(trainer, 2):
            assert all(value.isfinite() for value in metrics.values()), seed
        with torch.no_grad():
            assert trainer.model.sample(Noise.of_seeds(range(8)), temperature=1.5).isfinite().all(), seed


@pytest.mark.parametrize("name", FLOWS)
def test_networks_in_bf16_leave_the_log_determinant_in_fp32(name):
    model = flow(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = model.transform(levels_of(2, 1, 8, 8).float(), torch.tensor([0, 1]))
    assert z.dtype == log_det.dtype == torch.float32
    exact, exact_log_det = model.transform(levels_of(2, 1, 8, 8).float(), torch.tensor([0, 1]))
    torch.testing.assert_close(z, exact, atol=0.2, rtol=0.1)
    torch.testing.assert_close(log_det, exact_log_det, atol=1.0, rtol=0.02)


# Sizes and options


@pytest.mark.parametrize(
    "shape, levels", [((28, 28), 2), ((32, 32), 3), ((64, 64), 3), ((8, 12), 1), ((6, 6), 1), ((2, 2), 1)]
)
def test_as_many_levels_are_chosen_as_fit(shape, levels):
    model = rv.build("glow", shape=shape, channels=1, width=8, couplings=1)
    assert len(model.transform.levels) == levels


@pytest.mark.parametrize("name", FLOWS)
def test_sizes_that_do_not_halve_are_refused_with_the_remedy(name):
    with pytest.raises(UsageError, match=r"divisible by 2.*Try .*28"):
        rv.build(name, shape=27, channels=1)
    with pytest.raises(UsageError, match=r"levels=3 halves the map.*use levels=2, or try .*shape=32"):
        rv.build(name, shape=28, channels=1, levels=3)
    with pytest.raises(UsageError, match="at least two classes"):
        rv.build(name, shape=28, channels=1, conditional="label")


def test_a_latent_of_zeros_is_the_same_at_every_temperature_and_noise_scales_with_it():
    model = flow("glow", spread=0.02).float()
    noise = lambda: Noise.of_seeds(range(4))  # noqa: E731
    z = model.latent(noise())
    torch.testing.assert_close(model.sample(noise(), temperature=0.5), model.decode(0.5 * z))
    assert z.shape == (4, *card_of(model).latents["z"].shape)
    first, second = rv.sample(model, 2, temperature=0.0)
    assert np.array_equal(first, second)
