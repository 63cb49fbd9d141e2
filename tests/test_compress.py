"""Lossless compression: the same bytes back, everywhere, and as few as the probabilities allow."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

import reverie as rv
from compression_cases import Walk, noise, perturbed, smooth
from reverie.compression import coding
from reverie.compression.compress import compress, decompress
from reverie.core.batch import Batch
from reverie.core.errors import ReverieError, UsageError
from reverie.core.noise import Noise
from reverie.models.autoregressive.codec import NEIGHBOURS, levels_of, log_prob
from reverie.nets.integer import IntegerLinear
from reverie.probability import wavefront
from reverie.probability.integer_logistic import Mixture, sigmoid_table, slope_table, weight_table

PHOTOS = Path(__file__).parent / "photos"


@pytest.fixture(scope="module")
def models():
    return {channels: perturbed(channels) for channels in (1, 3)}


# Integers


def test_tables_are_the_functions_that_they_stand_for_to_one_unit():
    z = (np.arange(len(sigmoid_table())) - 16 * 1024) / 1024
    assert np.abs(sigmoid_table() - 2**24 / (1 + np.exp(-z))).max() <= 1 and (np.diff(sigmoid_table()) >= 0).all()
    assert np.abs(weight_table() - 2**12 * np.exp(-np.arange(161) / 16)).max() <= 1
    scale = 2.0 ** (np.arange(89) / 8 - 4)
    assert np.abs(slope_table() - 64 * 1024 / scale).max() <= 1
    assert slope_table()[8 * 5] == Fraction(64 * 1024, 2)  # a scale of 2


@pytest.fixture(scope="module")
def mixture():
    rng = np.random.default_rng(0)
    logits, means, scales = (
        rng.integers(-40, 40, (3, 50)),
        rng.integers(-900, 5000, (3, 50)),
        rng.integers(-40, 70, (3, 50)),
    )
    return Mixture.of_outputs(logits, means, scales)


def test_counts_of_all_levels_are_positive_and_sum_to_the_total_exactly(mixture):
    counts = np.stack([mixture.count(np.full(50, level)) for level in range(256)])
    assert (counts > 0).all() and (counts.sum(0) == mixture.total).all()


def test_digits_of_a_level_have_its_probability(mixture):
    level, p = np.random.default_rng(1).integers(0, 256, 50), np.ones(50)
    spans = iter((64, 16, 4, 1))

    def choose(counts: np.ndarray) -> np.ndarray:
        digit = level // next(spans) % 4
        p[:] *= counts[np.arange(50), digit] / counts.sum(1)
        return digit

    assert (mixture.descend(choose) == level).all()
    assert p == pytest.approx(mixture.count(level) / mixture.total, rel=1e-12)


def test_integer_layers_give_equal_sums_in_any_order_and_carrier():
    torch.manual_seed(0)
    layer = IntegerLinear(300, 40)
    with torch.no_grad():
        layer.weight.mul_(200)  # rows that must be scaled down
    weight, bias = layer.integers()
    assert (weight.abs().sum(1) * layer.top + bias[:, 0].abs()).max() + 512 < 2**24
    x = torch.randint(-1023, 1024, (300, 500)).float()
    exact = (weight.long() @ x.long() + bias.long() + 256) // 512  # integers throughout
    results = []
    for carrier in (np.float32, np.float64):
        layer.freeze(carrier)
        results += [layer(x), layer(x[:, :7]), layer(x.double())]
    order = torch.randperm(300)
    layer.fixed = layer.fixed[0][:, order.numpy()], layer.fixed[1]
    results.append(layer(x[order]))
    for result in results:
        assert torch.equal(result.long(), exact[:, : result.shape[1]])


def test_the_density_of_training_is_that_of_coding(models):
    for channels, model in models.items():
        x = torch.from_numpy(smooth(8, 8, channels)).permute(2, 0, 1)[None].float() / 127.5 - 1
        bits = float(model.loss(Batch({"x": x}))["loss"])
        exact = -float(model.log_prob(Batch({"x": x}))) / math.log(2) / x.numel()
        assert bits == pytest.approx(exact, rel=0.01)


def test_the_differentiable_log_probabilities_sum_to_one():
    logits, means, scales = torch.randn(3, 1) * 60, torch.tensor([[-80.0], [300.0], [4000.0]]), torch.randn(3, 1) * 200
    nats = log_prob(torch.arange(256.0), *(part.expand(3, 256) for part in (logits, means, scales)))
    assert float(nats.double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_pixel_depends_on_no_later_pixel(models):
    model = models[3]
    assert all((row, column) < (0, 0) and column < -row * model.slope for row, column in NEIGHBOURS)
    x = torch.rand(1, 3, 8, 8) * 2 - 1
    laws = []
    for changed in (0.0, 1.0):
        y = x.clone()
        y[:, 1, 4, 3] += changed  # the second channel of the pixel (4, 3)
        laws.append(levels_of(y.clamp(-1, 1)))
    layout = wavefront.Layout.of([(0, 0, 0, 8, 8)], model.portable())
    place, view = next(layout.views(layout.canvas))
    contexts = []
    for levels in laws:
        view.copy_(levels[place])
        contexts.append(torch.cat(model.context(layout.canvas, layout.inside, layout.stride, layout.at)))
    differs = {int(layout.at[i]) for i in (contexts[0] != contexts[1]).any(0).nonzero()[:, 0]}
    first = layout.tiles[0][5]
    later = {first + y * layout.stride + x for y in range(8) for x in range(8) if (y, x) > (4, 3)}
    assert differs and differs <= later


# Images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 4), (1, 23, 3), (17, 1, 1), (9, 14, 2), (13, 11, 3), (12, 10, 4)])
def test_the_same_bytes_come_back_from_any_size_and_kind(models, channels, shape):
    for image in (noise(*shape), np.full(shape, 200, np.uint8), smooth(*shape)):
        (back,) = decompress(compress(models[channels], image), models[channels])
        assert back.dtype == np.uint8 and np.array_equal(back, image)


def test_tiles_and_groups_of_a_large_image_come_back(models, monkeypatch):
    monkeypatch.setattr(wavefront, "TILE", 16)
    monkeypatch.setattr(wavefront, "GROUP", 600)
    monkeypatch.setattr(wavefront, "_TILES", 2)
    assert [len(group) for group in wavefront.groups_of([(1, 1)] * 5)] == [2, 2, 1]
    image = smooth(40, 50, 3)
    images = [image, image[:17], image[:, :5]]
    for back, one in zip(decompress(compress(models[3], images), models[3]), images, strict=True):
        assert np.array_equal(back, one)


def test_a_photograph_takes_what_its_probability_says_within_two_percent(models):
    image = np.asarray(Image.open(PHOTOS / "cat.webp").convert("RGB"))[:64, :80]
    compressed = compress(models[3], image)
    assert compressed.bits <= 8 * compressed.payload < 1.02 * compressed.bits
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    model = rv.build("codec", shape=(64, 80), channels=3, width=24, head=16).eval()
    model.load_state_dict(models[3].state_dict())
    assert compressed.bits == pytest.approx(-float(model.log_prob(Batch({"x": x}))) / math.log(2), rel=1e-6)
    assert len(compressed.data) - compressed.payload < 40


def test_the_file_is_the_same_under_any_threads_carriers_and_autocast(models, monkeypatch):
    image = smooth(30, 40, 3)
    data = compress(models[3], image).data
    with threadpool_limits(2):
        assert compress(models[3], image).data == data
    with torch.autocast("cpu", torch.bfloat16):
        assert compress(models[3], image).data == data and np.array_equal(decompress(data, models[3])[0], image)
    freeze = IntegerLinear.freeze
    monkeypatch.setattr(IntegerLinear, "freeze", lambda layer: freeze(layer, np.float64))
    assert compress(models[3], image).data == data
    monkeypatch.setattr(wavefront, "_AT_ONCE", 1)
    assert compress(models[3], image).data == data


def test_coding_computes_with_one_thread_of_torch_and_gives_the_others_back(models, monkeypatch):
    before, threads, mixture = torch.get_num_threads(), set[int](), type(models[1]).mixture

    def watched(*arguments):
        threads.add(torch.get_num_threads())
        return mixture(*arguments)

    monkeypatch.setattr(type(models[1]), "mixture", watched)
    torch.set_num_threads(2)
    try:
        decompress(compress(models[1], smooth(9, 9, 1)), models[1])
        assert threads == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_grey_image_in_a_model_of_colours_codes_one_channel(models):
    image = smooth(20, 20, 1)
    both = [image, smooth(9, 9, 3)]
    assert all(map(np.array_equal, decompress(compress(models[3], both), models[3]), both))
    grey, colour = compress(models[3], image), compress(models[3], image.repeat(3, 2))
    assert grey.bits < 0.8 * colour.bits


@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_of_bits_sums_to_the_ideal_length(models, channels):
    for image in (smooth(20, 30, 3), noise(9, 7, 2)):
        bits = rv.bits_map(models[channels], image)
        assert bits.shape == image.shape[:2] and (bits > 0).all()
        assert bits.sum() == pytest.approx(compress(models[channels], image).bits, rel=1e-9)


def test_samples_do_not_depend_on_their_batch_and_are_likely(models):
    model = models[1]
    together = model.sample(Noise.of_seeds(range(4)))
    assert torch.equal(model.sample(Noise.of_seeds([2])), together[2:3])
    assert model.log_prob(Batch({"x": together})).mean() > model.log_prob(Batch({"x": torch.rand(4, 1, 8, 8)})).mean()


# Any exact model


def test_any_model_with_exact_conditionals_compresses_images_of_its_size(monkeypatch):
    model, rng = Walk(), np.random.default_rng(0)
    steps = rng.integers(-20, 21, (70, 16))
    images = list((128 + steps.cumsum(1)).clip(0, 255).astype(np.uint8).reshape(70, 4, 4, 1))
    compressed = compress(model, images)
    assert not compressed.portable and compressed.bits <= 8 * compressed.payload < 1.02 * compressed.bits + 64
    assert all(map(np.array_equal, decompress(compressed, model), images))
    with pytest.raises(UsageError, match="images of 4x4x1 only"):
        compress(model, noise(5, 5, 1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.warns(UserWarning, match="another environment"):
        assert len(decompress(compressed, model)) == 70


def test_a_model_without_exact_probabilities_says_what_compresses():
    with pytest.raises(UsageError, match="reverie train codec"):
        compress(rv.build("vae", shape=(8, 8), channels=1, width=8, latent=2), noise(8, 8, 1))


def test_a_missing_library_says_how_to_install_it(models, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "constriction", None)
    with pytest.raises(ReverieError, match=r"pip install 'reverie\[compress\]'"):
        coding.Encoder()
