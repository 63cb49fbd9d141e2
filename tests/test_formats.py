"""Runs of checkpoint format 1, as commit 64ae4f0 wrote them: every later version loads them and computes the same.

``tests/formats/1/NAME`` holds run.json, the checkpoint, and samples.npz: what the averaged weights gave at that commit.
``scripts/make_format_fixtures.py`` made them. Nothing here asks where in a model a tensor lives.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.core.noise import Noise

FORMAT_1 = Path(__file__).parent / "formats" / "1"


def load(name):
    """The model of a fixture, and the arrays of its samples.npz as tensors."""
    with np.load(FORMAT_1 / name / "samples.npz") as archive:
        return rv.load(FORMAT_1 / name, "cpu"), {key: torch.from_numpy(value) for key, value in archive.items()}


def assert_same(actual, expected):
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def assert_same_samples(name):
    model, stored = load(name)
    cond = {"label": stored["label"]} if "label" in stored else {}
    assert_same(model.sample(Noise.of_seeds(range(4)), **cond), stored["images"])
    if "latents" in stored:
        assert_same(model.encode(stored["source"], **cond), stored["latents"])


def test_a_label_conditional_vae_samples_each_class_and_encodes_as_before():
    assert_same_samples("vae")


def test_an_unfinished_run_loads_and_samples_from_its_last_checkpoint():
    run = json.loads((FORMAT_1 / "vae-stopped" / "run.json").read_text())
    model, _ = load("vae-stopped")
    assert run["status"] == "stopped" and model.checkpoint < run["training"]["steps"]
    assert_same_samples("vae-stopped")


def test_a_dcgan_whose_ada_probability_has_left_0_samples_without_augmentation():
    assert_same_samples("dcgan-ada")


def test_a_stylegan2_trained_with_path_lengths_samples_as_before():
    assert_same_samples("stylegan2")


@pytest.mark.parametrize("domain", ["A", "B"])
@torch.no_grad()
def test_a_cyclegan_with_a_full_pool_translates_both_ways_as_before(domain):
    model, stored = load("cyclegan")
    assert_same(model.translate(stored["source"], to=domain), stored[f"to_{domain.lower()}"])


def test_latent_diffusion_keeps_its_own_codec_and_the_moments_of_its_latents():
    assert_same_samples("latent-diffusion")


def test_a_progan_samples_at_the_top_level_that_its_training_reached():
    assert_same_samples("progan")


def test_a_distilled_run_carries_its_teacher_and_needs_no_other_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the teacher's path is relative: nothing is there
    assert_same_samples("distilled")
