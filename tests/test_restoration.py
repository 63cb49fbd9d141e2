"""Operators, solvers and tasks of restoration, and inversion, against the exact posterior of a Gaussian."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from reverie.core import registry
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.diffusion.grids import uniform
from reverie.diffusion.inversion import from_noise, to_noise
from reverie.diffusion.likelihood import even
from reverie.diffusion.schedules import Cosine
from reverie.media.medium import to_uint8
from reverie.media.origin import origin_of
from reverie.restoration import operators, tasks
from reverie.restoration.solvers import denoised, null_space

STD = 0.5  # of the data, N(0, STD^2) in every pixel


def exact(x, alpha, sigma):
    """E[x0 | x] of that data."""
    return alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * x


OPERATORS = {
    "inpainting": operators.inpainting(operators.named_mask("left-half", (8, 8))),
    "random": operators.inpainting(operators.named_mask("random:0.3", (8, 8))),
    "super-resolution": operators.super_resolution(2),
    "grey": operators.grey(),
    "identity": operators.identity(),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_pseudo_inverse_satisfies_penroses_conditions(name):
    operator, x = OPERATORS[name], torch.randn(2, 3, 8, 8, dtype=torch.float64)
    y = operator.forward(x)
    torch.testing.assert_close(operator.forward(operator.pseudo_inverse(y)), y)  # A A+ A = A
    inverse = operator.pseudo_inverse(y)
    torch.testing.assert_close(operator.pseudo_inverse(operator.forward(inverse)), inverse)  # A+ A A+ = A+


@pytest.mark.parametrize("name", OPERATORS)
def test_a_projected_image_agrees_with_the_observation_and_keeps_the_null_space(name):
    operator = OPERATORS[name]
    x, other = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
    y = operator.forward(other)
    projected = operator.project(x, y)
    torch.testing.assert_close(operator.forward(projected), y)
    gone = projected - x
    torch.testing.assert_close(operator.pseudo_inverse(operator.forward(gone)), gone)  # only in A's row space


def test_denoising_samples_the_exact_posterior_of_a_gaussian():
    noise_std, rows = 0.4, 4000
    y = torch.full((rows, 1, 1, 1), 0.3)
    *_, (x, _) = denoised(exact, y, Noise.of_seeds(range(rows)), noise_std, 400)
    x = x.double().clamp(-1, 1)
    weight = STD**2 / (STD**2 + noise_std**2)
    variance = STD**2 * noise_std**2 / (STD**2 + noise_std**2)
    clamped = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).mul(variance**0.5).add(weight * 0.3)
    clamped = clamped.clamp(-1, 1)
    assert float(x.mean()) == pytest.approx(float(clamped.mean()), abs=0.02)
    assert float(x.std()) == pytest.approx(float(clamped.std()), rel=0.05)


@pytest.mark.parametrize("name", ["inpainting", "super-resolution", "grey"])
def test_null_space_restorations_agree_with_the_observation_exactly(name):
    truth = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(0.3).clamp(-1, 1)
    operator = OPERATORS[name]
    y = operator.forward(truth)
    *_, (x, _) = null_space(exact, y, operator, Noise.of_seeds(range(4)), uniform(Cosine(), 20))
    if name == "inpainting":
        torch.testing.assert_close(x * operator.mask, y, atol=1e-5, rtol=0)


def test_what_is_missing_is_sampled_with_the_datas_own_deviation():
    operator = operators.inpainting(operators.named_mask("left-half", (4, 4)))
    y = operator.forward(torch.zeros(2000, 1, 4, 4))
    *_, (x, _) = null_space(exact, y, operator, Noise.of_seeds(range(2000)), uniform(Cosine(), 100))
    missing = x[..., :2]
    assert float(missing.mean()) == pytest.approx(0, abs=0.02)
    assert float(missing.std()) == pytest.approx(STD, rel=0.08)
    assert float(x[0].std()) != float(x[1].std())


@pytest.mark.parametrize("steps", [10, 20])
def test_inversion_and_sampling_are_inverse_with_an_error_of_second_order(steps):
    x = torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 1, 2, 2)

    def error(count: int) -> float:
        grid = even(200.0, 1 / 255, count)
        return float((from_noise(exact, to_noise(exact, x, grid), grid) - x).abs().max())

    assert math.log2(error(steps) / error(2 * steps)) > 1.5


def test_the_noise_of_an_image_is_that_of_the_exact_flow():
    x = torch.full((1, 1, 1, 1), 0.25, dtype=torch.float64)
    z = to_noise(exact, x, even(200.0, 1 / 255, 200))
    ratio = 1 / 255  # the image counts as a state with that much noise
    expected = 0.25 / math.sqrt(STD**2 + ratio**2) * math.sqrt((STD**2 + 200.0**2) / (1 + 200.0**2))
    assert float(z) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mask", ["nowhere", "random:2", "random:x"])
def test_an_unknown_mask_is_refused(mask):
    with pytest.raises(UsageError, match="mask"):
        operators.named_mask(mask, (8, 8))


# Tasks, on tiny runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A diffusion run of 8-pixel images."""
    out = tmp_path_factory.mktemp("restoration") / "run"
    options = {"width": 8, "conditional": "label", "quiet": True, "device": "cpu"}
    return rv.train("ddpm", "fashion", 8, out=out, steps=2, **options)


def test_a_task_returns_observation_samples_and_truth(run):
    sheet = rv.restore(run, ["held-out:0", "held-out:1"], "inpaint", mask="left-half", samples=3, steps=3)
    assert list(sheet.rows) == ["observation", "restored 1", "restored 2", "restored 3", "truth"] and len(sheet) == 2
    restored, truth = sheet["restored 2"].array.astype(int), sheet["truth"].array.astype(int)
    assert np.abs(restored[:, :, 4:] - truth[:, :, 4:]).max() <= 1  # the known half
    assert (sheet["restored 1"].array != sheet["restored 2"].array).any()


TASKS = [("denoise", {}), ("inpaint", {"mask": "random:0.5"}), ("super-resolution", {"noise": 0.2})]


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_a_row_of_a_batch_is_that_of_its_image_and_seed_alone(run, task, options):
    options = {"steps": 3, "label": "Sneaker", "samples": 2, **options}
    together = rv.restore(run, ["held-out:0", "held-out:1"], task, seed=5, **options)
    alone = rv.restore(run, "held-out:1", task, seed=6, **options)
    for name, images in alone.rows.items():
        assert np.abs(together[name].array[1:].astype(int) - images.array).max() <= 1
    assert (alone["restored 1"].array != alone["restored 2"].array).any()


def test_every_row_has_a_random_mask_of_its_own(run):
    sheet = rv.restore(run, ["held-out:0", "held-out:0"], "inpaint", mask="random:0.5", steps=1)
    assert (sheet["observation"].array[0] != sheet["observation"].array[1]).any()


def test_the_solver_draws_other_noise_than_the_observation_has(run, monkeypatch):
    seen = {}

    def spy(model, observation, operator, noise, *rest, **cond):
        seen.update(noise=noise(1, 8, 8), observation=observation)
        return observation

    monkeypatch.setattr(tasks, "solve", spy)
    x = torch.zeros(64, 1, 8, 8)
    rv.restore(run, x, "denoise", noise=1.0, seed=3)
    correlation = (seen["noise"] * seen["observation"]).mean()
    assert torch.equal(seen["noise"], Noise.of_seeds(range(3, 67))(1, 8, 8)) and abs(correlation) < 0.1
    assert float(seen["observation"].std()) == pytest.approx(1, rel=0.1)


def test_diffusion_of_latents_restores_nothing():
    model = registry.build("latent-diffusion", shape=8, channels=1, width=8, latent=3, codec_width=8)
    assert model.card.restores == ()
    with pytest.raises(UsageError, match="diffusion models of images do"):
        rv.restore(model, torch.zeros(1, 1, 8, 8))


def test_masks_may_be_arrays_and_degraded_images_have_no_truth(run):
    mask = np.zeros((8, 8), bool)
    mask[2:4] = True
    image = rv.sample(run, 1, steps=2)
    sheet = rv.restore(run, image, "inpaint", mask=mask, steps=2, degraded=True)
    assert "truth" not in sheet.rows and len(sheet) == 1


def test_the_masks_of_the_data_say_what_is_missing(tmp_path, run):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (20, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", images=rng.integers(0, 256, (20, 8, 8), np.uint8), masks=masks)
    masked = rv.train("ddpm", tmp_path / "d.npz", out=tmp_path / "run", steps=1, width=8, quiet=True, device="cpu")
    data = rv.open_data(tmp_path / "d.npz")
    for images, expected in ((["train:2", "train:5"], data.train["mask"][[2, 5]]), (None, data.held_out["mask"])):
        sheet = rv.restore(masked, images, "inpaint", mask="data", steps=2, n=len(expected))
        difference = np.abs(sheet["restored 1"].array.astype(int) - sheet["truth"].array)
        assert (difference[expected == 0] <= 1).all() and (difference[expected > 0] > 1).any()
    Image.fromarray(masks[0]).save(tmp_path / "x.png")
    with pytest.raises(UsageError, match="is of images of the run's data"):
        rv.restore(masked, str(tmp_path / "x.png"), "inpaint", mask="data")
    with pytest.raises(UsageError, match="the run's data has no masks"):
        rv.restore(run, "held-out:0", "inpaint", mask="data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sharpen"}, "does not restore"),
        ({"task": "colorize"}, "grey"),
        ({"task": "super-resolution", "scale": 3}, "scale"),
        ({"task": "inpaint", "mask": [[True, False], [True]]}, "mask must be a bool array"),
        ({"task": "denoise", "mask": "center"}, "mask is for the task inpaint"),
        ({"task": "denoise", "scale": 2}, "scale is for the task super-resolution"),
        ({"task": "inpaint", "samples": 0}, "samples"),
        *(({"noise": value}, "noise") for value in (math.nan, -1, "x", True, [0.5])),
        *(({"seed": value}, "[Ss]eed") for value in (1 << 63, -(1 << 63) - 1, 1.5, "x", None)),
        *(({"n": value}, "n must be") for value in (None, "x", 1.5, 0)),
        *(({"degraded": value}, "degraded must be") for value in ("yes", 1)),
        *(({"label": value}, "label is empty") for value in ([], ())),
        ({"label": [None]}, "no class None"),
    ],
)
def test_an_unfit_request_is_an_error_that_names_the_argument(run, options, message):
    with pytest.raises(UsageError, match=message):
        rv.restore(run, "held-out:0", **options)


STREAMED = [("denoise", {}, 4), ("inpaint", {"mask": "random:0.5"}, 3), ("super-resolution", {"noise": 0.2}, 3)]


@pytest.mark.parametrize(("task", "options", "states"), STREAMED)
def test_a_stream_leads_from_the_observation_to_the_restorations(run, task, options, states):
    options = {"steps": 3, "samples": 2, "seed": 5, **options}
    frames = list(rv.restore_stream(run, ["held-out:0", "held-out:1"], task, **options))
    sheet = rv.restore(run, ["held-out:0", "held-out:1"], task, **options)
    assert [frame.progress for frame in frames] == pytest.approx([i / states for i in range(states + 1)])
    first, last = (to_uint8(frame.render()["image"]).reshape(2, 2, 8, 8, 1) for frame in (frames[0], frames[-1]))
    for index in range(2):
        assert np.array_equal(first[:, index], sheet["observation"].array)
        assert np.array_equal(last[:, index], sheet[f"restored {index + 1}"].array)
    middle = frames[-2].render()["image"]
    assert not middle.requires_grad and not np.array_equal(to_uint8(middle).reshape(last.shape), last)


def test_every_state_of_inpainting_keeps_the_known_pixels(run):
    sheet = rv.restore(run, "held-out:0", "inpaint", mask="left-half", steps=3)
    for frame in rv.restore_stream(run, "held-out:0", "inpaint", mask="left-half", steps=3):
        image = to_uint8(frame.render()["image"]).astype(int)
        assert np.abs(image[:, :, 4:] - sheet["truth"].array[:, :, 4:]).max() <= 1


def test_a_stream_leaves_the_mode_of_the_model_as_it_was(run):
    model = rv.load(run, "cpu").train()
    frames = rv.restore_stream(model, "held-out:0", "inpaint", steps=2)
    next(frames), next(frames)
    assert not model.training and torch.is_grad_enabled()
    frames.close()
    assert model.training


def test_the_states_are_written_as_a_film_or_a_strip(run, call, tmp_path):
    words = ["restore", run.path, "inpaint", "held-out:0", "held-out:1", "--steps", 3, "--samples", 3]
    code, out, _ = call(*words, "--stream", "film.webp", "--json")
    assert code == 0 and json.loads(out)["frames"] == 4 and not (tmp_path / "restored.png").exists()
    film = Image.open(tmp_path / "film.webp")
    assert film.n_frames == 4 and film.size[0] > film.size[1]  # a column for each answer, a row for each image
    assert origin_of(tmp_path / "film.webp")["stream"] is True
    assert call(*words, "--stream", "strip.png", "--out", "sheet.png")[0] == 0
    assert (tmp_path / "strip.png").exists() and (tmp_path / "sheet.png").exists()
    code, _, err = call(*words, "--stream", "film.xyz")
    assert code == 2 and ".xyz" in err


def test_without_a_task_the_first_of_the_model_is_used(run):
    assert rv.restore(run, n=1, steps=1).origin["task"] == "denoise"
    model = rv.build("pixelcnn", shape=8, channels=1, width=4, depth=1)
    image = torch.zeros(1, 1, 8, 8)
    assert rv.restore(model, image).origin["task"] == "complete"
    with pytest.raises(UsageError, match="does not restore by 'inpaint'"):
        rv.restore(model, image, "inpaint")


def test_a_model_that_draws_row_by_row_completes_downwards_and_warns_of_pixels_that_it_ignores():
    model = rv.build("pixelcnn", shape=8, channels=1, width=4, depth=1)
    image = -torch.ones(1, 1, 8, 8)
    observation = rv.restore(model, image)["observation"].array[0, :, :, 0]
    assert (observation[:4] == 0).all() and (observation[4:] > 100).all()
    with pytest.warns(UserWarning, match="known pixels after missing ones"):
        rv.restore(model, image, mask="center")


def test_a_task_in_the_place_of_the_images_is_an_error_that_says_the_order(run):
    with pytest.raises(UsageError, match="images come before the task"):
        rv.restore(run, "inpaint", ["held-out:0"])


def test_a_denoising_autoencoder_restores_by_one_pass(tmp_path):
    options = {"width": 4, "latent": 4, "quiet": True, "device": "cpu"}
    run = rv.train("denoising-autoencoder", "fashion", 8, out=tmp_path / "run", steps=2, **options)
    sheet = rv.restore(run, "held-out:0")
    model = rv.load(run, "cpu")
    assert model.card.restores == ("denoise",)
    assert (sheet["observation"].array != sheet["truth"].array).any()
    with pytest.raises(UsageError, match="denoise"):
        rv.restore(run, "held-out:0", "inpaint")
    with pytest.raises(UsageError, match="noise is for diffusion models"):
        rv.restore(run, "held-out:0", noise=0.1)
    with pytest.raises(UsageError, match="in one pass: there are no states"):
        rv.restore_stream(run, "held-out:0")


def test_the_noise_space_reconstructs_and_interpolates(run):
    model = rv.load(run, "cpu")
    assert list(model.card.latents) == ["noise"] and model.card.latents["noise"].encode == "invert"
    sheet = rv.reconstruct(model, ["held-out:0"])
    assert np.abs(sheet["image"].array.astype(int) - sheet["reconstruction"].array).mean() < 40
    morph = rv.interpolate(model, "seed:1", "Sneaker", frames=3)
    assert len(morph) == 3
    ends = rv.decode(model, rv.encode(model, "Sneaker"))
    assert np.abs(morph.array[-1].astype(int) - ends.array[0]).max() <= 1
