"""RGBA: straight in files and arrays, premultiplied in models, on a background where a network sees RGB."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.adversarial.augmentation import adaptive, diffaugment
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.registry import build
from reverie.data import provenance
from reverie.data.augment import Augment
from reverie.media import Spec, alpha, montage
from reverie.media.colour import solid, with_channels
from reverie.media.medium import to_float, to_uint8
from reverie.models.autoencoders import perceptual
from reverie.restoration import operators
from reverie.workflow.train import train

COLOURS, OPACITIES = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
EVERY = np.stack([COLOURS, 255 - COLOURS, COLOURS, OPACITIES], -1).astype(np.uint8)[None]  # (1, 256, 256, 4)
SIZE = 16


def sprites(count=80, size=SIZE, shade=None, hidden=0) -> np.ndarray:
    """Discs with soft edges, uint8 (N, size, size, 4).

    Args:
        shade: of all; by default each has its own.
        hidden: value of the colours of transparent pixels.
    """
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:size, :size] / size
    rows = np.full((count, size, size, 4), hidden, np.uint8)
    for row in rows:
        (top, left), radius = rng.uniform(0.3, 0.7, 2), rng.uniform(0.2, 0.4)
        opacity = np.clip(size * (radius - np.hypot(y - top, x - left)) + 0.5, 0, 1)
        row[opacity > 0, :3] = rng.integers(30, 256, 3) if shade is None else shade
        row[..., 3] = np.rint(255 * opacity)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sprites")
    for number, row in enumerate(sprites()):
        Image.fromarray(row).save(path / f"{number:02}.png")
    return path


@pytest.fixture(scope="module")
def data(folder):
    return rv.open_data(folder, channels=4)


# Values


def test_stored_colours_survive_premultiplication_and_look_the_same_on_any_background():
    kept = alpha.canonical(EVERY)
    assert (alpha.canonical(kept) == kept).all() and (kept[EVERY[..., 3] == 0] == 0).all()
    for background in ((255, 255, 255), (0, 0, 0), (10, 200, 90)):
        difference = alpha.composited(kept, background).astype(int) - alpha.composited(EVERY, background)
        assert abs(difference).max() <= 1


def test_models_see_premultiplied_levels_and_storage_gets_back_the_very_rows():
    kept, x = alpha.canonical(EVERY), to_float(EVERY)
    levels = ((x + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.allclose(levels, alpha.premultiplied(EVERY), atol=1e-4)
    assert (to_uint8(x) == kept).all() and (to_uint8(to_float(kept)) == kept).all()


def test_a_colour_beyond_its_opacity_is_clipped():
    x = torch.tensor([1.0, 0.0, -1.0, 0.0]).view(1, 4, 1, 1)  # premultiplied red 255 at opacity 128
    assert to_uint8(x).ravel().tolist() == [255, 255, 0, 128]


def test_on_a_background_a_models_images_are_what_the_stored_ones_are():
    for background in ((255, 255, 255), (10, 200, 90)):
        visible = to_uint8(solid(to_float(EVERY), background)).astype(int)
        assert abs(visible - alpha.composited(EVERY, background)).max() <= 1


def test_channels_agree_from_and_to_rgba():
    image = to_float(sprites(4))
    assert torch.equal(with_channels(image, 3), solid(image))
    opaque = with_channels(solid(image), 4)
    assert torch.equal(opaque[:, :3], solid(image)) and (opaque[:, 3] == 1).all()


# Intake


def test_folders_arrays_and_pillow_images_give_the_same_rows(folder, data):
    images = [Image.open(path) for path in sorted(folder.iterdir())]
    opened = [data, rv.open_data(sprites(), channels=4), rv.open_data(images, channels=4)]
    rows = [np.concatenate([each.train["x"], each.held_out["x"]]) for each in opened]
    expected = sorted(row.tobytes() for row in alpha.canonical(sprites()))
    assert all(sorted(row.tobytes() for row in each) == expected for each in rows)
    assert data.spec.channels == 4 and "rgba" not in data.report.counts()


def test_no_hidden_colour_bleeds_when_images_are_resized(tmp_path):
    for number, row in enumerate(sprites(12, 64, shade=(255, 0, 0))):
        row[row[..., 3] == 0] = (0, 255, 0, 0)
        Image.fromarray(row).save(tmp_path / f"{number}.png")
    for fit in ("crop", "pad"):
        for size in (16, (24, 16)):
            rows = rv.open_data(tmp_path, size, channels=4, fit=fit).train["x"]
            assert rows[..., 1:3].max() == 0 and (rows[rows[..., 3] > 16][:, 0] > 250).all()
    assert (rows[:, :4] == 0).all()  # the padding is transparent


def test_images_without_transparency_are_opaque_and_named(tmp_path):
    for number, row in enumerate(sprites(12)):
        Image.fromarray(row).save(tmp_path / f"{number}.png")
    grey = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey, grey // 2], -1)).save(tmp_path / "grey-alpha.png")
    data = rv.open_data(tmp_path, channels=4)
    rows = dict(zip([*data.train.names, *data.held_out.names], [*data.train["x"], *data.held_out["x"]], strict=True))
    assert (rows["grey.png"] == np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)).all()
    assert (rows["grey-alpha.png"][..., 3] == grey // 2).all()
    assert [problem.file for problem in data.report.problems if problem.kind == "opaque"] == ["grey.png"]


def test_shapes_of_one_colour_are_no_near_duplicates(tmp_path):
    for name, shade in (("black", (0, 0, 0)), ("white", (255, 255, 255)), ("grey", (128, 128, 128))):
        (tmp_path / name).mkdir()
        for number, row in enumerate(sprites(20, shade=shade)):
            Image.fromarray(row).save(tmp_path / name / f"{number}.png")
        assert "near-duplicate" not in rv.open_data(tmp_path / name, channels=4).report.counts()


def test_both_sides_of_pairs_are_rgba_and_provenance_reopens_them(tmp_path):
    for side, rows in (("A", sprites(12, shade=(0, 0, 0))), ("B", sprites(12))):
        (tmp_path / side).mkdir()
        for number, row in enumerate(rows):
            Image.fromarray(row).save(tmp_path / side / f"{number}.png")
    data = rv.open_data(tmp_path, channels=4)
    assert data.train["x"].shape[-1] == data.train["source"].shape[-1] == 4
    again = provenance.reopen(data.provenance)
    assert again.fingerprint == data.fingerprint and again.spec.channels == 4
    assert provenance.open_like(tmp_path / "A", data.provenance).spec == data.spec


def test_clips_have_no_transparency():
    clips = np.zeros((12, 3, 8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match=r"must be 1 \(grey\) or 3 \(RGB\), not 4"):
        rv.open_data(clips, medium="video", channels=4)


def test_by_default_transparency_is_composited_and_the_report_names_the_option(call, folder):
    code, out, _ = call("data", folder)
    assert code == 0 and "16x16x3" in out
    assert "80 rgba: converted: composited on background (255, 255, 255); --channels 4 keeps the transparency" in out
    code, out, _ = call("data", folder, "--channels", 4)
    assert code == 0 and "16x16x4" in out and "rgba" not in out
    assert "--channels 4" in out.splitlines()[-1]


# Augmentation


def rng(count: int) -> Noise:
    return Noise.of_seeds(range(count))


def test_opaque_images_are_augmented_as_rgb_ones():
    rgb = solid(to_float(sprites(6)))
    rgba = with_channels(rgb, 4)
    for augment in (
        lambda x: Augment(flip=True, color=0.4)({"x": x}, rng(6))["x"],
        lambda x: adaptive(x, rng(6), torch.tensor(0.9)),
    ):
        augmented = augment(rgba)
        assert torch.allclose(augmented[:, :3], augment(rgb), atol=1e-5)
        assert torch.allclose(augmented[:, 3], torch.ones(()), atol=1e-5)
    views, empty = diffaugment(rgba, rng(6)), torch.tensor([-1.0, -1.0, -1.0, -1.0]).view(4, 1)
    seen = views[:, 3] > 0
    assert torch.allclose(views[:, :3].movedim(1, -1)[seen], diffaugment(rgb, rng(6)).movedim(1, -1)[seen], atol=1e-5)
    assert 0.2 < seen.float().mean() < 0.8 and torch.allclose(views.movedim(1, 0)[:, ~seen], empty, atol=1e-5)


def test_colour_changes_leave_opacity_and_transparent_pixels_alone():
    x = to_float(sprites(6))
    changed = Augment(color=0.5)({"x": x}, rng(6))["x"]
    assert torch.allclose(changed[:, 3], x[:, 3], atol=1e-6) and not torch.allclose(changed, x, atol=0.05)
    assert (changed[:, :3] <= changed[:, 3:] + 1e-5).all()  # still premultiplied
    clear = (x[:, 3] == -1)[:, None].expand_as(x)
    assert torch.allclose(changed[clear], x[clear], atol=1e-6)


def test_what_a_shift_brings_in_is_transparent():
    opaque = torch.ones(8, 4, SIZE, SIZE)
    moved = Augment(translate=0.5)({"x": opaque}, rng(8))["x"]
    assert {*moved.unique().tolist()} == {-1.0, 1.0} and (moved == moved[:, :1]).all()
    assert (Augment(translate=0.5)({"x": opaque[:, :3]}, rng(8))["x"] == 1).all()


# Files


def test_sheets_are_transparent_between_images_and_where_they_are(tmp_path):
    images = rv.Images(alpha.canonical(sprites(6)))
    sheet = np.asarray(Image.open(images.save(tmp_path / "s.png", scale=1)))
    assert sheet.shape[-1] == 4 and (sheet[:2] == 0).all()
    assert (sheet[2 : 2 + SIZE, 2 : 2 + SIZE] == images.array[0]).all()
    labelled = np.asarray(images.grid(labels=list("abcdef")))
    assert labelled.shape[-1] == 4 and (labelled[..., 3] == 255).any() and (labelled[..., 3] == 0).any()
    (tmp_path / "one").mkdir()
    images.save(tmp_path / "one")
    assert (np.asarray(Image.open(tmp_path / "one" / "000003.png")) == images.array[3]).all()
    assert (np.load(images.save(tmp_path / "s.npz"))["images"] == images.array).all()


@pytest.mark.parametrize("ending", [".gif", ".jpg"])
def test_formats_without_transparency_show_white_and_say_so(tmp_path, ending):
    images = rv.Images(alpha.canonical(sprites(4, hidden=9)))
    with pytest.warns(UserWarning, match=f"s{ending} has no transparency, so it shows the images on white"):
        images.save(tmp_path / f"s{ending}", seconds=1.0)
    visible = np.asarray(Image.open(tmp_path / f"s{ending}").convert("RGB"))
    assert (visible[:2, :2] > 250).all()


def test_a_webp_film_keeps_transparency(tmp_path):
    frames = alpha.canonical(sprites(4))
    with Image.open(montage.save_film(tmp_path / "f.webp", frames, scale=1)) as film:
        film.seek(2)
        assert (alpha.canonical(np.asarray(film.convert("RGBA"))) == frames[2]).all()


def test_sheets_of_several_kinds_of_images_agree():
    from reverie.media.sheets import beside

    rows, grey = alpha.canonical(sprites(3)), np.full((3, SIZE, SIZE, 1), 77, np.uint8)
    sheet = beside([rows, grey], Spec("image", (SIZE, SIZE), 4), columns=3, names=["a", "b"])
    assert sheet.shape[-1] == 4 and (sheet[-20, -20] == (77, 77, 77, 255)).all()


# Models


def test_colours_are_removed_with_opacity_kept():
    operator, x = operators.grey(), to_float(sprites(3))
    y = operator.forward(x)
    assert y.shape[1] == 2 and torch.equal(y[:, 1], x[:, 3])
    assert torch.allclose(operator.forward(operator.pseudo_inverse(y)), y, atol=1e-6)


def test_perceptual_losses_see_the_images_on_white(monkeypatch):
    seen = []

    def features(images, layers):
        seen.append(images)
        return dict.fromkeys(layers, images)

    monkeypatch.setattr(perceptual, "network", lambda device: features)
    x = to_float(sprites(3))
    perceptual.feature_error(x, x.flip(0))
    assert torch.equal(seen[0], solid(x).flip(0)) and torch.equal(seen[1], solid(x))


SMALL = {"ddpm": {"width": 8, "depth": 1}, "r3gan": {"width": 8, "latent": 4}, "vae": {"width": 8, "latent": 4}}


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(name, data, out=folder / name, steps=2, batch_size=8, quiet=True, **options)
        for name, options in SMALL.items()
    }


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_model_learns_and_samples_rgba(runs, name, tmp_path):
    images = rv.sample(runs[name], 4)
    assert images.shape == (4, SIZE, SIZE, 4) and (alpha.canonical(images.array) == images.array).all()
    assert Image.open(images.save(tmp_path / "s.png")).mode == "RGBA"
    assert (rv.sample(runs[name], 1, seed=2).array[0] == images.array[2]).all()
    preview = next((runs[name].path / "samples").glob("*.png"), runs[name].path / "samples.png")
    assert Image.open(preview).mode == "RGBA"


def test_what_reads_images_reads_transparent_ones(runs, folder, data, tmp_path):
    file = folder / "03.png"
    sheet = rv.reconstruct(runs["vae"], [file, Image.open(file), alpha.canonical(sprites()[3:4])[0], sprites()[3]])
    originals = sheet["image"].array
    assert (originals == alpha.canonical(sprites()[3:4])).all()
    assert Image.open(sheet.save(tmp_path / "r.png")).mode == "RGBA"
    assert rv.interpolate(runs["vae"], "held-out:0", "seed:3", 3).shape == (3, SIZE, SIZE, 4)
    assert rv.restore(runs["ddpm"], "held-out:0", "colorize", steps=2)["restored 1"].shape[-1] == 4


def test_metrics_see_the_datas_background(runs, data):
    scores = rv.evaluate(runs["vae"], metrics=["kernel", "reconstruction"], n=64)
    assert scores["kernel"].passport["images"] == "RGBA on white"
    assert scores["mse"].passport["images"] == "premultiplied RGBA"


@pytest.mark.parametrize("name", ["adain", "codec", "style-net"])
def test_a_model_that_knows_no_transparency_says_so_before_training(data, name):
    needed = {"adain": {"styles": "."}, "style-net": {"style": __file__}}.get(name, {})
    with pytest.raises(UsageError, match=r"channels=3"):
        build(name, data, **needed)


def test_what_transparency_does_not_fit_refuses_it(runs, tmp_path):
    for refused, reason in (
        (lambda: rv.rates(runs["vae"]), "JPEG holds no transparency"),
        (lambda: rv.filter_page(runs["vae"]), "looks at RGBA images"),
        (lambda: rv.export(runs["ddpm"], tmp_path / "exported"), "RGBA images cannot be exported"),
    ):
        with pytest.raises(UsageError, match=reason):
            refused()
