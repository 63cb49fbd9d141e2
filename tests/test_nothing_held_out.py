"""Runs of which no image is held out: what needs one says so, and what only shows one shows training images."""

from __future__ import annotations

import pytest

import reverie as rv
from reverie.core.errors import UsageError
from reverie.inference.references import find_row
from reverie.workflow.train import train

SHOWN = {
    "reconstruct": lambda run, path: rv.reconstruct(run),
    "view": lambda run, path: rv.view(run, "latent-map"),
}
REFUSED = {
    "anomalies": lambda run, path: rv.anomalies(run),
    "held-out:0": lambda run, path: rv.encode(run, "held-out:0"),
    "rates": lambda run, path: rv.rates(run),
}


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "vae"
    return train("vae", bars, held_out=0, out=path, steps=2, batch_size=16, quiet=True, width=8, latent=3)


@pytest.mark.parametrize("verb", sorted(SHOWN))
def test_training_images_are_shown_with_a_warning(run, tmp_path, verb):
    with pytest.warns(UserWarning, match=r"bars.npz is held out: these are training images"):
        SHOWN[verb](run.path, tmp_path)


def test_a_class_without_a_held_out_image_is_named_by_a_training_image(run):
    model = rv.load(run.path)
    split, row = find_row(model, "1")
    assert len(split) == run.info["data"]["counts"]["train"] and split.labels[row] == 1


@pytest.mark.parametrize("verb", sorted(REFUSED))
def test_what_needs_held_out_images_says_so(run, tmp_path, verb):
    with pytest.raises(UsageError, match=r"[Nn]othing of .*bars.npz is held out"):
        REFUSED[verb](run.path, tmp_path)


def test_scores_of_samples_are_measured_and_those_of_held_out_images_refused(run, noisy_bars):
    result = rv.evaluate(run.path, n=64)
    assert "kernel-small" in {score.metric for score in result.scores}
    assert {refusal.metric for refusal in result.refused} >= {"nll", "reconstruction"}
    elsewhere = rv.evaluate(run.path, data=noisy_bars, metrics=["reconstruction"], n=64)
    assert {score.metric for score in elsewhere.scores} == {"mse", "psnr"}, "other data has held-out images"


def test_a_translator_shows_training_images_and_its_scores_need_held_out_ones(bars, tmp_path):
    options = {"steps": 1, "batch_size": 8, "quiet": True, "width": 8, "pool_size": 12}
    run = train("cyclegan", bars, held_out=0, out=tmp_path / "run", **options)
    with pytest.warns(UserWarning, match="these are training images"):
        assert len(rv.translate(run.path, n=2)) == 2
    with pytest.raises(UsageError, match="A score of translations needs held-out images, and nothing of"):
        rv.evaluate(run.path)


def test_the_doctor_names_what_it_cannot_measure(bars, tmp_path):
    options = {"steps": 2, "log_every": 1, "batch_size": 8, "quiet": True, "width": 8}
    run = train("dcgan", bars, held_out=0, out=tmp_path / "run", **options)
    rows = {check.measure: (check.limit, check.verdict) for check in rv.doctor(run.path).checks}
    assert rows["overfitting of the discriminator"] == ("needs held-out images", "not measured yet")


def test_training_says_that_nothing_is_held_out(call, bars, tmp_path):
    flags = ["--data", bars, "--held-out", "0", "--steps", "1", "--width", "8", "--latent", "3", "--batch-size", "8"]
    code, _, err = call("train", "vae", *flags, "--out", tmp_path / "r")
    assert code == 0 and "Nothing is held out: no held-out scores, and what is shown are training images" in err
