"""The list of runs: what it says of each, and the sheet of their samples."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from reverie.commands import COMMANDS
from reverie.core.errors import ReverieError, UsageError
from reverie.training.run import Run, runs_in
from reverie.workflow.train import train


def test_runs_are_listed_with_status_steps_and_scores_and_their_samples_on_a_sheet(bars, tmp_path, capsys):
    how = {"steps": 2, "batch_size": 8, "quiet": True, "width": 8}
    first, second = (train("vae", bars, out=tmp_path / name, **how) for name in ("a", "more/b c"))
    (first.path / "evaluation").mkdir()
    scores = {"scores": [{"metric": "kernel-small", "value": 0.5}, {"metric": "fid", "value": None}]}
    (first.path / "evaluation" / "scores.json").write_text(json.dumps(scores))
    COMMANDS["runs"]([str(tmp_path), "--sheet", str(tmp_path / "sheet.png"), "--json"])
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [str(first.path), str(second.path)]
    row = rows[str(first.path)]
    assert (row["model"], row["status"], row["steps"], row["data"]) == ("vae", "finished", 2, bars)
    assert row["scores"]["kernel-small"] == 0.5 and "psnr" in row["scores"] and "fid" not in row["scores"]
    assert Image.open(tmp_path / "sheet.png").width == 640
    COMMANDS["runs"]([str(tmp_path)])
    assert f"reverie evaluate '{second.path}'" in capsys.readouterr().out  # a path with a space can be pasted


def test_one_run_is_shown_with_the_options_that_are_not_defaults(bars, tmp_path, capsys):
    run = train("vae", bars, out=tmp_path / "run", steps=2, batch_size=8, quiet=True, width=8, hidden=(512, 256))
    COMMANDS["show"]([str(run.path), "--json"])
    listing = json.loads(capsys.readouterr().out)
    assert listing["options"].keys() >= {"width"} and not listing["options"].keys() & {"latent", "hidden"}
    assert listing["checkpoints"] == [0, 2] and {"sample", "encode"} <= set(listing["verbs"])
    COMMANDS["show"]([str(run.path)])
    text = capsys.readouterr().out
    assert "width 8" in text and "finished, 2 steps" in text and "samples.png" in text


def test_a_run_in_training_has_the_steps_of_its_log(tmp_path):
    run = Run.create(tmp_path / "run", {"model": {"name": "vae"}, "status": "running", "seconds": 60.0})
    run.log({"step": 7, "loss": 1.0})
    summary = run.summary()
    assert (summary["steps"], summary["minutes"], summary["data"], summary["scores"]) == (7, 1.0, "", {})


def test_damaged_runs_are_named_and_no_runs_are_an_error(tmp_path, capsys):
    with pytest.raises(UsageError, match="no runs"):
        COMMANDS["runs"]([str(tmp_path)])
    Run.create(tmp_path / "whole", {"model": {"name": "vae"}})
    Run.create(tmp_path / "torn", {"model": {"name": "vae"}})
    (tmp_path / "torn" / "run.json").write_text("{")
    listed, damaged = runs_in(tmp_path)
    assert [run.path.name for run in listed] == ["whole"] and "torn" in damaged[0]
    COMMANDS["runs"]([str(tmp_path)])
    assert "torn" in capsys.readouterr().err
    (tmp_path / "whole" / "evaluation").mkdir()
    (tmp_path / "whole" / "evaluation" / "scores.json").write_text("{}")
    with pytest.raises(ReverieError, match="scores"):
        listed[0].summary()
