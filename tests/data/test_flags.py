"""How data is opened, from the command line: the same options as in Python, recorded and used again."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import fill, save

import reverie as rv
from reverie import rerun, resume, train
from reverie.cli import main
from reverie.core.errors import ReverieError, UsageError
from reverie.inference.load import data_of
from reverie.inference.references import find_image

FLAGS = ["--background", "black", "--held-out", "0.3", "--channels", "1", "--fit", "pad"]


def call(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_data_takes_size_background_share_channels_and_medium(tmp_path: Path, capsys) -> None:
    fill(tmp_path / "d", 20, width=30, height=24)
    code, out, _ = call(capsys, "data", tmp_path / "d", "--size", "12x20", *FLAGS, "--json")
    report = json.loads(out)
    assert code == 0 and (report["shape"], report["channels"], report["medium"]) == ([12, 20], 1, "image")
    equal = rv.open_data(tmp_path / "d", size=(12, 20), background="#000", held_out=0.3, channels=1, fit="pad")
    assert report["fingerprint"] == equal.fingerprint
    np.savez(tmp_path / "v.npz", x=np.random.default_rng(0).integers(0, 256, (12, 5, 5, 6), np.uint8))
    assert call(capsys, "data", tmp_path / "v.npz")[0] == 1
    code, out, _ = call(capsys, "data", tmp_path / "v.npz", "--medium", "volume")
    assert code == 0 and "12 usable volumes of 5x5x6x1" in out


def test_a_larger_image_is_read_by_the_flag_that_the_report_names(tmp_path: Path, capsys) -> None:
    fill(tmp_path / "d", 10)
    save(tmp_path / "d" / "wide.png", 77, 300, 100)
    code, out, _ = call(capsys, "data", tmp_path / "d", "--size", "16", "--max-pixels", "10000")
    assert code == 0 and "10 usable" in out and "over 10,000; --max-pixels 30000 reads it" in out
    assert "--max-pixels 10000" in out.splitlines()[-1]  # the next command opens the same data
    assert call(capsys, "data", tmp_path / "d", "--max-pixels", "0")[0] == 2


def test_a_run_records_how_its_data_was_opened_and_reopens_it_so(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "d", 40, width=30, height=24)
    short = ["--steps", "2", "--batch-size", "8", "--width", "8", "--out", "run", "--json"]
    assert call(capsys, "train", "autoencoder", "--data", "d", "--size", "16", *FLAGS, *short)[0] == 0
    info = json.loads(Path("run/run.json").read_text())
    record, equal = info["data"], rv.open_data("d", 16, 1, "pad", "black", 0.3)
    assert record == json.loads(json.dumps(equal.provenance)) and record["background"] == [0, 0, 0]
    model = rv.load("run")
    assert data_of(model).held_out.names == equal.held_out.names
    with pytest.warns(UserWarning, match="40 x 10 pixels was padded"):
        wide = find_image(model, str(save(tmp_path / "wide.png", 3, 40, 10)))
    assert wide[0, 0].unique().tolist() == [-1]  # padding
    again = rerun("run", "again", quiet=True)
    assert again.info["data"] == record
    save(tmp_path / "d" / "0003.png", 99)
    for use in (lambda: data_of(model), lambda: rerun("run", "third", quiet=True)):
        with pytest.raises(ReverieError, match="not what it was trained on"):
            use()
    info["status"] = "stopped"
    Path("run/run.json").write_text(json.dumps(info))
    with pytest.raises(ReverieError, match="not what it was trained on"):
        resume("run", quiet=True)


def test_transparency_is_announced_once_and_a_background_chosen_in_python_is_used_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 4), np.uint8)
        Image.fromarray(pixels).save(f"d/{seed}.png")
    small = {"net": "dense", "hidden": (8,), "latent": 2, "batch_size": 4, "steps": 1}
    capsys.readouterr()
    run = train("vae", rv.data("d", background="black", fit="pad", held_out=0.3), out="run", **small)
    text = capsys.readouterr().err
    assert "Finished 1 step in" in text
    assert text.count("Transparent pixels are black: background takes another colour, channels=4 keeps them") == 1
    code, _, err = call(capsys, "rerun", "run", "--out", "again")
    assert code == 0 and err.count("are black: --background takes another colour") == 1
    assert rv.Run.open("again").info["data"] == run.info["data"]


def test_a_data_set_object_keeps_how_it_was_opened(tmp_path: Path) -> None:
    fill(tmp_path / "d", 30, width=30, height=24)
    dataset = rv.open_data(tmp_path / "d", size=16, fit="pad", background="black", held_out=0.3)
    run = train("autoencoder", dataset, out=tmp_path / "run", steps=1, batch_size=8, width=8, quiet=True)
    assert run.info["data"]["fit"] == "pad" and run.info["data"]["held_out"] == 0.3
    assert data_of(rv.load(run)).fingerprint == dataset.fingerprint


def test_a_run_on_an_array_keeps_its_data_in_the_process_and_says_elsewhere_what_to_open(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    run = train("autoencoder", images, out=tmp_path / "run", steps=1, batch_size=8, width=8, quiet=True)
    assert run.info["data"]["source"] == "array" and not run.info["data"]["reopenable"]
    assert data_of(rv.load(run)).fingerprint == run.data.fingerprint
    assert rv.view(run, "reconstructions").shape[0] == 1
    run = rv.Run.open(run.path)  # as another process has it
    gc.collect()
    with pytest.raises(UsageError, match=r"passed from Python.*data = "):
        data_of(rv.load(run))
    assert rv.sample(train("vae", images, out=tmp_path / "v", steps=1, width=8, quiet=True), 2).shape == (2, 8, 8, 1)


def test_a_model_of_squares_refuses_other_shapes_before_a_run_exists(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "d", 20, width=30, height=24)
    code, _, err = call(capsys, "train", "progan", "--data", "d", "--size", "16x32", "--out", "run", "--steps", "1")
    assert code == 2 and "square" in err and not Path("run").exists()


def test_a_run_on_an_array_is_evaluated_when_its_data_is_passed(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (160, 8, 8), np.uint8)
    run = train("vae", images, out=tmp_path / "run", steps=1, batch_size=8, width=8, quiet=True)
    for data in (images, rv.open_data(images)):
        scores = rv.evaluate(run, ["kernel", "reconstruction"], n=60, data=data, out=tmp_path / "scores")
        assert {score.metric for score in scores.scores} >= {"kernel-small", "mse"}
        assert scores.scores[0].passport["reference"]["held_out_trained_on"] is False
    assert rv.evaluate(run, ["reconstruction"], n=60, out=tmp_path / "scores").scores
    run = rv.Run.open(run.path)
    del data
    gc.collect()
    with pytest.raises(UsageError, match="passed from Python"):
        rv.evaluate(run, ["kernel"], n=60, out=tmp_path / "scores")
