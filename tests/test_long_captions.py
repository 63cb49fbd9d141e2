"""Captions that are longer than the text encoder reads: counted, said, and read with --text-length."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.core.errors import UsageError
from reverie.probability.conditioning import text_encoder_of
from reverie.workflow.again import resume
from reverie.workflow.train import train

LONG = " ".join(f"word{i}" for i in range(30))


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
    for i, image in enumerate(noise):
        Image.fromarray(image).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(LONG if i < 12 else "a short one")
    return folder


@pytest.mark.parametrize("name", ["ddpm", "token-transformer"])
def test_the_length_is_an_option_of_the_run(captioned, tmp_path, name):
    """A loaded and a resumed run read as many words as the run that was trained."""
    options = {"conditional": "text", "text_length": 30, "width": 16, "depth": 1, "batch_size": 8, "quiet": True}
    run = train(name, captioned, out=tmp_path / "run", steps=1, **options)
    assert run.info["model"]["kwargs"]["text_length"] == 30 and "word29" in run.info["caption_words"]
    assert resume(run.path, steps=2, quiet=True).info["result"]["steps"] == 2
    model = rv.load(run.path)
    tokens, mask = text_encoder_of(model)([LONG, "a short one"])
    assert tokens.shape[1] == 30 and mask.sum(1).tolist() == [30, 3]
    assert rv.sample(model, 1, text=LONG).array.shape == (1, 8, 8, 3)


def test_training_and_the_report_count_the_captions_that_are_cut(captioned, call, tmp_path):
    flags = ["--conditional", "text", "--width", "8", "--depth", "1", "--steps", "1", "--batch-size", "8"]
    code, _, err = call("train", "ddpm", "--data", captioned, *flags, "--out", tmp_path / "r")
    count = len([text for text in rv.open_data(captioned).train["text"] if text == LONG])
    assert code == 0 and f"{count} of " in err
    assert "are longer than the 24 words that the text encoder reads, and cut: --text-length 30 reads all" in err
    code, out, _ = call("data", captioned, "--json")
    (line,) = [problem["action"] for problem in json.loads(out)["problems"] if problem["kind"] == "long-caption"]
    assert code == 0 and line.startswith("cut in training: 12 of 16 captions are longer than the 24 words")
    with pytest.warns(UserWarning, match="Only the first 24 words of a caption are read, and one has 30"):
        rv.sample(tmp_path / "r", 1, text=LONG, steps=1)


def test_a_length_without_captions_is_refused(captioned, tmp_path):
    with pytest.raises(UsageError, match="text_length=30 is of captions: add conditional='text'"):
        train("ddpm", captioned, out=tmp_path / "run", steps=1, text_length=30, quiet=True)
