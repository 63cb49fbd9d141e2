"""Style transfer in one pass: statistics, losses and strength have exact values; images keep their size."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.cli import main
from reverie.commands import make
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.errors import ReverieError, Stopped, UsageError, of_argument
from reverie.core.noise import Noise
from reverie.dreaming.fast_style import Painter, is_run, refuse_slow, stylize_into
from reverie.media.films import read_film
from reverie.media.origin import origin_of
from reverie.models.stylization.encoders import LAYERS, activations, prepare_encoder, statistics, style_image
from reverie.nets.perceptual import adain, content_loss, gram, mean_std, relative_error, style_loss
from reverie.nets.stylization import MARGIN, StyleNet, cropped, padded
from reverie.training.progress import speed
from reverie.workflow.again import rerun
from reverie.workflow.train import train

STYLES = Path(__file__).parent / "styles"
SMALL = {"encoder": "small", "width": 8}
STYLE_NET = SMALL | {"style": str(STYLES / "checks.png"), "style_size": 16, "depth": 1}
ADAIN = SMALL | {"styles": str(STYLES), "views": 16}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def painter():
    """An AdaIN with a table of styles, in float64."""
    torch.manual_seed(0)
    model = registry.build("adain", shape=32, channels=3, **ADAIN)
    with torch.no_grad():
        model.measure_styles()
    return model.double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def runs(bars, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    styles = folder / "styles"
    shutil.copytree(STYLES, styles)
    shared = {"steps": 3, "batch_size": 4, "quiet": True}
    one = train("style-net", bars, out=folder / "one", **shared, **STYLE_NET | {"style": str(styles / "checks.png")})
    any_ = train("adain", bars, out=folder / "any", **shared, **ADAIN | {"styles": str(styles)})
    shutil.rmtree(styles)
    return {"one": shutil.move(one.path, folder / "moved"), "any": any_.path}


# Statistics and losses


def test_adain_has_exactly_the_mean_and_deviation_of_the_style():
    content, style = noise(2, 5, 7, 9).double() * 3 + 1, noise(2, 5, 4, 6, seed=1).double() - 2
    for actual, expected in zip(mean_std(adain(content, *mean_std(style))), mean_std(style), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert torch.allclose(adain(content, *mean_std(content)), content, atol=1e-12)


def test_a_constant_channel_takes_the_mean_of_the_style():
    flat = adain(torch.full((1, 1, 4, 4), 3.0), *mean_std(noise(1, 1, 5, 5)))
    torch.testing.assert_close(flat, noise(1, 1, 5, 5).mean().expand(1, 1, 4, 4))


def test_relative_errors_have_no_unit_and_belong_to_rows():
    x, y = noise(3, 4, 5, 5), noise(3, 4, 5, 5, seed=1)
    expected = [((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(relative_error(x, y), torch.stack(expected))
    torch.testing.assert_close(relative_error(100 * x, 100 * y), relative_error(x, y))
    assert relative_error(2 * y, y).tolist() == pytest.approx([1, 1, 1])


def test_the_losses_of_style_net_are_relative_errors_of_the_slow_method_s_features():
    model = registry.build("style-net", shape=32, channels=3, **STYLE_NET | {"temporal_weight": 1.0})
    with torch.no_grad():
        model.measure_style()
        batch = Batch({"x": noise(2, 3, 32, 32)})
        outputs = model.paint(batch)
        metrics = model.loss(batch, outputs)
        style = style_image(STYLE_NET["style"], 3, "style", 16)
        layers = LAYERS["small"]
        grams = {name: gram(x) for name, x in activations("small", style, layers).items()}
        features = activations("small", outputs["painted"], layers)
        content = activations("small", batch["x"], ["layers.5"])
    torch.testing.assert_close(metrics["style"], style_loss(features, grams).mean())
    torch.testing.assert_close(metrics["content"], content_loss(features, content).mean())
    terms = {"content": 1.0, "style": model.terms.style_weight, "tv": model.terms.tv_weight, "temporal": 1.0}
    torch.testing.assert_close(metrics["loss"], sum(weight * metrics[name] for name, weight in terms.items()))


def test_the_temporal_loss_of_a_network_that_moves_with_its_image_is_the_noise_alone():
    model = registry.build("style-net", shape=32, channels=3, **STYLE_NET)
    model.net = torch.nn.Identity()
    x = torch.zeros(4, 3, 32, 32)
    assert model.temporal_loss(x, x, Noise.of_seeds(range(4))).item() == pytest.approx(0.05**2, rel=0.05)


# Networks


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (37, 53), (64, 40)])
def test_the_size_of_a_result_is_that_of_its_image(shape, painter):
    net = StyleNet(3, 8, 1).double()
    assert net(noise(2, 3, *shape).double()).shape == (2, 3, *shape)
    assert painter.stylize(noise(2, 3, *shape).double()).shape == (2, 3, *shape)
    wide = padded(noise(1, 3, *shape))
    assert wide.shape[2] % 8 == wide.shape[3] % 8 == 0 and min(wide.shape[2:]) >= min(shape) + 2 * MARGIN
    assert torch.equal(cropped(wide, shape), noise(1, 3, *shape))


def test_instance_normalisation_does_not_mix_images():
    net, x = StyleNet(3, 8, 2), noise(3, 3, 33, 40)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        torch.testing.assert_close(net(x)[1:2], net(x[1:2]))
        patches = net.stem(padded(x))
        twice = net.coarse(2 * patches)  # the next normalisation removes a common factor
        torch.testing.assert_close(twice, net.coarse(patches), rtol=1e-3, atol=1e-3)


def test_adain_trains_and_paints_at_sides_that_are_no_multiples_of_8():
    model = registry.build("adain", shape=(20, 13), channels=3, **ADAIN)
    batch = Batch({"x": noise(2, 3, 20, 13), "rng": Noise.of_seeds(range(2))})
    with torch.no_grad():
        model.measure_styles()
        assert model.reconstruction_loss(batch, {})["loss"].isfinite()
        assert model.loss(batch, model.paint(batch))["loss"].isfinite()
        assert model.features(batch["x"]).shape == (2, 3, 24, 16)


def test_styles_are_measured_before_the_first_step_and_a_long_image_of_a_style_is_bounded(tmp_path):
    for name, options in (("adain", ADAIN), ("style-net", STYLE_NET)):
        model = registry.build(name, shape=32, channels=3, **options)
        for first, *others in (model.stages(reconstruction=share) for share in (0.2, 0)):
            assert first.prepare and not any(stage.prepare for stage in others)
    Image.new("RGB", (20_000, 2)).save(tmp_path / "long.png")
    assert style_image(tmp_path / "long.png", 3, "style", 512).numel() < 3 * 5_000_000


def test_without_weights_an_encoder_that_needs_none_is_named(monkeypatch):
    def no_weights(*_, **__):
        raise ReverieError("no network")

    monkeypatch.setattr("reverie.models.stylization.encoders.networks.features", no_weights)
    with pytest.raises(ReverieError, match="no network\nencoder='small' needs no download"):
        prepare_encoder("vgg19", torch.zeros(1, dtype=torch.float16))


# Any style


def test_strength_0_reconstructs_the_image_and_styles_mix_in_their_shares(painter):
    x, styles = noise(1, 3, 40, 32).double(), painter.style(noise(2, 3, 32, 32, seed=3).double())
    plain = cropped(painter.decoder(painter.content(padded(x))), x.shape[2:]).clamp(-1, 1)
    torch.testing.assert_close(painter.stylize(x, styles[:1], 0.0), plain)
    torch.testing.assert_close(painter.stylize(x, painter.style(x)).shape, x.shape)
    content = painter.content(x)
    mixed = painter.with_style(content, 0.25 * styles[:1] + 0.75 * styles[1:])
    apart = [painter.with_style(content, style[None]) for style in styles]
    torch.testing.assert_close(mixed, 0.25 * apart[0] + 0.75 * apart[1])
    only = painter.with_style(content, 1.0 * styles[:1] + 0.0 * styles[1:])
    torch.testing.assert_close(only, apart[0])


def test_a_style_is_the_statistics_of_its_layers(painter):
    image = noise(1, 3, 32, 32).double()
    features = activations("small", image, LAYERS["small"])
    assert torch.equal(painter.style(image), statistics(features))
    for part, x in zip(painter.of_layers(painter.style(image)), features.values(), strict=True):
        assert torch.equal(part, torch.cat([value.flatten(1) for value in mean_std(x)], 1))
    table = painter.styles
    assert len(table) == 16 and table.isfinite().all() and len(table.unique(dim=0)) == 16


def test_a_translation_in_a_random_style_is_the_same_at_every_call(painter):
    x, rng = noise(3, 3, 16, 16).double(), Noise.of_seeds(range(3))
    first = painter.translate(x, rng)
    assert torch.equal(first, painter.translate(x, rng)) and not torch.equal(first, painter.translate(x, rng, 0.5))


# Runs


def test_a_run_needs_its_style_no_more_and_paints_images_of_any_kind_at_their_size(runs, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    painted = Painter(runs["one"]).paint(pixels)
    assert painted.shape == (1, 37, 53, 1) and painted.dtype == np.uint8
    styles = [str(STYLES / "checks.png"), Image.open(STYLES / "waves.png")]
    many = Painter(runs["any"], styles, blend=[3, 1], strength=0.5, keep_color=True)
    assert many.paint(Image.fromarray(pixels[..., 0]), size=20).shape == (1, 14, 20, 1)
    assert many.origin["verb"] == "stylize" and many.origin["strength"] == 0.5
    assert rv.load(runs["any"]).style(noise(1, 1, 16, 16)).shape == (1, 640)


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ("one", {"styles": "x.png"}, "an image of a style is for adain"),
        ("one", {"strength": 0.5}, "strength is for adain"),
        ("any", {}, "name at least one image of a style"),
        (
            "any",
            {"styles": [str(STYLES / "waves.png")], "blend": [1, 2]},
            "blend must be a number for each of the 1",
        ),
        ("any", {"styles": [str(STYLES / "waves.png")], "strength": 2}, "strength must be from 0 to 1"),
    ],
)
def test_what_a_network_cannot_paint_is_refused_by_name(runs, run, options, message):
    with pytest.raises(UsageError, match=message):
        Painter(runs[run], **options)


def test_a_style_is_looked_at_before_a_run_exists(bars, tmp_path):
    for style, message in (
        ("", "style-net needs style: an image file"),
        (tmp_path / "no.png", "no image file"),
        (STYLES, "is a folder"),
    ):
        with pytest.raises(UsageError, match=message):
            train("style-net", bars, out=tmp_path / "run", steps=1, quiet=True, **STYLE_NET | {"style": str(style)})
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(ReverieError, match="truncated"):
        train("adain", bars, out=tmp_path / "run", steps=1, quiet=True, **ADAIN | {"styles": str(tmp_path)})
    assert not (tmp_path / "run").exists()


def test_folders_are_continued_and_films_keep_their_length(runs, tmp_path):
    out = tmp_path / "out"
    assert stylize_into(out, STYLES, runs["one"]) == 2 and stylize_into(out, STYLES, runs["one"]) == 0
    (out / "waves.png").unlink()
    assert stylize_into(out, STYLES, runs["one"]) == 1
    assert {file.name for file in out.iterdir()} == {"checks.png", "waves.png", "reverie.json"}
    assert Image.open(out / "waves.png").size == Image.open(STYLES / "waves.png").size
    frames = [Image.fromarray(image) for image in np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), np.uint8)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:], duration=200)
    assert stylize_into(tmp_path / "out.webp", tmp_path / "in.gif", runs["one"]) == 3
    film = read_film(tmp_path / "out.webp")
    assert film is not None and film.frames == 3 and film.seconds == pytest.approx(0.6)
    assert read_film(STYLES / "waves.png") is None


def test_an_interrupted_film_keeps_its_frames_and_their_durations(runs, tmp_path, monkeypatch):
    film(tmp_path / "in.gif")
    paint, painted = Painter.paint, []

    def interrupted(self, *arguments):
        if len(painted) == 2:
            raise KeyboardInterrupt
        painted.append(paint(self, *arguments))
        return painted[-1]

    monkeypatch.setattr(Painter, "paint", interrupted)
    with pytest.raises(Stopped) as stop:
        stylize_into(tmp_path / "out.webp", tmp_path / "in.gif", runs["one"])
    kept = read_film(tmp_path / "out.webp")
    assert stop.value.result == kept.frames == 2 and kept.durations == (50, 500)
    assert origin_of(tmp_path / "out.webp")["stopped"] == "frame 2 of 3"


def test_a_folder_that_is_painted_already_is_named_as_such(runs, tmp_path, capsys):
    shutil.copytree(STYLES, tmp_path / "photos")
    for more in (False, False, True):
        if more:
            shutil.copy(STYLES / "waves.png", tmp_path / "photos" / "zebra.png")
        with pytest.raises(SystemExit, match="0"):
            main(["stylize", str(tmp_path / "photos"), "--net", str(runs["one"]), "--out", str(tmp_path / "out")])
    first, again, grown = capsys.readouterr().out.splitlines()
    assert first.startswith("2 images in the style of ") and first.endswith("out")
    assert again.startswith("2 images in") and again.endswith("out already; nothing was left to do")
    assert grown.startswith("3 images in") and grown.endswith("out, 2 of them from before")


def test_the_device_of_a_run_is_the_one_that_is_named(runs, tmp_path, capsys):
    with pytest.raises(UsageError, match="abacus"):
        rv.stylize(str(STYLES / "waves.png"), net=runs["one"], device="abacus")
    with pytest.raises(SystemExit, match="2"):
        main(["stylize", str(STYLES / "waves.png"), "--net", str(runs["one"]), "--device", "abacus", "--out", "x.png"])
    assert "abacus" in capsys.readouterr().err


def test_a_transparent_image_stays_transparent_in_one_pass(runs):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    painted = Painter(runs["one"]).paint(pixels)
    assert painted.shape == (1, 20, 30, 1) and np.array_equal(painted.alpha[0], pixels[..., 3])
    assert painted.pil[0].mode == "LA" and painted[:1].alpha is not None


def test_a_style_is_looked_at_before_data_is_prepared(tmp_path):
    for options, message in (({"style": "no.png"}, "style: .*no image file"), ({}, "style-net needs style")):
        with pytest.raises(UsageError, match=message):
            train("style-net", tmp_path / "no data", out=tmp_path / "run", quiet=True, **options)


def test_a_rerun_needs_the_same_images_of_styles(bars, tmp_path):
    shutil.copytree(STYLES, tmp_path / "styles")
    how = ADAIN | {"styles": str(tmp_path / "styles")}
    run = train("adain", bars, out=tmp_path / "run", steps=1, batch_size=2, quiet=True, **how)
    again = rerun(run.path, out=tmp_path / "again", quiet=True)
    assert again.info["files"] == run.info["files"] and len(run.info["files"]["styles"]) == 64
    shutil.copy(STYLES / "waves.png", tmp_path / "styles" / "checks.png")
    with pytest.raises(ReverieError, match="hash differs"):
        rerun(run.path, out=tmp_path / "third", quiet=True)
    assert not (tmp_path / "third").exists()


def test_a_slow_speed_has_two_digits():
    rates = {0.3: "0.3", 0.0123: "0.012", 9.94: "9.9", 10.2: "10", 1234.6: "1,235"}
    assert {rate: speed(rate) for rate in rates} == {rate: f"{text} images/s" for rate, text in rates.items()}


def test_the_next_command_after_training_a_style_paints_a_photograph(tmp_path, capsys):
    info = {"status": "finished", "verbs": ["translate", "stylize"], "card": {}}
    info["result"] = {"seconds": 1.0, "images_per_second": 2.0, "steps": 3}
    make.end_of(SimpleNamespace(path=tmp_path / "run", info=info), False)
    assert "Next: reverie stylize PHOTO [STYLE ...] --net" in capsys.readouterr().out


def film(path, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), np.uint8)
    first, *others = map(Image.fromarray, pixels)
    first.save(path, save_all=True, append_images=others, duration=[50, 500, 100], **options)


@pytest.fixture
def content(tmp_path):
    """A folder of two images beside a film and a text of the user."""
    shutil.copytree(STYLES, tmp_path / "photos")
    film(tmp_path / "in.gif")
    (tmp_path / "mine.webp").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("out", "source", "options", "message"),
    [
        ("in.gif", "in.gif", {"overwrite": True}, "is an input"),
        ("mine.webp", "in.gif", {}, "did not write it"),
        ("new.png", "in.gif", {}, "is no film"),
        ("new.gif", "photos", {}, "a folder"),
        ("new", "photos/waves.png", {}, "an image"),
        ("photos", "photos", {}, "is an input"),
        ("new", "photos", {"overwrite": "no"}, "overwrite must be True or False"),
        ("new", "photos", {"size": 0}, "size must be"),
        ("new", "photos", {"steps": 3}, "no option steps"),
        ("new", "none", {}, "no image file"),
    ],
)
def test_a_target_is_checked_before_the_work_and_files_of_others_stay(runs, content, out, source, options, message):
    def files():
        return {file: file.read_bytes() for file in content.rglob("*") if file.is_file()}

    before = files()
    with pytest.raises(UsageError, match=message):
        stylize_into(content / out, content / source, runs["one"], **options)
    assert files() == before and not (content / "new").exists()


def test_results_of_other_options_stay_and_another_image_is_added_to_them(runs, content):
    out = content / "out"
    assert stylize_into(out, content / "photos", runs["one"]) == 2
    times = {file: file.stat().st_mtime_ns for file in out.glob("*.png")}
    with pytest.raises(UsageError, match=r"size was None and is 16 now.*, or overwrite to replace them"):
        stylize_into(out, content / "photos", runs["one"], size=16)
    shutil.copy(STYLES / "waves.png", content / "photos" / "zebra.png")
    (out / ".aside-abcdefgh.png").touch()
    assert stylize_into(out, content / "photos", runs["one"]) == 1
    assert times == {file: file.stat().st_mtime_ns for file in times} and len(list(out.iterdir())) == 4
    assert len(origin_of(out)["images"]) == 3
    assert stylize_into(out, content / "photos", runs["one"], size=16, overwrite=True) == 3
    Image.new("RGB", (8, 8)).save(out / "mine.png")
    shutil.copy(STYLES / "waves.png", content / "photos" / "mine.png")
    with pytest.raises(UsageError, match="is not of"):
        stylize_into(out, content / "photos", runs["one"], size=16, overwrite=True)
    assert Image.open(out / "mine.png").size == (8, 8)


def test_a_bad_image_of_a_folder_is_named_when_the_others_are_painted_and_equal_names_do_not_meet(runs, content):
    photos = content / "photos"
    (photos / "bad.png").write_bytes(b"no image")
    Image.open(STYLES / "waves.png").convert("RGB").save(photos / "WAVES.jpg")
    with pytest.raises(ReverieError, match=r"3 of 4 images are in .*\n.*bad\.png cannot be used") as error:
        stylize_into(content / "out", photos, runs["one"])
    assert "skipped" not in str(error.value)
    assert {file.name for file in (content / "out").glob("*.png")} == {
        "WAVES.jpg.png",
        "checks.png.png",
        "waves.png.png",
    }


@pytest.mark.parametrize(("out", "plays"), [("out.gif", 1), ("out.webp", 1), ("again.gif", 3), ("again.webp", 3)])
def test_a_stylised_film_has_the_size_the_durations_and_the_loops_of_its_source(runs, content, out, plays):
    if plays == 3:
        film(content / "in.gif", loop=plays - 1)
    stylize_into(content / out, content / "in.gif", runs["one"])
    painted = read_film(content / out)
    assert painted.durations == (50, 500, 100) and painted.plays == plays and next(iter(painted)).shape == (12, 20, 3)


def test_an_argument_is_named_in_the_first_line_of_an_error_of_several():
    with pytest.raises(ReverieError) as error, of_argument("styles"):
        raise ReverieError("no network", "Try again.")
    assert str(error.value) == "styles: no network\nTry again."


def test_a_damaged_film_is_an_error_of_one_line(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    for data in (b"", b"no film" * 99):
        (tmp_path / "film.mp4").write_bytes(data)
        with pytest.raises(ReverieError, match=r"film\.mp4 cannot be read.*") as error:
            read_film(tmp_path / "film.mp4")
        assert "\n" not in str(error.value)


def test_a_value_of_0_and_a_path_without_a_run_are_refused_and_one_share_is_a_number(runs):
    with pytest.raises(UsageError, match="lr is for the slow method"):
        refuse_slow({"mask": (), "lr": 0.0})
    with pytest.raises(UsageError, match="mask is for the slow method"):
        refuse_slow({"mask": np.zeros((2, 2), np.uint8)})
    with pytest.raises(UsageError, match="there is no nope/x"):
        is_run("nope/x")
    assert Painter(runs["any"], [str(STYLES / "waves.png")], blend=0.5).style.shape == (1, 640)
    with pytest.raises(UsageError, match="blend must be a number for each of the 2 styles"):
        Painter(runs["any"], [str(STYLES / "waves.png")] * 2, blend=0.5)
