"""DeepDream keeps what the network does not change, raises what it should, and is the same in tiles."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reverie as rv
from reverie.cli import main
from reverie.core.errors import Stopped, UsageError
from reverie.dreaming import deepdream
from reverie.dreaming.deepdream import Dreamer, Norms, dream, guide_features, layer_weights, with_detail, zoomed
from reverie.dreaming.photo import to_images
from reverie.dreaming.tiles import Tiling, _growth, _kept, _sight, evaluate, tiling
from reverie.media import montage
from reverie.nets.features import Features
from reverie.nets.perceptual import best_match
from reverie.nets.unet import attend
from reverie.nets.vgg import VGG

COLOURS = {"shape": 16, "channels": 3, "width": 8}  # of a tiny model of colour images

GENERATOR = torch.Generator().manual_seed(0)
PHOTO = torch.rand(1, 3, 100, 92, generator=GENERATOR) * 2 - 1
DEEP = "relu2_2"


def vgg(dtype=torch.float32) -> Features:
    torch.manual_seed(0)
    network = VGG(16)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return Features(network.to(dtype), name="vgg16")


NET = vgg()


@pytest.fixture(autouse=True)
def network(monkeypatch):
    """vgg16 with random weights: the names of its layers, without its megabytes."""
    monkeypatch.setattr(deepdream.networks, "features", lambda *_, **__: NET)


def bytes_of(photo: torch.Tensor) -> np.ndarray:
    return to_images(photo).array[0]


# Octaves


def test_a_dream_without_steps_of_any_size_is_the_photograph_to_the_byte():
    assert np.array_equal(dream(bytes_of(PHOTO), layers="relu1_1", lr=0.0, steps=1, loops=2).array[0], bytes_of(PHOTO))


def test_an_octave_gets_back_exactly_the_detail_that_it_lost():
    smaller = deepdream.resampled(PHOTO, (48, 39))
    lost = PHOTO - deepdream.resampled(smaller, (100, 92))
    assert lost.abs().max() > 0.5
    torch.testing.assert_close(with_detail(smaller, PHOTO, (48, 39), (100, 92)), PHOTO)
    change = torch.full_like(smaller, 0.25)
    torch.testing.assert_close(with_detail(smaller + change, PHOTO, (48, 39), (100, 92)), PHOTO + 0.25)


def test_octaves_end_at_the_photograph_and_leave_out_those_too_small_for_the_layers():
    dreamer = Dreamer(NET, Norms({"relu4_3": 1.0}), octaves=4, octave_scale=1.5)
    assert dreamer.shapes((300, 200)) == [(133, 89), (200, 133), (300, 200)]
    assert dreamer.shapes((16, 9)) == [(16, 9)]


# What rises


def test_every_layer_asked_for_rises_over_a_dream():
    objective = Norms({"relu2_1": 1.0, DEEP: 0.5})
    dreamer = Dreamer(NET, objective, octaves=1, steps=6)
    with torch.no_grad():
        before = evaluate(NET, objective, PHOTO)
    *_, last = dreamer.stream(PHOTO)
    with torch.no_grad():
        after = evaluate(NET, objective, last.render()["image"])
    assert all(after[layer] > 1.1 * before[layer] for layer in objective.layers)
    weighted = (before["relu2_1"] + 0.5 * before[DEEP]) / 1.5
    torch.testing.assert_close(-before["loss"], weighted)
    torch.testing.assert_close(before[DEEP], NET(PHOTO, [DEEP])[DEEP].square().mean().sqrt())


def test_a_guide_pulls_the_dream_to_its_features_more_than_a_dream_without_one():
    guide = to_images(PHOTO.flip(1).roll(9, 3).mul(0.3).add(0.5))
    objective = Norms({DEEP: 1.0}, guide_features(NET, guide, [DEEP]))

    def match(options) -> float:
        image = deepdream.open_photo(dream(bytes_of(PHOTO), layers=DEEP, octaves=1, steps=5, **options))
        with torch.no_grad():
            return -float(evaluate(NET, objective, image)["loss"])

    start, free, guided = match({"lr": 0.0}), match({}), match({"guide": guide})
    assert guided > free and guided > 1.1 * start


def test_the_same_seed_is_the_same_dream_and_another_is_another():
    options = {"layers": "relu2_1", "octaves": 1, "steps": 2}
    first, again, other = (dream(bytes_of(PHOTO), seed=seed, **options).array for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


# Tiles


class Everything:
    """Norms, a Gram matrix and a squared difference to a target, in one objective."""

    layers = ("relu1_1", "relu2_1")

    def __init__(self, target):
        self.target = target

    def statistics(self, features, windows):
        deep, fine = features["relu2_1"], features["relu1_1"]
        x = deep.flatten(2)
        difference = deep - self.target[..., *windows["relu2_1"]]
        number = torch.tensor(float(deep.numel()), dtype=deep.dtype)
        return {"gram": x @ x.mT, "content": difference.square().sum(), "fine": fine.square().sum(), "n": number}

    def loss(self, sums):
        gram = sums["gram"] / sums["n"]
        loss = (gram - gram.detach().mean()).square().sum() + sums["content"] / sums["n"] - sums["fine"].sqrt()
        return {"loss": loss, "content": sums["content"]}


@pytest.mark.parametrize("shape", [(64, 129), (129, 64)])
def test_tiles_give_the_loss_and_the_gradient_of_the_whole_image(shape):
    features = vgg(torch.float64)
    image = torch.rand(1, 3, *shape, generator=GENERATOR, dtype=torch.float64) * 2 - 1
    objective = Everything(features(image.flip(3), ["relu2_1"])["relu2_1"].detach())
    halo, strides = _sight(features, objective.layers)
    tiles = Tiling(64, halo, strides)
    assert len(list(tiles.tiles(shape))) > 1
    results = []
    for cut in (None, tiles):
        x = image.clone().requires_grad_()
        scalars = evaluate(features, objective, x, cut)
        scalars["loss"].backward()
        results.append((scalars["loss"].detach(), scalars["content"].detach(), x.grad))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-13)


def test_how_far_a_layer_sees_is_measured():
    field = {"relu1_1": 3, DEEP: 14, "relu3_1": 24}  # pixels along a side, from VGG's kernels and strides
    for layer, side in field.items():
        halo, strides = _sight(NET, [layer])
        assert halo == 64 >= side / 2 and strides == {layer: 2 ** (int(layer[4]) - 1)}


def test_memory_decides_on_tiles_and_too_little_says_so():
    assert tiling(NET, [DEEP], (500, 500), 1e9) is None
    few, many = (tiling(NET, [DEEP], (4000, 3000), memory) for memory in (2e9, 5e8))
    assert few.side > many.side >= 64
    with pytest.raises(UsageError, match=r"takes .* GB of memory"):
        tiling(NET, [DEEP], (4000, 3000), 1e6)


class Padded(nn.Conv2d):
    """A convolution that pads as TensorFlow does: on which side, depends on the size."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1)))


@pytest.mark.parametrize("last", [nn.GroupNorm(1, 2), Padded(2, 2, 3, stride=2), nn.AdaptiveAvgPool2d(1)])
def test_a_network_that_depends_on_the_whole_image_or_its_size_is_not_cut(last):
    features = Features(nn.Sequential(nn.Conv2d(3, 2, 3), last))
    with pytest.raises(UsageError, match="cannot be cut"):
        tiling(features, ["1"], (4000, 3000), 1e7)


class Attention(nn.Module):
    """Positions of a stride 2 attend to all, as written in textbooks: a number for each pair."""

    def forward(self, x):
        rows = nn.functional.avg_pool2d(x, 2).flatten(2).mT
        return (rows @ rows.mT).softmax(2) @ rows


def test_memory_of_attention_grows_with_the_square_of_the_pixels():
    features = Features(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Attention()), size=(8, 12))
    per_pixel, per_pair = _growth(features, ["1"])
    assert per_pair == 2 * 4 / 4**2  # two passes; a softmax of 4 bytes for each pair of positions of 4 pixels
    kept = sum(_kept(features, ["1"], 40, 60))
    assert kept == pytest.approx((40 * 60 * per_pixel + (40 * 60) ** 2 * per_pair) / 2, rel=0.01)
    assert _growth(Features(features.network), ["0"])[1] == 0
    need = 400 * 300 * per_pixel + (400 * 300) ** 2 * per_pair
    assert tiling(features, ["1"], (400, 300), 1.01 * need) is None
    with pytest.raises(UsageError, match=r"Attention over 300 x 400 pixels takes 7\.2 GB .* cannot be cut"):
        tiling(features, ["1"], (400, 300), 0.99 * need)


class Fused(nn.Module):
    """Attention as our networks have it: fused from 513 positions on."""

    def forward(self, x):
        rows = nn.functional.avg_pool2d(x, 2).flatten(2).mT[:, None].contiguous()
        return attend(rows, rows, rows)[:, 0]


def test_attention_that_is_fused_at_the_size_of_an_image_is_measured_there():
    features = Features(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Fused()), size=(8, 12))
    assert _growth(features, ["1"])[1] > 0  # at 96 positions
    per_pixel, per_pair = _growth(features, ["1"], 400 * 300, 1e9)
    assert per_pair == 0 and 2 * sum(_kept(features, ["1"], 80, 60)) == pytest.approx(per_pixel * 80 * 60, rel=0.05)
    assert tiling(features, ["1"], (400, 300), 1e9) is None


def test_what_is_measured_at_a_small_size_is_what_a_large_image_takes():
    layers = [DEEP, "relu3_1"]
    per_pixel, per_pair = _growth(NET, layers)
    assert per_pair == 0 and 2 * sum(_kept(NET, layers, 160, 224)) == pytest.approx(per_pixel * 160 * 224, rel=0.01)


def test_a_network_of_one_size_says_so_before_the_work():
    fixed = Features(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)), size=(8, 8), name="fixed")
    with pytest.raises(UsageError, match="fixed does not take images of 90 x 100 pixels"):
        dream(bytes_of(PHOTO)[:, :90], fixed, layers="1", octaves=1, memory=0.7)


def test_a_dream_in_tiles_is_the_dream_at_once(monkeypatch):
    options = {"layers": "relu2_2", "octaves": 2, "octave_scale": 1.2, "steps": 2, "precision": "fp32"}
    whole = dream(bytes_of(PHOTO), **options).array.astype(int)
    monkeypatch.setattr(deepdream, "tiling", lambda f, layers, shape, memory: Tiling(64, 64, {"relu2_2": 2}))
    assert np.abs(dream(bytes_of(PHOTO), **options).array - whole).max() <= 1


# Films


def test_a_zoom_has_no_border_and_keeps_the_middle():
    image = torch.full((1, 3, 20, 31), 0.75)
    torch.testing.assert_close(zoomed(image, 1.3), image)
    ramp = torch.linspace(-1, 1, 31).expand(1, 3, 20, 31)
    torch.testing.assert_close(zoomed(ramp, 1.0), ramp, rtol=0, atol=1e-5)
    torch.testing.assert_close(zoomed(ramp, 2.0)[0, 0, 0, 6:-6], ramp[0, 0, 0, 6:-6] / 2, rtol=0, atol=0.01)


def test_small_films_are_enlarged_and_wide_ones_stay_within_what_formats_hold():
    assert [montage.film_scale(*shape) for shape in ((8, 10), (92, 100), (500, 20), (8, 2000))] == [20, 2, 1, 2]


def test_an_interrupted_film_keeps_its_frames(tmp_path, monkeypatch, capsys):
    Image.fromarray(bytes_of(PHOTO)).save(tmp_path / "photo.png")
    stream = Dreamer.stream

    def interrupted(self, photo, seed=0):
        if seed:
            raise KeyboardInterrupt
        yield from stream(self, photo, seed)

    monkeypatch.setattr(Dreamer, "stream", interrupted)
    film = tmp_path / "zoom.gif"
    words = ["--layers", "relu2_1", "--octaves", "1", "--steps", "1", "--film", str(film), "--frames", "3"]
    with pytest.raises(SystemExit, match="1"):
        main(["dream", str(tmp_path / "photo.png"), *words])
    assert "1 of 3 frames in" in (text := capsys.readouterr().out) and "enlarged 2 times" in text
    assert Image.open(film).size == (184, 200)


def stop_at(step):
    def progress(done, total, what):
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_stopped_dream_is_the_octaves_so_far_with_the_detail_of_those_to_come():
    options = {"layers": "relu2_1", "octaves": 3, "octave_scale": 1.2, "steps": 2, "precision": "fp32"}
    with pytest.raises(Stopped) as stop:
        dream(bytes_of(PHOTO), lr=0.0, progress=stop_at(1), **options)
    assert np.array_equal(stop.value.result.array[0], bytes_of(PHOTO))
    assert stop.value.result.origin["stopped"] == "step 1 of 6"
    with pytest.raises(Stopped) as stop:
        dream(bytes_of(PHOTO), progress=stop_at(4), **options)
    assert stop.value.result.shape == (1, 100, 92, 3)
    assert np.abs(stop.value.result.array[0].astype(int) - bytes_of(PHOTO)).mean() > 1
    with pytest.raises(Stopped) as stop:
        dream(bytes_of(PHOTO), progress=stop_at(6), **options)
    assert np.array_equal(stop.value.result.array, dream(bytes_of(PHOTO), **options).array)


def test_ctrl_c_keeps_a_dream_at_its_target_and_says_so(tmp_path, monkeypatch, capsys):
    Image.fromarray(bytes_of(PHOTO)).save(tmp_path / "photo.png")
    stream = Dreamer.stream

    def interrupted(self, photo, seed=0):
        yield next(stream(self, photo, seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(Dreamer, "stream", interrupted)
    words = ["dream", str(tmp_path / "photo.png"), "--layers", "relu2_1", "--out", str(tmp_path / "dream.png")]
    with pytest.raises(SystemExit, match="130"):
        main(words)
    output = capsys.readouterr()
    assert "Stopped at step 1 of" in output.out and "92 x 100 pixels" in output.out and "interrupted" in output.err
    assert Image.open(tmp_path / "dream.png").size == (92, 100)


def test_what_is_for_a_film_alone_is_refused_without_one(tmp_path, capsys):
    Image.fromarray(bytes_of(PHOTO)).save(tmp_path / "photo.png")
    for words in (["--frames", "3"], ["--zoom", "1.1"], ["--seconds", "2"]):
        with pytest.raises(SystemExit, match="2"):
            main(["dream", str(tmp_path / "photo.png"), *words])
        assert f"{words[0]} is for a film" in capsys.readouterr().err


def test_a_film_without_its_library_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    Image.fromarray(bytes_of(PHOTO)).save(tmp_path / "photo.png")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(Dreamer, "stream", lambda *_: pytest.fail("it dreamed"))
    with pytest.raises(SystemExit, match="1"):
        main(["dream", str(tmp_path / "photo.png"), "--film", str(tmp_path / "zoom.mp4")])
    assert "need an extra" in capsys.readouterr().err and not (tmp_path / "zoom.mp4").exists()


# Images and messages


def file_of(kind: str) -> bytes:
    grey = np.arange(16 * 20).reshape(16, 20)
    images = {
        "grey": Image.fromarray(grey.astype(np.uint8)),
        "16-bit": Image.fromarray((grey * 200).astype(np.uint16)),
        "rgba": Image.fromarray(np.stack([grey] * 4, 2).astype(np.uint8)),
        "16-pixel": Image.fromarray(np.stack([grey[:, :16]] * 3, 2).astype(np.uint8)),
        "wide": Image.fromarray(np.stack([np.tile(grey, (1, 10))] * 3, 2).astype(np.uint8)),
    }
    buffer = io.BytesIO()
    images[kind].save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["grey", "16-bit", "rgba", "16-pixel", "wide"])
def test_images_of_any_kind_keep_their_size_and_shape(tmp_path, kind, capsys):
    (tmp_path / "a.png").write_bytes(file_of(kind))
    main_ok(["dream", str(tmp_path / "a.png"), "--out", str(tmp_path / "b.png"), "--steps", "1", "--layers", "relu2_1"])
    before, after = Image.open(tmp_path / "a.png"), Image.open(tmp_path / "b.png")
    assert after.size == before.size and after.mode == ("L" if kind in ("grey", "16-bit") else "RGB")
    assert f"{after.size[0]} x {after.size[1]} pixels" in capsys.readouterr().out


def main_ok(words) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 0


def test_unknown_layers_and_odd_values_say_so():
    with pytest.raises(UsageError, match=r"no layer 'relu9_1'"):
        dream(bytes_of(PHOTO), layers="relu9_1")
    with pytest.raises(UsageError, match="is no number"):
        dream(bytes_of(PHOTO), layers="relu2_1=much")
    with pytest.raises(UsageError, match="octave_scale must be above 1"):
        dream(bytes_of(PHOTO), octave_scale=1.0)
    with pytest.raises(UsageError, match=r"layers has block2_conv2 twice \(also as relu2_2\)"):
        Features(NET.network, aliases={"block2_conv2": DEEP}).names([DEEP, "block2_conv2"])


def test_an_image_too_small_for_a_deep_layer_is_seen_enlarged_and_keeps_its_size():
    small = PHOTO[..., :8, :6]
    with pytest.raises(UsageError, match="too small"):
        NET(small, ["relu5_1"])
    assert deepdream.seen(small, NET, least=80).shape == (1, 3, 107, 80)
    options = {"layers": "relu5_1", "steps": 1, "jitter": 0}
    assert np.array_equal(dream(bytes_of(small), lr=0.0, **options).array[0], bytes_of(small))
    assert np.abs(dream(bytes_of(small), **options).array[0].astype(int) - bytes_of(small)).max() > 0


def test_layers_are_text_names_or_weights():
    weights = {"relu2_1": 1.0, DEEP: 0.5}
    assert layer_weights(f"relu2_1,{DEEP}=0.5", NET) == layer_weights(weights, NET) == weights
    assert layer_weights([DEEP], NET) == {DEEP: 1.0}


def test_a_network_of_grey_images_sees_luminance():
    image = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    luma = deepdream.seen(image, Features(nn.Conv2d(1, 1, 1), channels=1))
    assert luma.shape == (1, 1, 2, 2) and math.isclose(float(luma[0, 0, 0, 0]), 0.299 - 0.114, abs_tol=1e-6)


def test_networks_of_runs_get_sides_that_they_halve_and_dream_with_a_coarse_layer():
    image = torch.rand(1, 3, 30, 70)
    padded = deepdream.seen(image, NET, 32)
    assert padded.shape == (1, 3, 32, 96) and torch.equal(padded[..., :30, :70], image)
    convs = [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)]
    assert deepdream.coarse_layer(Features(nn.Sequential(*convs))) == ["1"]


def test_a_guide_is_matched_in_blocks_with_the_products_and_gradients_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2500, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    guide = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    at_once = (x @ guide.mT).amax(2)
    torch.testing.assert_close(best_match(x, guide), at_once)
    gradients = [torch.autograd.grad(value.sum(), x)[0] for value in (best_match(x, guide), at_once)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"memory": 0.0, "octaves": 1}, "memory"),
        ({"lr": 1e38}, "lr"),
        ({"seed": "a"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"layers": "=1"}, "''"),
        ({"layers": "generator"}, "map"),
        ({"layers": ""}, "at least one layer"),
        ({"layers": 5}, "names of layers, not 5"),
        ({"layers": torch.tensor(2)}, "names of layers, not 2"),
        ({"layers": [5]}, "names of layers"),
        ({"layers": {5: 1.0}}, "names of layers"),
        ({"layers": {"discriminator.body": None}}, "finite number"),
        ({"layers": "discriminator.body=1,discriminator.body=2"}, "has discriminator.body twice"),
        ({"net": 5}, "must be a path, not 5"),
        ({"net": None}, "must be a path, not None"),
        ({"precision": "bf16"}, "pretrained"),
        ({"precision": "fp16"}, "precision must be auto"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_numbers_and_layers_that_a_dream_cannot_use_are_refused_by_name(wrong, word):
    photo, model = np.zeros((300, 400, 3), np.uint8), rv.build("dcgan", **COLOURS)
    with pytest.raises(UsageError, match=word):
        rv.dream(photo, **{"net": model, "steps": 1} | wrong)


def test_a_network_of_colours_dreams_in_a_grey_photograph_which_stays_grey():
    photo = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert rv.dream(photo, rv.build("dcgan", **COLOURS), steps=1, octaves=1, seed=np.int64(3)).shape == (1, 64, 64, 1)


def test_the_origin_of_a_dream_has_its_arguments_as_they_were_given():
    arguments = {"octaves": 2, "octave_scale": 1.25, "steps": 1, "loops": 1, "lr": 0.0, "jitter": 3, "memory": 2.5}
    tensors = {name: torch.tensor(value) for name, value in arguments.items()}
    by = dream(bytes_of(PHOTO), layers={DEEP: 0.5}, seed=7, **tensors).origin
    expected = arguments | {"layers": {DEEP: 0.5}, "seed": 7, "verb": "dream", "network": "vgg16"}
    assert expected == {name: by[name] for name in expected}


def test_a_film_that_is_none_by_its_ending_is_refused_before_the_work(tmp_path, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(SystemExit) as outcome:
        main(["dream", str(tmp_path / "c.png"), "--film", str(tmp_path / "x.jpg")])
    assert outcome.value.code == 2
    assert "films end in .webp, .gif, .mp4" in capsys.readouterr().err
