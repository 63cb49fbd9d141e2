"""Style transfer: its losses against closed forms and finite differences, its recipes, and images of every kind."""

from __future__ import annotations

import copy
import math
import os
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

import reverie as rv
from engine_cases import state_of, walk
from random_networks import random_vgg
from reverie.cli import main
from reverie.core.errors import ReverieError, UsageError
from reverie.core.precision import Precision
from reverie.data.batches import NoData
from reverie.dreaming import style, style_canvas
from reverie.dreaming.photo import open_photo
from reverie.dreaming.style_canvas import RECIPES, _history, _weighted, canvas_of, objective, sizes, vgg_features
from reverie.dreaming.tiles import Tiling, _sight, tiling
from reverie.media.colour import LUMA
from reverie.media.images import Images
from reverie.media.origin import origin_of
from reverie.nets import vgg
from reverie.nets.features import Features
from reverie.nets.perceptual import error_sums, gram, total_variation
from reverie.optim.lbfgs import LBFGS
from reverie.pretrained import networks
from reverie.training.step import Engine

QUICK = {"steps": 2, "coarse_steps": 2, "first_size": 32, "precision": "fp32"}
RECIPE = replace(RECIPES["fast"], **QUICK)


@pytest.fixture(scope="module")
def features() -> Features:
    """VGG-16 with random weights that keep the size of activations."""
    network = vgg.VGG(16, replicate="first")
    network.load_state_dict(random_vgg())
    return Features(network, aliases=vgg.aliases(16), name="vgg16")


@pytest.fixture
def of_chance(features, monkeypatch):
    monkeypatch.setattr(style, "vgg_features", lambda *_: features)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def tensor(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return open_photo(picture(height, width, seed))


def losses(features, image, recipe=RECIPE, content=None, styles=(), blend=(1.0,), masks=()):
    content = tensor(32, 48) if content is None else content
    loss = objective(features, content, styles or [tensor(40, 40, 1)], recipe, blend, masks)
    with torch.no_grad():
        return {name: float(value) for name, value in loss(image, None).items()}


# Losses


def test_a_gram_matrix_is_the_mean_product_of_channels_and_its_gradient_that_of_finite_differences():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products = torch.stack([(x[:, :, i, j, None] * x[:, None, :, i, j]) for i in range(4) for j in range(5)]).mean(0)
    torch.testing.assert_close(gram(x), products)
    weight = torch.rand(1, 1, 4, 5, dtype=torch.float64)
    assert gradcheck(gram, (x.requires_grad_(),)) and gradcheck(lambda x: gram(x, weight), (x,))


def test_the_gram_matrix_of_a_region_is_that_of_its_pixels_alone():
    x, weight = torch.randn(1, 4, 6, 8), torch.zeros(1, 1, 6, 8)
    weight[..., :3] = 1
    torch.testing.assert_close(gram(x, weight), gram(x[..., :3]))


def test_a_gram_matrix_of_bf16_is_summed_in_fp32():
    x = torch.rand(1, 8, 64, 64).bfloat16()
    torch.testing.assert_close(gram(x), gram(x.float()), rtol=1e-5, atol=1e-5)


def test_total_variation_has_the_gradient_of_finite_differences():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(total_variation, (x,))


def test_a_scaled_error_has_a_gradient_of_norm_1_to_2_whatever_its_size():
    for scale in (1e-3, 1.0, 1e4):
        x = (scale * torch.randn(50, 70, generator=torch.Generator().manual_seed(0))).requires_grad_()
        error, scale = error_sums(x, torch.zeros(50, 70), True)
        (error / scale).backward()
        assert 1 <= float(x.grad.abs().sum()) <= 2


def test_the_loss_of_a_bf16_network_is_that_of_fp32_within_a_hundredth(features, monkeypatch):
    def narrow(name, device, dtype, progress, **options):
        return Features(copy.deepcopy(features.network).to(dtype), aliases=features.aliases, name=name)

    monkeypatch.setattr(networks, "features", narrow)
    mixed = vgg_features("vgg16", replace(RECIPE, precision="bf16"), torch.device("cpu"))
    assert mixed(tensor(32, 48), ["relu1_1", "relu3_1"])["relu3_1"].dtype == torch.bfloat16
    for name, value in losses(features, tensor(32, 48, 3)).items():
        assert losses(mixed, tensor(32, 48, 3))[name] == pytest.approx(value, rel=0.01)


def test_style_does_not_see_where_activations_are_and_content_does(features):
    recipe = replace(RECIPE, layer_weights=(0, 0, 0, 0, 1), content_layer="relu5_1")
    image, order = tensor(32, 48, 3), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    shuffles = []

    class Shuffled:
        name = "vgg16"

        def __call__(self, images, layers):
            return {k: x.flatten(2)[..., order].view_as(x) if k == "relu5_1" and shuffles else x
                    for k, x in features(images, layers).items()}  # fmt: skip

    loss = objective(Shuffled(), tensor(32, 48), [tensor(32, 48, 1)], recipe, (1.0,))
    before = {name: float(value) for name, value in loss(image, None).items()}
    shuffles.append(True)
    after = {name: float(value) for name, value in loss(image, None).items()}
    assert after["style"] == pytest.approx(before["style"], rel=1e-4)
    assert abs(after["content"] / before["content"] - 1) > 1e-3


def test_two_styles_in_shares_of_one_and_nothing_are_one_style(features):
    a, b, image = tensor(40, 40, 1), tensor(40, 40, 2), tensor(32, 48, 3)
    alone = losses(features, image, styles=[a])
    assert losses(features, image, styles=[a, b], blend=(1.0, 0.0))["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert losses(features, image, styles=[a, b], blend=(0.5, 0.5))["loss"] != pytest.approx(alone["loss"], rel=1e-3)


def test_a_region_takes_its_own_style(features):
    a, b, white = tensor(48, 48, 1), tensor(48, 48, 2), torch.ones(1, 1, 48, 64)
    left = white.clone()
    left[..., 32:] = 0
    recipe = replace(RECIPE, layer_weights=(1, 0, 0, 0, 0))
    image = tensor(48, 64, 3)
    common = {"content": image, "recipe": recipe}
    everywhere = losses(features, image, styles=[a], **common)["style"]
    assert losses(features, image, styles=[a], masks=[white], **common)["style"] == pytest.approx(everywhere, rel=1e-4)
    halves = torch.cat([a[..., :32], b[..., :32]], 3)
    styles = [a[..., :32], b[..., :32]]
    right_way = losses(features, halves, styles=styles, blend=(1, 1), masks=[left, 1 - left], **common)["style"]
    swapped = losses(features, halves, styles=styles, blend=(1, 1), masks=[1 - left, left], **common)["style"]
    assert right_way < 0.2 * swapped


def test_black_and_white_of_one_mask_are_the_regions_of_two_styles():
    mask = np.zeros((32, 48), np.uint8)
    mask[:, :24] = 255
    first, second = style._regions(mask, 2, (32, 48), torch.device("cpu"))
    assert torch.equal(first, 1 - second) and first[..., :24].min() == 1 and first[..., 24:].max() == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_style_loss_of_tiles_is_that_of_the_whole_image(monkeypatch, scaled, masked):
    torch.manual_seed(0)
    layers, aliases = [], {}
    for block, (channels, width) in enumerate(pairwise((3, 4, 6, 6, 6, 6)), 1):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        aliases[f"relu{block}_1"] = str(len(layers) - 1)
        if block == 4:
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
            aliases["relu4_2"] = str(len(layers) - 1)
        layers.append(nn.MaxPool2d(2))
    features = Features(nn.Sequential(*layers), aliases=aliases, name="vgg16")
    tiles = Tiling(64, *_sight(features, [*aliases]))
    assert features.layers[aliases["relu5_1"]].stride == 16  # measured in fp32
    features.network.double()
    shapes = [(97, 301), (97, 301), (203, 90), (64, 150)]
    image, content, *styles = (2 * torch.rand(1, 3, *shape, dtype=torch.float64) - 1 for shape in shapes)
    mask = torch.rand(1, 1, 97, 301, dtype=torch.float64)
    results = []
    for cut in (None, tiles):
        monkeypatch.setattr(style_canvas, "tiling", lambda *_, cut=cut, **__: cut)
        masks = [mask, 1 - mask] if masked else []
        loss = objective(features, content, styles, replace(RECIPE, scaled=scaled), (0.3, 0.7), masks)
        values = loss(image.requires_grad_(), None)
        results.append((values, *torch.autograd.grad(values["loss"], image)))
    (whole, slope), (tiled, other) = results
    assert {*whole} == {"loss", "content", "style", "tv"}
    torch.testing.assert_close(tiled, whole, rtol=1e-10, atol=0)
    torch.testing.assert_close(other, slope, rtol=1e-9, atol=1e-12)


def test_the_plan_of_tiles_counts_what_regions_keep_for_the_gradient(features):
    layers, image = [*networks.NETWORKS["vgg16"].style], tensor(96, 96).requires_grad_()

    def kept(regions):
        sizes = {}

        def pack(x):
            sizes[x.untyped_storage().data_ptr()] = (x, x.untyped_storage().nbytes())
            return x

        masks = {k: torch.rand(1, 1, 96 // s, 96 // s) for k, s in strides.items()}
        grams = style_canvas.Grams(layers, [masks] * regions or ({},))
        with saved_tensors_hooks(pack, lambda x: x):
            grams.statistics(features(image, layers), dict.fromkeys(layers, (slice(None), slice(None))))
        return sum(size for _, size in sizes.values()) / 96**2

    strides = {k: features.layer(k).stride for k in layers}
    assert kept(3) - kept(0) == pytest.approx(3 * _weighted(features, strides), rel=0.05)
    assert _weighted(features, strides) == 4 * (64 + 128 / 4 + 256 / 16 + 512 / 64 + 512 / 256)


def test_regions_make_tiles_smaller(features, monkeypatch):
    def side(regions):
        layer, memory = ["relu1_1"], 1e9
        return tiling(features, layer, (2000, 2000), memory, more=regions * _weighted(features, {"relu1_1": 1})).side

    requests = []
    monkeypatch.setattr(style_canvas, "tiling", lambda *_, memory, more=0: requests.append(more))
    losses(features, tensor(32, 48), styles=[tensor(40, 40)] * 2, blend=(1, 1), masks=[torch.ones(1, 1, 32, 48)] * 2)
    assert requests == [2 * 488, 0, 0] and side(4) < side(2) < side(0)


def test_memory_decides_on_the_history_of_lbfgs():
    image = 12 * 4000 * 2668
    assert _history(RECIPE, 4e9, image / 16) == _history(RECIPE, float("inf"), image) == 30
    assert 1 < _history(RECIPE, 4e9, image) < 8
    assert _history(RECIPE, 1e9, image) == 1


# Recipes


def test_sizes_grow_by_the_root_of_two_in_the_shape_of_the_photograph():
    assert sizes((384, 512), 128) == [(96, 128), (136, 181), (192, 256), (272, 362), (384, 512)]
    assert sizes((384, 512), 0) == [(384, 512)]
    assert min(sizes((40, 512), 32)[0]) >= 32


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_every_recipe_lowers_its_loss(features, recipe, optimizer):
    chosen = style.recipe_of(recipe, {"steps": 6, "coarse_steps": 6, "optimizer": optimizer, "first_size": None})
    canvas = canvas_of(features, tensor(48, 64), [tensor(40, 40, 1)], chosen, [1.0])
    values = [float(frame.tensors["loss"]) for frame in style.paint(canvas, 0, device="cpu")]
    assert len(values) == 6 and values[-1] < 0.98 * values[0] and min(values) == min(values[2:])


def test_lbfgs_begins_with_a_step_of_a_stated_size_and_finds_the_minimum_of_a_quadratic():
    curvature, x = torch.logspace(0, 2, 12), nn.Parameter(torch.ones(12))
    optimizer = LBFGS([x], first=0.02, largest=10.0)
    for step in range(40):
        x.grad = curvature * (x.detach() - 3)
        optimizer.step()
        if step == 0:
            assert float((x.detach() - 1).abs().mean()) == pytest.approx(0.02, rel=1e-4)
    torch.testing.assert_close(x.detach(), torch.full((12,), 3.0), atol=1e-3, rtol=0)


def test_no_step_of_lbfgs_is_longer_than_its_largest():
    x = nn.Parameter(torch.zeros(8))
    optimizer, before = LBFGS([x], first=0.02, largest=0.1), x.detach().clone()
    for _ in range(5):  # of a loss that falls without end, ever less steeply
        x.grad = -1 / (1 + x.detach())
        optimizer.step()
        assert float((x.detach() - before).abs().mean()) <= 0.1 + 1e-5
        before = x.detach().clone()
    assert float(x.detach().mean()) > 0.25


def test_an_lbfgs_canvas_resumes_to_the_bit_at_every_size(features):
    def engine() -> Engine:
        canvas = canvas_of(features, tensor(48, 64), [tensor(40, 40, 1)], RECIPE, [1.0])
        return Engine(canvas, canvas.stages(), NoData(1, 0), Precision(torch.device("cpu"), False, ""), ema=0.9)

    def parted(at: int) -> Engine:
        first, second = engine(), engine()
        walk(first, 3, end=at)
        second.model.load_state_dict(first.model.state_dict())
        second.ema.load_state_dict(first.ema.state_dict())
        second.load_state(first.state())
        walk(second, 3, first=at)
        return second

    through = engine()
    walk(through, 3)
    for at in (2, 3, 5):
        states = state_of(through), state_of(parted(at))
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_adam_s_moments_go_on_at_the_next_size(features):
    recipe = replace(RECIPE, optimizer="adam", first_size=45)
    canvas = canvas_of(features, tensor(48, 64), [tensor(40, 40, 1)], recipe, [1.0])
    trainer = Engine(canvas, canvas.stages(), NoData(1, 0), Precision(torch.device("cpu"), False, ""), ema=0)
    walk(trainer, 2, end=3)
    (state,) = trainer.stages[1].optimizers[0].state.values()
    assert float(state["step"]) == 3 and state["exp_avg"].shape == (1, 3, 48, 64)


# Images of every kind


def files(folder, name: str):
    """A photograph file of a kind, and its (H, W)."""
    arrays = {
        "wide": picture(40, 96),
        "grey": picture(48, 40)[..., 0],
        "tiny": picture(16, 16),
        "rgba": np.concatenate([picture(40, 48), picture(40, 48, 2)[..., :1]], 2),
        "deep": picture(40, 44)[..., 0].astype(np.uint16) * 257,
        "dot": picture(1, 1),
    }
    Image.fromarray(arrays[name]).save(folder / f"{name}.png")
    return folder / f"{name}.png", arrays[name].shape[:2]


@pytest.mark.parametrize("kind", ["wide", "grey", "tiny", "rgba", "deep", "dot"])
def test_a_photograph_of_any_kind_keeps_its_shape(tmp_path, of_chance, kind):
    path, shape = files(tmp_path, kind)
    images = rv.stylize(path, picture(33, 40, 1), **QUICK)
    assert images.shape == (1, *shape, 3) and images.origin["verb"] == "stylize"


def test_size_is_that_of_the_longer_side(of_chance):
    assert rv.stylize(picture(20, 40), picture(40, 40, 1), size=64, **QUICK).shape == (1, 32, 64, 3)


def test_kept_colours_are_the_photograph_s(of_chance):
    photo = (picture(40, 48) // 4 + 96).astype(np.uint8)  # no colour at the edge of the range
    result = rv.stylize(photo, picture(40, 40, 1) // 4 + 96, keep_color=True, **QUICK).array[0]
    luma = np.array(LUMA)
    chroma = [image - (image @ luma)[..., None] for image in (photo.astype(float), result.astype(float))]
    assert np.abs(chroma[0] - chroma[1]).max() <= 1.0 and (result != photo).any()


def test_frames_show_the_image_in_its_final_shape_and_the_last_is_the_result(of_chance):
    frames = list(style.stream(picture(48, 64), picture(40, 40, 1), **QUICK))
    assert [frame.render()["image"].shape for frame in frames] == [(1, 3, 48, 64)] * 4 and frames[-1].progress == 1
    images = rv.stylize(picture(48, 64), picture(40, 40, 1), **QUICK)
    assert np.array_equal(style.to_images(frames[-1].render()["image"]).array, images.array)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blend": [0.5, 0.5]}, "blend must be a number for each of the 1 styles"),
        ({"mask": [picture(8, 8)] * 2}, "mask must be one image for two styles"),
        ({"recipe": "slow"}, "recipe must be fast or plain"),
        ({"net": "vgg61"}, "net must be vgg16 or vgg19"),
        ({"step": 3}, 'Did you mean "steps"'),
        ({"content_layer": "relu9_9"}, "has no layer 'relu9_9'"),
        ({"size": 0}, "size must be at least 1"),
        ({"steps": 0}, "steps of stylize must be at least 1"),
        ({"content_weight": float("nan")}, "content_weight of stylize must be a finite number"),
        ({"memory": 0.5}, "Raise memory"),
        ({"optimizer": "adamw"}, "optimizer of stylize must be"),
        ({"blend": [0]}, "one above 0"),
        ({"blend": "half"}, "blend must be a finite number"),
        ({"recipe": None}, "recipe must be fast or plain, not None"),
        ({"recipe": replace(RECIPE, steps="many")}, "steps of stylize must be"),
        ({"layer_weights": (0,) * 5}, "layer_weights must be above 0 for at least one layer"),
        ({"lr": 1e30}, "lr of stylize must be above 0 and at most"),
        ({"net": 5}, "net must be the name of a network, a run, or a model, not 5"),
        ({"watch": 5}, "watch must be a function"),
    ],
)
def test_wrong_arguments_are_named(of_chance, options, words):
    with pytest.raises(UsageError, match=words):
        rv.stylize(picture(32, 32), picture(32, 32, 1), **options)


def test_one_style_may_have_its_share_as_a_number(of_chance):
    one, listed = (rv.stylize(picture(32, 32), picture(32, 32, 1), blend=blend, **QUICK) for blend in (5, [0.5]))
    assert np.array_equal(one, listed)


def test_what_to_name_is_said_where_a_style_is_missing_or_a_folder_is_to_be_painted(tmp_path, capsys):
    Image.fromarray(picture(32, 32)).save(tmp_path / "photo.png")
    painted = [str(tmp_path), "a.png", "--out", str(tmp_path / "painted")]
    for words, message in (
        ([str(tmp_path / "photo.png")], "There is no style: name images"),
        (painted, "is a folder; only a"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["stylize", *words])
        error = capsys.readouterr().err
        assert message in error and "--net" in error and "--styles" not in error


def test_an_image_that_diverges_is_an_error_with_advice_for_images(of_chance, monkeypatch):
    monkeypatch.setattr(style_canvas, "total_variation", lambda image: image * math.inf)
    with pytest.raises(ReverieError, match=r"diverged at step 1: its loss is nan\. Try a lower lr, ") as error:
        rv.stylize(picture(32, 32), picture(32, 32, 1), **QUICK)
    assert "warmup" not in str(error.value) and "clip" not in str(error.value)


def test_advice_on_memory_names_options_of_the_verb(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise MemoryError("of 9 bytes")

    monkeypatch.setattr(style, "stylize", full)
    with pytest.raises(SystemExit, match="1"):
        main(["stylize", "photo.png", "a.png", "--out", str(tmp_path / "out.png")])
    assert "out of memory (of 9 bytes). Take a smaller --size or --memory.\n" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_image_as_it_is(tmp_path, of_chance, monkeypatch, capsys, number):
    names = [str(tmp_path / name) for name in ("photo.png", "a.png", "out.png", "film.webp")]
    for seed, name in enumerate(names[:2]):
        Image.fromarray(picture(48, 64, seed)).save(name)
    paint, frames = style.paint, []

    def interrupted(*arguments):
        for frame in paint(*arguments):
            frames.append(frame)
            yield frame
            if len(frames) == 2:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(style, "paint", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(["stylize", *names[:2], "--out", names[2], "--film", names[3], "--steps", "30", "--precision", "fp32"])
    assert origin_of(tmp_path / "out.png")["stopped"] == f"step 2 of {round(2 / frames[1].progress)}"
    expected = style.to_images(style.resized(frames[1].render()["image"], (48, 64)))
    assert np.array_equal(np.asarray(Image.open(names[2])), expected.array[0])
    output = capsys.readouterr()
    assert output.out.startswith("Stopped at step 2 of") and output.err.endswith("stylize: interrupted.\n")
    assert Image.open(names[3]).size == (3 * 64, 3 * 48)


def test_transparency_is_kept_where_the_format_has_it_and_named_where_not(tmp_path, of_chance):
    path, (height, width) = files(tmp_path, "rgba")
    images = rv.stylize(path, picture(33, 40, 1), **QUICK)
    images.save(tmp_path / "out.png")
    expected = np.asarray(Image.open(path).getchannel("A"))
    assert images.shape[3] == 3 and np.array_equal(Image.open(tmp_path / "out.png").getchannel("A"), expected)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png"))[..., :3], images.array[0])
    assert rv.stylize(images, picture(33, 40, 1), size=24, **QUICK).pil[0].mode == "RGBA"
    with pytest.raises(UsageError, match=r"alpha must be uint8 \(1, 40, 48\)"):
        Images(images.array, alpha=expected)
    with pytest.warns(UserWarning, match=r"out.jpg has no transparency"):
        images.save(tmp_path / "out.jpg")
    assert Image.open(tmp_path / "out.jpg").mode == "RGB"
    assert rv.stylize(picture(height, width), picture(33, 40, 1), **QUICK).alpha is None


def test_the_command_writes_an_image_with_its_origin_and_a_film(tmp_path, of_chance, capsys):
    names = [str(tmp_path / name) for name in ("photo.png", "a.png", "b.png", "out.png", "film.webp")]
    for seed, name in enumerate(names[:3]):
        Image.fromarray(picture(40, 48, seed)).save(name)
    arguments = ["stylize", *names[:3], "--blend", "0.7", "0.3", "--steps", "2", "--out", names[3], "--film", names[4]]
    with pytest.raises(SystemExit) as status:
        main([*arguments, "--precision", "fp32"])
    assert status.value.code == 0, capsys.readouterr().err
    assert Image.open(names[3]).size == (48, 40) and origin_of(tmp_path / "out.png")["blend"] == [0.7, 0.3]
    assert Image.open(names[4]).n_frames >= 2
