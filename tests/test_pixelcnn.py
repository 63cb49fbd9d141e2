"""Autoregressive models of images: causality, exact probabilities, cached sampling, completion."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import reverie as rv
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.noise import Noise
from reverie.diffusion.frames import last_image
from reverie.nets.layers.dropout import Drawing, drawing
from reverie.probability import sequential
from reverie.probability.discrete import Categorical
from reverie.probability.mixtures import LogisticMixture
from reverie.training.bar import same_as_loss

SMALL = {  # by name: every network, likelihood and condition
    "gated": ("pixelcnn", {"width": 6, "depth": 2}),
    "gated-5": ("pixelcnn", {"width": 6, "depth": 2, "kernel": 5, "reach": 1}),
    "binary": ("pixelcnn", {"width": 6, "depth": 2, "likelihood": "bernoulli"}),
    "mixture": ("pixelcnn++", {"widths": (6, 8, 10), "depth": 2, "components": 3}),
    "mixture-of-classes": ("pixelcnn++", {"widths": (6, 8), "depth": 1, "classes": 3, "conditional": "label"}),
}
networks = pytest.mark.parametrize("kind", list(SMALL))


def build(kind, shape=(7, 6), channels=1, scale=0.2):
    """A model of random weights in float64."""
    torch.manual_seed(0)
    name, options = SMALL[kind]
    model = registry.build(name, shape=shape, channels=channels, **options).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))
    return model.requires_grad_(False)


def label_of(model, rows):
    return {"label": torch.arange(rows) % 3 - 1} if model.card.classes else {}


@networks
def test_each_pixel_depends_on_all_before_it_and_on_none_after_it(kind):
    model = build(kind, (4, 5))
    x = torch.rand(1, 1, 4, 5, dtype=torch.float64) * 1.8 - 0.9  # where no pixel is exactly the least
    jacobian = torch.autograd.functional.jacobian(lambda x: model.net(x).pow(2).sum(1), x).view(20, 20) != 0
    order = torch.arange(20)
    assert not jacobian[order[:, None] <= order].any()
    seen = jacobian[order[:, None] > order]
    assert seen.all() if "5" not in kind else seen.float().mean() > 0.9  # two layers reach four columns


def naive(model, noise, **condition):
    """Levels (B, D) by a whole pass of the network for every pixel."""
    shape = (model.output.channels, *model.output.shape)
    levels = torch.zeros(len(noise), *shape, dtype=torch.int64)
    u = noise.uniform(levels[0].numel()).view(levels.shape)
    for i, j in itertools.product(*map(range, model.output.shape)):
        values = model.distribution.values(levels).double()
        params = model.net(values, **model.conditioner(**condition))[:, :, i, j, None]
        by_channel, drawn = model.distribution.conditionals(params), None
        for channel in range(shape[0]):
            probs = sequential.probs_of(by_channel.send(drawn))
            drawn = sequential.quantile(probs, u[:, channel, i, j, None])
            levels[:, channel, i, j] = drawn[:, 0]
    return levels.flatten(1)


@networks
@pytest.mark.parametrize("shape, channels", [((6, 5), 1), ((7, 4), 3)])
def test_cached_sampling_draws_the_very_levels_of_whole_passes(kind, shape, channels):
    model = build(kind, shape, channels)
    condition = label_of(model, 4)
    u = Noise.of_seeds(range(4)).uniform(channels * shape[0] * shape[1])
    *_, cached = sequential.sampled(model.conditionals(4, **condition), u)
    assert torch.equal(cached, naive(model, Noise.of_seeds(range(4)), **condition))


@networks
@pytest.mark.parametrize("channels", [1, 3])
def test_the_conditionals_are_the_likelihood(kind, channels):
    model = build(kind, channels=channels)
    condition = label_of(model, 3)
    image = model.sample(Noise.of_seeds(range(3)), **condition)
    levels = model.distribution.levels_of(image).flatten(1)
    exact = model.log_prob(Batch({"x": image, **condition}))
    assert torch.allclose(exact, sequential.log_prob(model.conditionals(3, **condition), levels), atol=1e-9)


def test_the_probabilities_of_all_binary_images_sum_to_one():
    model = build("binary", (3, 3), scale=0.5)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9))).view(-1, 1, 3, 3)
    log_p = model.log_prob(Batch({"x": every}))
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12) and log_p.std() > 0.5


def test_samples_have_the_frequencies_of_their_probabilities():
    model = build("binary", (2, 2), scale=0.5)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4))).view(-1, 1, 2, 2)
    p = model.log_prob(Batch({"x": every})).exp()
    drawn = model.sample(Noise.of_seeds(range(20_000))).flatten(1) > 0
    counts = torch.bincount((drawn * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16) / 20_000
    assert ((counts - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt()).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [lambda c: LogisticMixture(3, c), lambda c: Categorical(256, c)])
def test_each_channel_sums_to_one_over_the_levels_as_log_prob_says(make, channels):
    torch.manual_seed(0)
    distribution = make(channels).double()
    for parameter in distribution.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.5)
    params = torch.randn(2, distribution.outputs, 1, dtype=torch.float64)
    levels = torch.randint(0, 256, (2, channels, 1))
    by_channel, log_p = distribution.conditionals(params), torch.zeros(2, dtype=torch.float64)
    probs = sequential.probs_of(next(by_channel))
    for channel in range(channels):
        assert torch.allclose(probs.sum(-1), torch.ones(2, 1, dtype=torch.float64), atol=1e-12)
        log_p += probs[:, 0].gather(1, levels[:, channel]).log()[:, 0]
        if channel + 1 < channels:
            probs = sequential.probs_of(by_channel.send(levels[:, channel]))
    assert torch.allclose(log_p, distribution.log_prob(levels, params), atol=1e-9)


@pytest.mark.parametrize("levels", [2, 7, 256])
def test_a_level_found_by_search_is_that_of_the_table(levels):
    torch.manual_seed(0)
    distribution = LogisticMixture(3, 1, levels).double()
    params = torch.randn(64, distribution.outputs, 5, dtype=torch.float64) * 4
    law, u = next(distribution.conditionals(params)), torch.rand(64, 5)
    u[0], u[1] = 0, 1 - 2**-24
    drawn = law.quantile(u)
    assert torch.equal(drawn, sequential.quantile(law.probs(), u)) and set(drawn[2:].flatten().tolist()) >= {
        0,
        levels - 1,
    }


def test_colours_depend_on_the_channels_before_them():
    torch.manual_seed(0)
    distribution = LogisticMixture(4, 3).double()
    params = torch.randn(1, distribution.outputs, 1, dtype=torch.float64)
    blue = []
    for red in (10, 200):
        by_channel = distribution.conditionals(params)
        next(by_channel)
        by_channel.send(torch.tensor([[red]]))
        blue.append(sequential.probs_of(by_channel.send(torch.tensor([[90]]))))
    assert (blue[0] - blue[1]).abs().max() > 1e-3


def test_a_mixture_is_finite_at_the_ends_of_its_parameters():
    distribution = LogisticMixture(2, 1)
    params = torch.tensor([[0.0, 0.0, -50.0, 50.0, -50.0, 50.0]]).view(1, 6, 1).requires_grad_()
    for level in (0, 128, 255):
        log_p = distribution.log_prob(torch.tensor([[[level]]]), params)
        (gradient,) = torch.autograd.grad(log_p.sum(), params)
        assert log_p.isfinite().all() and gradient.isfinite().all()


@networks
def test_completion_keeps_known_pixels_and_is_a_sample_given_them(kind):
    model = build(kind, (6, 5))
    noise, condition = Noise.of_seeds(range(4)), label_of(model, 4)
    image = model.sample(Noise.of_seeds(range(50, 54)), **condition)
    mask = torch.ones(1, 1, 6, 5, dtype=torch.bool)
    mask[:, :, 3:] = False
    frames = list(model.complete(image * mask, mask, Noise.of_seeds(range(4)), **condition))
    assert [frame.progress for frame in frames] == [1 / 3, 2 / 3, 1.0]  # a frame for each missing row
    for row, frame in enumerate(frames, 4):
        assert torch.equal(frame.render()["image"][:, :, :row], frames[-1].render()["image"][:, :, :row])
    completed = last_image(frames)
    assert torch.equal(completed[:, :, :3], image[:, :, :3])
    u, levels = noise.uniform(30), model.distribution.levels_of(image).flatten(1)
    *_, expected = sequential.sampled(model.conditionals(4, **condition), u, levels, mask.expand(4, 1, 6, 5).flatten(1))
    assert torch.equal(model.distribution.levels_of(completed).flatten(1), expected)
    again = last_image(model.complete(image, mask, Noise.of_seeds(range(4)), **condition))
    assert torch.equal(again, completed)
    assert not torch.equal(completed[:, :, 3:], image[:, :, 3:])


@networks
def test_frames_are_rows_of_the_sample_as_it_appears(kind):
    model = build(kind, (6, 5), 3)
    frames = list(model.stream(Noise.of_seeds([3, 4])))
    images = [frame.render()["image"] for frame in frames]
    sample = model.sample(Noise.of_seeds([3, 4]))
    assert len(frames) == 6 and frames[-1].progress == 1 and torch.equal(images[-1], sample)
    for row, image in enumerate(images, 1):
        assert torch.equal(image[:, :, :row], sample[:, :, :row]) and not image[:, :, row:].any()


def test_low_temperatures_draw_likelier_images():
    model = build("mixture", (6, 6))
    images = [model.sample(Noise.of_seeds(range(32)), temperature=t) for t in (0.5, 1.0, 2.0)]
    cold, warm, hot = (model.log_prob(Batch({"x": image})).mean() for image in images)
    assert cold > warm > hot


def test_a_temperature_near_zero_draws_the_likeliest_level():
    model = build("gated", (3, 3))
    steps = sequential.driven(model.conditionals(2, temperature=1e-6), lambda step: step.probs.argmax(-1))
    assert all(torch.equal(step.probs.sum(-1), torch.ones(2, 1, dtype=torch.float64)) for step, _ in steps)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3)])
def test_images_of_any_shape_are_drawn_and_scored(shape):
    model = build("mixture", shape, 3)
    image = model.sample(Noise.of_seeds([0, 1]))
    levels = model.distribution.levels_of(image).flatten(1)
    exact = model.log_prob(Batch({"x": image}))
    assert torch.allclose(exact, sequential.log_prob(model.conditionals(2), levels), atol=1e-9)


def test_dropout_is_drawn_for_each_row():
    model = registry.build("pixelcnn++", shape=(6, 6), channels=1, widths=(8, 8), depth=1, dropout=0.5).train()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    layers = [layer for layer in model.modules() if isinstance(layer, Drawing)]
    x = Noise.of_seeds([1]).uniform(1, 6, 6).mul(2).sub(1).expand(3, -1, -1, -1)

    def logits(rows):
        noise = Noise.of_seeds(range(5))[rows]
        with drawing(layers, noise), torch.no_grad():
            return model.net(x[: len(noise)])

    all_rows = logits(slice(0, 3))
    assert not torch.allclose(all_rows[0], all_rows[1])
    torch.testing.assert_close(logits(slice(2, 3))[0], all_rows[2])


def test_a_label_changes_the_likelihood_and_no_label_is_any_class():
    model = build("mixture-of-classes")
    x = model.sample(Noise.of_seeds([0]))
    values = [model.log_prob(Batch({"x": x, "label": torch.tensor([k])})).item() for k in (-1, 0, 1, 2)]
    assert len(set(values)) == 4 and values[0] == model.log_prob(Batch({"x": x})).item()


def test_grey_pixels_of_binary_data_are_drawn():
    model = build("binary", (6, 6))
    grey = Batch({"x": torch.zeros(2, 1, 6, 6)}, rng=Noise.of_seeds([0, 1]))
    levels = model.distribution.levels_of(grey["x"], Noise.of_seeds([0, 1]))
    assert set(levels.unique().tolist()) == {0, 1} and not torch.equal(levels[0], levels[1])
    drawn = model.log_prob(Batch({"x": model.distribution.values(levels)}))
    assert torch.allclose(model.log_prob(grey), drawn)


def test_the_loss_in_bits_is_one_curve():
    model = build("binary", (6, 6))
    assert same_as_loss(model.loss(Batch({"x": torch.zeros(2, 1, 6, 6)}))) == set()
    metrics = build("mixture-of-classes").loss(Batch({"x": torch.zeros(2, 1, 7, 6)}))
    assert float(metrics["bits_per_dim"]) == pytest.approx(float(metrics["loss"]) / math.log(2))
    assert same_as_loss(metrics) == {"loss"}
    assert same_as_loss(["D/loss", "prior/loss", "prior/bits_per_dim"]) == {"prior/loss"}


def test_the_name_of_pixelcnn_pp_in_python(tiny):
    model = rv.models.pixelcnn_pp(tiny, widths=(4, 4), depth=1)
    assert model.config["name"] == "pixelcnn++" and "pixelcnn_pp" in dir(rv.models)


def test_bad_options_say_what_to_do(tiny):
    with pytest.raises(rv.UsageError, match="kernel=4"):
        rv.models.pixelcnn(tiny, kernel=4)
    with pytest.raises(rv.UsageError, match="widths"):
        rv.models.pixelcnn_pp(tiny, widths=())
    with pytest.raises(rv.UsageError, match="two classes"):
        registry.build("pixelcnn", shape=8, channels=1, conditional="label")
    with pytest.raises(rv.UsageError, match="Labels run from 0 to 2"):
        build("mixture-of-classes").sample(Noise.of_seeds([0]), torch.tensor([3]))
