"""Parametrisations, transformations, rectifiers, and filters whose best image is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import reverie as rv
from reverie.core import registry
from reverie.core.errors import Stopped, UsageError
from reverie.core.noise import Noise
from reverie.dreaming import robustness
from reverie.dreaming.canvas import Canvas, Level, Pixels, paint
from reverie.dreaming.filters import PARAMETRISATIONS, Ascent, evenly, representative
from reverie.dreaming.parametrisations import Fourier, Phase, Statistics, frequencies
from reverie.inference.features import features_of
from reverie.media.origin import origin_of
from reverie.nets.features import Features, Layer

SHAPES = [(12, 16), (9, 7)]


def photo(shape, channels=3, rows=2):
    """Smooth images within [-0.9, 0.9]."""
    noise = torch.randn(rows, channels, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.9 * torch.tanh(F.avg_pool2d(noise, 3, 1, 1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_a_canvas_shows_the_image_that_it_is_set_to(kind, shape, channels):
    image = kind(shape, channels, rows=2).double()
    image.set(photo(shape, channels))
    torch.testing.assert_close(image(), photo(shape, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_phases_move_and_amplitudes_stay(shape, channels):
    image = Phase(shape, channels, rows=2).double()
    image.set(photo(shape, channels))

    def spectrum():
        return torch.fft.rfft2(image.colours.back(image()), norm="ortho")

    before = spectrum()
    torch.testing.assert_close(before.abs(), image.amplitudes.expand_as(before), atol=1e-5, rtol=0)
    expected = torch.fft.rfft2(image.colours.back(photo(shape, channels)))
    inner = slice(1, (shape[1] - 1) // 2)  # other columns hold both halves of their spectrum
    torch.testing.assert_close(before[..., inner].angle(), expected[..., inner].angle(), atol=1e-4, rtol=0)
    image().square().mean().backward()
    with torch.no_grad():
        image.phase.add_(torch.randn_like(image.phase))
    torch.testing.assert_close(spectrum().abs(), before.abs(), atol=1e-5, rtol=0)
    assert float((spectrum() - before).detach().abs().mean()) > 0.1 and image.phase.grad.isfinite().all()


def test_colours_of_a_data_set_are_decorrelated_and_its_amplitudes_measured():
    x = torch.randn(64, 3, 16, 16, dtype=torch.float64) @ torch.eye(16, dtype=torch.float64)
    mixed = torch.einsum("dc,nchw->ndhw", torch.tensor([[0.3, 0.1, 0], [0.3, 0, 0.1], [0.2, -0.1, 0]]).double(), x)
    statistics = Statistics.of(mixed - 0.2)
    components = torch.einsum(
        "dc,nchw->ndhw", torch.linalg.inv(statistics.colours), mixed - mixed.mean((0, 2, 3))[:, None, None]
    )
    torch.testing.assert_close(
        torch.cov(components.transpose(0, 1).flatten(1)), torch.eye(3).double(), atol=1e-6, rtol=0
    )
    flat = statistics.amplitudes.flatten(1)[:, 1:]  # of white noise
    assert float(flat.std() / flat.mean()) < 0.15
    torch.testing.assert_close(statistics.mean, (mixed - 0.2).mean((0, 2, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_natural_components_have_variance_one_and_an_amplitude_that_falls_with_frequency(channels):
    shape = (32, 32)
    amplitudes = Statistics.natural(shape, channels).amplitudes
    noise = torch.fft.rfft2(torch.randn(400, channels, *shape), norm="ortho")
    images = torch.fft.irfft2(noise * amplitudes, s=shape, norm="ortho")
    torch.testing.assert_close(images.var((0, 2, 3)), torch.ones(channels), rtol=0.1, atol=0)
    f = frequencies(shape)
    assert amplitudes[0, 0, 0] == 0 and f[0, 16] == f[16, 0] == 0.5
    assert 1.7 < float(amplitudes[0, 0, 4] / amplitudes[0, 0, 8]) < 2.6


def test_transformations_are_the_seeds_alone_of_each_row():
    images = photo((20, 24)).float()
    both = robustness.transformed(images, Noise.of_seeds([3, 4]))
    assert both.shape == images.shape
    torch.testing.assert_close(robustness.transformed(images[1:], Noise.of_seeds([4])), both[1:])
    torch.testing.assert_close(robustness.transformed(images, Noise.of_seeds([3, 4])), both, rtol=0, atol=0)
    assert float((robustness.transformed(images, Noise.of_seeds([5, 4])) - both)[0].abs().max()) > 0.01


def test_a_warp_moves_turns_and_enlarges():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 6] = 1  # two to the right of the centre
    moved = robustness.warp(image, torch.tensor([[[1.0, 0, 2], [0, 1, 0], [0, 0, 1]]]))
    assert moved[0, 0, 4, 4] == pytest.approx(1, abs=1e-5)
    turned = robustness.warp(image, torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]]))
    assert turned[0, 0, 2, 4] == pytest.approx(1, abs=1e-5)
    larger = robustness.warp(image, torch.diag(torch.tensor([0.5, 0.5, 1]))[None])
    assert larger[0, 0, 4, 8] == pytest.approx(1, abs=1e-5)
    rng = Noise.of_seeds(range(500))
    angles = torch.atan2(*(robustness.rotate(rng)[:, row, 0] for row in (1, 0))).rad2deg()
    assert 9 < float(angles.abs().max()) <= 10
    factors = robustness.scale(rng)[:, 0, 0]
    assert 1 / 1.1 <= float(factors.min()) < 0.92 and 1.09 < float(factors.max()) <= 1 / 0.9
    shifts = robustness.shift(rng, 8)[:, :2, 2]
    assert 3.9 < float(shifts.abs().max()) <= 4


def test_a_dead_rectifier_passes_gradients_that_wake_it_and_a_living_one_its_own():
    x = torch.tensor([[-1.0, -2.0], [-1.0, 2.0]], requires_grad=True)
    kinds = {
        "fresh": (nn.ReLU(), nn.ReLU6(), F.relu, torch.relu, torch.Tensor.relu),
        "in place": (nn.ReLU(inplace=True), nn.ReLU6(inplace=True), torch.relu_, F.relu_, torch.Tensor.relu_),
    }
    for kind, function in [(kind, function) for kind, functions in kinds.items() for function in functions]:
        value = x + 0
        with robustness.RedirectedRectifiers():
            output = function(value)
            (grad,) = torch.autograd.grad(-(output * torch.tensor([1.0, -1.0])).sum(), x)
        assert (output is value) == (kind == "in place") and output.tolist() == [[0, 0], [0, 2]]
        # of the dead row the first unit may rise, the second would sink further; the living row is as ever
        assert grad.tolist() == [[-1, 0], [0, 1]]
    (grad,) = torch.autograd.grad(nn.ReLU()(x).sum(), x)  # outside the block
    assert grad.tolist() == [[0, 0], [0, 1]]


def test_gradient_ascent_finds_the_matched_filter():
    w = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image = Pixels((8, 8), 1)
    image.set(torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    level = Level(image, lambda x, batch: {"loss": -(w * x / x.norm()).sum()}, 60)
    canvas = Canvas([level], lambda parameters: torch.optim.SGD(parameters, 2.0))
    for _ in paint(canvas, device="cpu"):
        pass
    x = image().detach()
    torch.testing.assert_close(x / x.norm(), w / w.norm(), atol=1e-3, rtol=0)  # the optimum of <w, x> at |x| = 1


def edges():
    """A network whose filters are known: 0 vertical edges, 1 horizontal edges, 2 brightness, 3 dead."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([sobel, sobel.T, torch.ones(3, 3), torch.zeros(3, 3)])
    network[0].weight.data, network[0].bias.data = kernels[:, None], torch.tensor([0.0, 0, -0.5, -1])
    return Features(network, channels=1, size=(16, 16), name="edges")


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_filters_show_what_units_respond_to(kind):
    images = rv.filters(edges(), "1", "all", steps=60, parametrisation=kind, device="cpu")
    assert images.shape == (4, 16, 16, 1)
    x = images.array[..., 0].astype(float)
    across, down = np.abs(np.diff(x, axis=2)).mean((1, 2)), np.abs(np.diff(x, axis=1)).mean((1, 2))
    assert across[0] > 1.3 * down[0] and down[1] > 1.3 * across[1]
    noise, activations = (np.array(images.conditions[name]) for name in ("noise", "activations"))
    assert (activations[:3] > 1.3 * noise[:3]).all() and activations[3] == 0
    if kind != "phase":  # whose amplitudes are those of an image from the start
        assert x[2].mean() > 160 and (activations[:2] > 100 * noise[:2]).all()
    assert images.labels[3] == "3 dead" and images.labels[0].startswith(("0  x", "0  +"))


def test_a_filter_is_the_same_alone_and_among_others():
    options = {"steps": 12, "size": 16, "device": "cpu", "seed": 5}
    every = rv.filters(edges(), "1", "all", **options)
    alone = rv.filters(edges(), "1", [1], **options)
    assert np.abs(every.array[1].astype(int) - alone.array[0]).max() <= 1
    assert np.array_equal(alone.array, rv.filters(edges(), "1", [1], **options).array)
    other = rv.filters(edges(), "1", [1], **options | {"seed": 6})
    assert np.abs(other.array.astype(int) - alone.array).max() > 5


def test_the_unit_at_the_centre_leaves_the_rest_alone():
    images = rv.filters(edges(), "1", [0], steps=60, objective="unit", parametrisation="pixels", device="cpu")
    contrast = np.abs(images.array[0, ..., 0].astype(float) - 127.5)
    assert contrast[6:11, 6:11].max() > 60 > 20 > contrast[:3].max()


def test_layers_are_modules_and_a_model_in_training_stays_as_it_is(tiny):
    model = rv.build("vae", tiny, width=8).train()
    features = features_of(model, "cpu")
    assert {"encoder.layers.1", "encoder.out"} <= set(features.layers) and features.size == (8, 8)
    assert not [name for name in features.layers if name.startswith("decoder")]
    assert features.channels == 1 and features.layers["encoder.layers.1"] == Layer(8, 2)
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name, layer", [("vae", "encoder.layers.1"), ("ddpm", "net"), ("gan", "discriminator.body")])
def test_own_networks_show_images_of_their_own_size_and_colour(name, layer, tiny):
    options = {"width": 8, "depth": 1} if name != "gan" else {"width": 8}
    images = rv.filters(rv.build(name, tiny, **options), layer, steps=3, device="cpu")
    assert images.shape[1:] == (8, 8, 1)


def test_a_page_has_a_row_for_each_change_of_stride():
    layers = {"a": Layer(8, 1), "b": Layer(8, 1), "pool": Layer(8, 2), "c": Layer(16, 2), "up": Layer(8, 1)}
    assert representative(layers | {"out": Layer(3, 1)}) == ["b", "c", "up"]
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 2, 2))
    sheet = rv.filter_page(Features(network, channels=1, size=(8, 8)), number=3, steps=2, device="cpu")
    assert list(sheet.rows) == ["0", "1"] and sheet["1"].conditions["channels"] == [0, 2, 4] == evenly(6, 3)


def test_what_cannot_be_shown_is_refused(tiny):
    wrong = {
        "there is no 4": {"channels": [4]},
        "0 to 3; there is no -1": {"channels": [1, -1]},
        "numbers of filters": {"channels": "some"},
        "no layer '7'": {"layer": "7"},
        "at least 8": {"size": 4},
        "fourier or pixels or phase": {"parametrisation": "wavelets"},
        "channel or unit": {"objective": "layer"},
    }
    for text, options in wrong.items():
        with pytest.raises(UsageError, match=text):
            rv.filters(edges(), **({"layer": "1", "steps": 1} | options))
    with pytest.raises(UsageError, match=r"8x8 pixels; encoder.out is not computed at 16x16"):
        rv.filters(rv.build("vae", tiny, width=8), "encoder.out", steps=1, size=16)
    with pytest.raises(UsageError, match=r"no network that looks at images. These models have: .*vae"):
        features_of(nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"no network and no run 'vgg61'\. Did you mean .vgg1"):
        features_of("vgg61")
    assert "vae" in registry.with_verb("features")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"network": 5}, "must be a path, not 5"),
        ({"layer": None}, "no layer None"),
        ({"layer": ["1"]}, r"no layer \['1'\]"),
        ({"channels": []}, "numbers of filters"),
        ({"channels": 1.5}, "numbers of filters"),
        ({"channels": True}, "numbers of filters"),
        ({"channels": "1"}, "numbers of filters"),
        ({"channels": {"a": 1}}, "numbers of filters"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"size": 9.5}, "size must be a whole number"),
        ({"seed": None}, "seed is a whole number"),
        ({"device": "abacus"}, "abacus"),
        ({"objective": ["unit"]}, "channel or unit"),
    ],
)
def test_arguments_that_a_filter_cannot_use_are_refused_by_name(wrong, text):
    with pytest.raises(UsageError, match=text):
        rv.filters(**{"network": edges(), "layer": "1", "steps": 1} | wrong)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"network": 5}, "must be a path, not 5"),
        ({"layers": 5}, "names of layers, not 5"),
        ({"layers": [0]}, "names of layers"),
        ({"layers": "x"}, "no layer 'x'"),
        ({"layers": []}, "at least one of 0, 1"),
        ({"layers": ["1", "0", "1"]}, "layers has 1 twice"),
        ({"number": 1.5}, "number must be a whole number"),
        ({"parametrisation": "wavelets"}, "fourier or pixels or phase"),
    ],
)
def test_arguments_that_a_page_cannot_use_are_refused_by_name(wrong, text):
    with pytest.raises(UsageError, match=text):
        rv.filter_page(**{"network": edges(), "steps": 1} | wrong)


def test_layers_are_listed_with_their_other_names(call, monkeypatch):
    features = Features(edges().network, channels=1, aliases={"sobel": "0", "edge": "0"}, main=["sobel", "1"])
    assert features.other_names("sobel") == ["0", "edge"] and features.other_names("1") == []
    monkeypatch.setattr("reverie.inference.features.networks.features", lambda *_, **__: features)
    code, out, err = call("filters", "vgg16")
    assert code == 0 and [line.split() for line in out.splitlines()][:2] == [
        ["layer", "channels", "stride", "also"],
        ["sobel", "4", "1", "0,", "edge"],
    ]
    assert "--page" in err and json.loads(call("filters", "vgg16", "--json")[1])["aliases"] == features.aliases


def test_a_channel_is_a_number_of_any_kind_and_a_layer_a_text_or_a_list():
    for channels in (2, np.int64(2), torch.tensor(2), np.array([2]), range(2, 3)):
        assert rv.filters(edges(), "1", channels, steps=1).conditions["channels"] == [2]
    for layers in ("1", ["1"], ("1",), np.array(["1"])):
        assert list(rv.filter_page(edges(), layers, number=1, steps=1).rows) == ["1"]


def stop_at(step):
    def progress(done, total, what):
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_stopped_filters_are_the_channels_that_are_done_and_the_images_so_far(monkeypatch):
    with pytest.raises(Stopped) as stop:
        rv.filters(edges(), "1", "all", steps=60, progress=stop_at(30))
    images = stop.value.result
    assert images.conditions["channels"] == [0, 1, 2, 3] and images.origin["stopped"] == "step 30 of 60"
    assert all(np.greater(images.conditions["activations"][:3], images.conditions["noise"][:3]))
    monkeypatch.setattr("reverie.dreaming.filters.rows_at_once", lambda *_: 1)
    with pytest.raises(Stopped) as stop:
        rv.filters(edges(), "1", "all", steps=2, progress=stop_at(3))  # in the second channel
    assert stop.value.result.conditions["channels"] == [0, 1]
    with pytest.raises(Stopped) as stop:
        rv.filter_page(edges(), ["0", "1"], number=2, steps=2, progress=stop_at(6))
    assert list(stop.value.result.rows) == ["0"] and stop.value.result.origin["stopped"] == "layer 1 of 2"


def test_ctrl_c_keeps_a_page_at_its_target_and_says_so(call, bars, tmp_path, monkeypatch):
    rv.train("vae", bars, steps=1, width=8, batch_size=16, quiet=True, out=str(tmp_path / "run"))
    ascend = Ascent.__call__
    monkeypatch.setattr(Ascent, "__call__", lambda *_: stop_at(1)(1, 1, ""))
    assert call("filters", tmp_path / "run", "--page", "page.png")[0] == 130 and not (tmp_path / "page.png").exists()
    monkeypatch.setattr(Ascent, "__call__", lambda *args: ascend(*args[:-1], lambda step: stop_at(2)(step, 0, "")))
    code, out, _ = call("filters", tmp_path / "run", "--page", "page.png")
    assert code == 130 and "as of layer 1 of" in out and (tmp_path / "page.png").exists()
    code, out, _ = call("filters", tmp_path / "run", "encoder.layers.1", "--json")
    assert code == 130 and json.loads(out)["stopped"].startswith("step ") and (tmp_path / "filters.png").exists()


def test_the_command_lists_layers_draws_filters_and_pages(call, bars, tmp_path):
    run = rv.train("vae", bars, steps=1, width=8, batch_size=16, quiet=True, out=str(tmp_path / "run"))
    code, out, _ = call("filters", run.path)
    assert code == 0 and "encoder.layers.1" in out and "stride" in out and "also" not in out
    code, out, _ = call(
        "filters", run.path, "encoder.layers.1", "--steps", 2, "--channel", 3, 1, "--out", "f.npz", "--json"
    )
    result = json.loads(out)
    assert code == 0 and result["layers"]["encoder.layers.1"]["channels"] == [3, 1] and result["out"] == "f.npz"
    assert np.load("f.npz")["images"].shape == (2, 8, 8, 1)
    code, out, _ = call("filters", run.path, "--page", "page.png", "--steps", 1)
    assert code == 0 and "page.png" in out and (tmp_path / "page.png").exists()
    photo = np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)
    Image.fromarray(photo).save("photo.png")
    for words in (("filters", run.path, "encoder.out", "--steps", 1), ("dream", "photo.png", "--net", run.path)):
        code, out, err = call(*words, "--out", "named.png", "--json")
        weights = json.loads(out)["weights"]
        assert code == 0 and f"Weights of {run.path}, step 1 of 1." in err
        assert (weights["run"], weights["checkpoint"], len(weights["sha256"])) == (str(run.path), 1, 64)
        assert origin_of("named.png")["weights"] == weights
    assert call("filters", run.path, "--all")[0] == 2
    assert call("filters", run.path, "--out", "a.png")[0] == 2
    assert call("filters", run.path, "--page", "a.png", "--out", "b.png")[0] == 2
    assert call("filters", run.path, "encoder.out", "--all", "--channel", 1)[0] == 2


@pytest.mark.parametrize(
    "option", [("--steps", 96), ("--size", 16), ("--image", "fourier"), ("--objective", "unit"), ("--seed", 0)]
)
def test_options_of_gradient_ascent_are_refused_where_there_is_none(option, call, tmp_path):
    code, _, error = call("filters", "run", "--weights", *option)
    assert code == 2 and f"{option[0]} is of gradient ascent: --weights takes none" in error
    code, _, error = call("filters", "run", *option)
    assert code == 2 and "Name the layer" in error


def test_options_of_gradient_ascent_reach_it(call, bars, tmp_path):
    run = rv.train("vae", bars, steps=1, width=8, batch_size=16, quiet=True, out=str(tmp_path / "run"))
    options = {"steps": 2, "size": 16, "image": "pixels", "objective": "unit", "seed": 3}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    code, _, error = call("filters", run.path, "encoder.layers.1", "--channel", 0, *words, "--out", "f.png")
    assert code == 0, error
    written = origin_of("f.png")
    options = options | {"size": [16, 16], "parametrisation": options.pop("image")}
    assert {name: written[name] for name in options} == options
