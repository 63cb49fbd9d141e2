"""The public API as somebody types it in a notebook: arrays in, objects that show themselves out."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reverie as rv
from reverie.core import registry
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.inference import references

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def images():
    """uint8 (96, 12, 16, 3): two kinds of gradients."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 16)[None, None, :, None].repeat(12, 1)
    rows = np.where(np.arange(96)[:, None, None, None] % 2, ramp, ramp[:, :, ::-1])
    return (rows + rng.normal(0, 12, (96, 12, 16, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(images):
    return rv.open_data(images, size=(12, 16), labels=np.arange(96) % 2)


@pytest.fixture(scope="module")
def shows():
    return []


@pytest.fixture(scope="module")
def run(data, shows, tmp_path_factory):
    model = rv.models.vae(data, latent=3, width=4)
    plot = rv.callbacks.LivePlot(every=0.0, samples=4, show=shows.append)
    out = tmp_path_factory.mktemp("api") / "run"
    return rv.train(model, data, steps=12, out=out, quiet=True, device="cpu", callbacks=[plot], log_every=4)


def test_a_run_and_its_plot_show_themselves(run, shows):
    assert repr(run).startswith(f"Run({run.path}: vae on ") and "12 steps" in repr(run)
    html = run._repr_html_()
    assert "finished" in html and html.count("data:image/png;base64,") == 2
    steps, values = run.curves["loss"]
    assert steps == [4, 8, 12] and len(values) == 3
    assert run.status == "finished" and run.samples.name == "samples.png"
    assert len(shows) >= 3 and all(isinstance(image, Image.Image) for image in shows)


def test_samples_are_images_that_show_save_and_compute(run, tmp_path):
    images = rv.sample(run, 6, seed=3)
    assert images.shape == (6, 12, 16, 3) and images.dtype == np.uint8 and images.seeds == [3, 4, 5, 6, 7, 8]
    assert repr(images) == "Images(6 images of 12x16x3, seeds 3 ... 8)" and images._repr_png_().startswith(PNG)
    assert [image.size for image in images.pil] == [(16, 12)] * 6
    assert np.asarray(images).mean() == images.array.mean() and (images == images.array).all()
    assert isinstance(images[2:4], rv.Images) and images[2:4].seeds == [5, 6] and images[0].shape == (12, 16, 3)
    assert (rv.sample(run, 1, seed=5).array == images[2:3].array).all()
    for name in ("grid.png", "arrays.npz", "folder", "film.webp"):
        images.save(tmp_path / name, seconds=1.0 if name == "film.webp" else None)
        assert (tmp_path / name).exists()
    labelled = images.grid(columns=3, scale=2, labels=["a", "b", "c", "d", "e", "f"])
    assert labelled.size[0] == 3 * (32 + 2) + 2 and labelled.size[1] > 2 * (24 + 2) + 2


@pytest.mark.filterwarnings("ignore:An image of 50 x 40 pixels was cropped")
@pytest.mark.parametrize("kind", ["reference", "references", "pil", "array", "batch", "tensor", "images"])
def test_every_kind_of_image_goes_in(run, data, images, kind):
    model = rv.load(run, "cpu")
    model.run["data"] = None  # nothing is opened again: the data came from Python
    inputs: Any = {
        "reference": "seed:3",
        "references": ["seed:3", "seed:4"],
        "pil": Image.fromarray(images[0]).resize((50, 40)),
        "array": images[0],
        "batch": images[:3],
        "tensor": torch.zeros(2, 3, 12, 16),
        "images": rv.Images(images[:2]),
    }[kind]
    count = {"references": 2, "batch": 3, "tensor": 2, "images": 2}.get(kind, 1)
    sheet = rv.reconstruct(model, inputs)
    assert len(sheet) == count and sheet["reconstruction"].shape == (count, 12, 16, 3)
    latents = rv.encode(model, inputs)
    assert latents.shape == (count, 3)
    assert (rv.decode(model, latents) == sheet["reconstruction"]).mean() > 0.99
    assert repr(sheet) == f"Sheet(image, reconstruction: {count} each)" and sheet._repr_png_().startswith(PNG)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(2, 1, 12, 16), r"shape \(N, 3, 12, 16\), not \(2, 1, 12, 16\)"),
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(0, 3, 12, 16), "shape"),
        (torch.full((1, 3, 12, 16), torch.nan), "finite"),
        (torch.zeros(1, 3, 12, 16, dtype=torch.uint8), "floats"),
        (np.zeros((0, 12, 16, 3), np.uint8), "shape"),
        (np.zeros((0, 5), np.uint8), "no image"),
        (np.zeros((12, 16, 2), np.uint8), "no image"),
        (np.zeros((12, 16, 3)), "float64"),
        (np.zeros((2, 12, 16, 3)), "float64"),
        ("held-out:²", "no file"),
        ("seed:²", "no file"),
    ],
)
def test_what_is_no_image_of_the_model_is_refused(run, monkeypatch, data, wrong, message):
    monkeypatch.setattr(references, "data_of", lambda model: data)
    for verb in (rv.encode, rv.reconstruct):
        with pytest.raises(UsageError, match=message):
            verb(run, wrong)


@pytest.mark.parametrize("channels", [1, 4])
def test_arrays_of_other_channels_are_converted(run, channels):
    with pytest.warns(UserWarning, match="20 x 20 pixels was cropped at its centre: the model's images have 16 x 12"):
        assert rv.encode(run, np.zeros((20, 20, channels), np.uint8)).shape == (1, 3)


@pytest.mark.parametrize(
    "latents", [torch.zeros(2, 4), torch.zeros(3), torch.zeros(0, 3), torch.zeros(1, 3, 1), "x", None, [[math.nan] * 3]]
)
def test_latents_of_another_shape_are_refused(run, latents):
    with pytest.raises(UsageError, match="Latents"):
        rv.decode(run, latents)


def test_latents_of_more_pixels_are_not_more_images():
    model = rv.build("ddpm", shape=8, channels=1, width=8)
    with pytest.raises(UsageError, match=r"shape \(N, 1, 8, 8\), not \(2, 1, 16, 16\)"):
        rv.decode(model, torch.zeros(2, 1, 16, 16))


def test_the_ends_of_a_morph_are_single_images_or_latents(run, images):
    assert len(rv.interpolate(run, rv.Images(images[:1]), torch.zeros(1, 3), frames=2)) == 2
    for end, message in ((torch.zeros(2, 3), r"shape \(1, 3\)"), (rv.Images(images[:2]), "One image")):
        with pytest.raises(UsageError, match=message):
            rv.interpolate(run, end, "seed:1", frames=2)


def test_a_morph_may_start_at_noise_of_0_and_take_latents_with_the_dimensions_of_an_image():
    model = rv.build("ddpm", shape=8, channels=1, width=8)
    assert len(rv.interpolate(model, torch.zeros(1, 1, 8, 8), "seed:1", frames=2)) == 2
    model = rv.build("stylegan2", shape=16, channels=1)
    latent = torch.zeros(1, *model.card.latents["w+"].shape)
    assert len(rv.interpolate(model, latent, "seed:1", frames=2, space="w+")) == 2


def test_a_wrong_space_is_refused_by_models_with_one_space_or_none(run, images):
    calls = [
        lambda model, space: rv.encode(model, images[:1], space=space),
        lambda model, space: rv.decode(model, torch.zeros(1, 3), space=space),
        lambda model, space: rv.interpolate(model, "seed:1", "seed:2", 2, space=space),
    ]
    unnamed = rv.load(run)
    unnamed.__class__ = type("Unnamed", (type(unnamed),), {"card": Card(Output("image", (12, 16), 3))})
    for call in calls:
        call(run, "z")
        with pytest.raises(UsageError, match="space must be one of z, not 'w'"):
            call(run, "w")
        with pytest.raises(UsageError, match="no named spaces"):
            call(unnamed, "z")


@pytest.mark.parametrize(
    "call",
    [rv.reconstruct, rv.restore, rv.traverse, lambda model: rv.interpolate(model, "held-out:1", "seed:1")],
    ids=["reconstruct", "restore", "traverse", "interpolate"],
)
def test_a_fresh_model_has_no_data_of_its_own(call):
    walks = call is rv.traverse  # over latents of images, where a model encodes; the noise of diffusion needs no data
    model = rv.build("vae", shape=8, channels=1) if walks else rv.build("ddpm", shape=8, channels=1, width=8)
    with pytest.raises(UsageError, match="trained on no data: pass images"):
        call(model)


def test_walks_and_views_show_themselves(run, data):
    model = rv.load(run, "cpu")
    morph = rv.interpolate(model, "seed:1", "seed:2", frames=5)
    assert len(morph) == 5 and (morph[0] == rv.sample(model, 1, seed=1).array[0]).mean() > 0.99
    model.run["data"] = None
    assert rv.list_views(model) == ["samples"]
    assert rv.view(model, "samples", 8)._repr_png_().startswith(PNG)
    with pytest.raises(ValueError, match="mixing"):
        rv.view(model, "mixing")


def test_models_are_functions_with_flat_signatures(data):
    parameters = inspect.signature(rv.models.vae).parameters
    assert next(iter(parameters)) == "data" and {"latent", "beta", "width", "likelihood"} <= set(parameters)
    assert "vae" in dir(rv.models) and "Args" in rv.models.vae.__doc__
    assert rv.list_models("*gan*") == [name for name in rv.list_models() if "gan" in name]
    for name in registry.BUILT_IN:
        assert callable(getattr(rv.models, name.replace("-", "_").replace("++", "_pp")))
    with pytest.raises(AttributeError, match="vea"):
        _ = rv.models.vea
    assert rv.models.dcgan(shape=(16, 16), channels=1, width=4).config["name"] == "dcgan"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": 0}, "latent of vae must be at least 1, not 0"),
        ({"likelihood": "gausian"}, 'Did you mean "gaussian"'),
        ({"kl_warmup": 2.0}, "kl_warmup of vae must be from 0 to 1"),
        ({"sigma": 0}, "sigma of vae must be above 0"),
        ({"hidden": (0,)}, "hidden of vae must be at least 1"),
        ({"latnet": 3}, 'Did you mean "latent"'),
    ],
)
def test_a_wrong_option_is_a_value_error_that_names_the_argument(data, options, message):
    with pytest.raises(ValueError, match=message):
        rv.models.vae(data, **options)


def test_a_system_of_ones_own_declares_what_the_data_decides(data, tmp_path):
    from reverie.optim.phase import Phase, Stage, adamw

    class Mean(nn.Module):
        """One image for all."""

        def __init__(self, shape: rv.Shape, channels: rv.Channels, classes: rv.Classes = 0):
            super().__init__()
            self.classes = classes
            self.image = nn.Parameter(torch.zeros(channels, *shape))

        def stages(self, lr: float = 0.1):
            return [Stage([Phase("mean", adamw(self.parameters(), lr), self.loss)])]

        def loss(self, batch, outputs=None):
            return {"loss": (batch["x"] - self.image).square().mean()}

        def sample(self, noise):
            return self.image.expand(len(noise), -1, -1, -1)

    rv.register("mean-image")(Mean)
    try:
        model = rv.build("mean-image", data)
        assert model.image.shape == (3, 12, 16) and model.classes == 2
        run = rv.train("mean-image", data, steps=30, out=tmp_path / "run", quiet=True, device="cpu")
        assert abs(float(rv.sample(run, 1).array.mean()) - 127) < 30
        assert rv.models.mean_image(data).classes == 2
    finally:
        registry.MODELS.pop("mean-image")


def test_early_stop_ends_a_training_that_no_longer_improves(data, tmp_path):
    stop = rv.callbacks.EarlyStop(steps=8, delta=1e9)
    options = {"steps": 200, "quiet": True, "device": "cpu", "width": 4, "log_every": 2}
    run = rv.train("vae", data, out=tmp_path / "run", callbacks=[stop], **options)
    assert run.status == "stopped" and run.info["result"]["steps"] < 30


def test_runs_are_listed_and_errors_speak_the_readers_language(run, capsys, tmp_path):
    from reverie.cli import main

    assert [listed.path for listed in rv.runs(run.path.parent)] == [run.path]
    with pytest.raises(rv.UsageError, match="latent of vae must"):
        rv.build("vae", shape=16, channels=1, latent=0)
    with pytest.raises(SystemExit):
        main(["train", "vae", "--latent", "0", "--steps", "1", "--out", str(tmp_path / "run")])
    assert "--latent of vae must be at least 1, not 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_scores_are_a_table(run, data):
    scores = rv.evaluate(run, ["reconstruction"], data=data, device="cpu")
    assert "psnr" in repr(scores) and "<table" in scores._repr_html_()
    assert scores["psnr"].value > 0 and scores.rows()[0][0] == "mse"
