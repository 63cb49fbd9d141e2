"""Runs of every checkpoint format that there was: this version loads them and computes the same.

``tests/formats/N/NAME`` holds run.json, the checkpoint, and samples.npz: what the averaged weights gave when they were
written, format 1 by commit 64ae4f0, format 2 by commit f059170 (``scripts/make_format_fixtures.py``). Nothing here asks
where in a model a tensor lives.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.core.noise import Noise

FORMATS = Path(__file__).parent / "formats"
RUNS = sorted(str(path.parent.relative_to(FORMATS)) for path in FORMATS.glob("*/*/run.json"))
NAMED = [(path.parent.name, name) for path in FORMATS.glob("*/names.json") for name in json.loads(path.read_text())]


def assert_same(actual, expected):
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:Weights of .*vae-stopped")
@torch.no_grad()
def test_a_run_of_an_older_format_samples_encodes_and_translates_as_it_did(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a teacher's path is relative: nothing is there, and nothing is needed
    with np.load(FORMATS / name / "samples.npz") as archive:
        stored = {key: torch.from_numpy(value) for key, value in archive.items()}
    model = rv.load(FORMATS / name, "cpu")
    cond = {"label": stored["label"]} if "label" in stored else {}
    if "images" in stored:
        assert_same(model.sample(Noise.of_seeds(range(4)), **cond), stored["images"])
    if "latents" in stored:
        assert_same(model.encode(stored["source"], **cond), stored["latents"])
    for key, options in {"made": {}, "to_b": {"to": "B"}, "to_a": {"to": "A"}}.items():
        if key in stored:
            assert_same(model.translate(stored["source"], **options), stored[key])
    if "log_prob" in stored:
        assert_same(model.class_log_prob(stored["source"], 0.8, 0.6, stored["label"]), stored["log_prob"])


def test_an_unfinished_run_of_format_1_loads_its_last_checkpoint():
    run = json.loads((FORMATS / "1" / "vae-stopped" / "run.json").read_text())
    with pytest.warns(UserWarning, match=r"step 30: it is unfinished \(stopped\)"):
        model = rv.load(FORMATS / "1" / "vae-stopped")
    assert run["status"] == "stopped" and model.checkpoint < run["training"]["steps"]


@pytest.mark.parametrize(("number", "name"), NAMED)
def test_every_option_and_tensor_of_an_older_format_has_its_place_today(number, name):
    from reverie.training.formats import upgrade_config, upgrade_tensors

    stored = json.loads((FORMATS / number / "names.json").read_text())[name]
    config = upgrade_config(stored["config"], int(number))
    tensors = {key: torch.empty(shape, device="meta") for key, shape in stored["tensors"].items()}
    moved = {key: value.shape for key, value in upgrade_tensors(tensors, stored["config"], int(number)).items()}
    built = rv.build(config["name"], **config["kwargs"])
    assert moved == {key: value.shape for key, value in built.state_dict().items()}


@torch.no_grad()
def test_a_folder_exported_before_format_3_is_imported_and_samples_as_it_did(tmp_path):
    folder = FORMATS / "2" / "exported"
    with np.load(folder / "samples.npz") as archive:
        images, label = (torch.from_numpy(archive[name]) for name in ("images", "label"))
    model = rv.load(rv.import_(folder, out=tmp_path / "run"), "cpu")
    assert_same(model.sample(Noise.of_seeds(range(4)), label=label), images)
