"""The public API as somebody types it in a notebook: arrays in, objects that show themselves out."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reverie as rv
from reverie.core import registry

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
        assert callable(getattr(rv.models, name.replace("-", "_")))
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
