"""The list of runs: what it says of each, and the sheet of their samples."""

from __future__ import annotations

import json
import sys
import threading

import pytest
from PIL import Image

from reverie.commands import COMMANDS
from reverie.core import distributed
from reverie.core.cache import is_locked, locked
from reverie.core.errors import ReverieError, UsageError
from reverie.media.montage import labelled
from reverie.training.checkpoint import load_checkpoint, trained
from reverie.training.run import Run, check_free, locate, runs_in
from reverie.workflow.again import resume
from reverie.workflow.train import train


def test_runs_are_listed_with_status_steps_and_scores_and_their_samples_on_a_sheet(bars, tmp_path, capsys):
    how = {"steps": 2, "batch_size": 8, "quiet": True, "width": 8}
    first, second = (train("vae", bars, out=tmp_path / name, **how) for name in ("a", "more/b c"))
    (first.path / "evaluation").mkdir()
    elsewhere = {
        "reference": {"fingerprint": "of other data"}
    }  # its score would stand beside the name of the run's data
    rows = [("kernel-small", 0.5, {}), ("fid", None, {}), ("nll", 84.5, elsewhere)]
    scores = {"scores": [dict(zip(("metric", "value", "passport"), row, strict=True)) for row in rows]}
    (first.path / "evaluation" / "scores.json").write_text(json.dumps(scores))
    COMMANDS["runs"]([str(tmp_path), "--sheet", str(tmp_path / "sheet.png"), "--json"])
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [str(first.path), str(second.path)]
    row = rows[str(first.path)]
    assert (row["model"], row["status"], row["steps"], row["data"]) == ("vae", "finished", 2, bars)
    assert (
        row["scores"]["kernel-small"] == 0.5 and "psnr" in row["scores"] and not {"fid", "nll"} & row["scores"].keys()
    )
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


@pytest.mark.skipif(sys.platform == "win32", reason="a lock cannot be asked for there")
def test_a_run_whose_training_was_killed_is_interrupted_and_one_in_training_is_not(tmp_path, call):
    path = Run.create(tmp_path / "run", {"model": {"name": "vae"}, "status": "running"}).path
    with locked(path / ".lock", wait=False):
        assert Run.open(path).status == "running"
        assert "resume" not in call("show", path)[1]
    assert runs_in(tmp_path)[0][0].summary()["status"] == "interrupted"
    _, out, _ = call("show", path)
    assert "interrupted, 0 steps" in out and out.endswith(f"Next: reverie resume {path}\n")
    Run(path, {}).update(status="finished", model={"name": "vae"})
    assert Run.open(path).status == "finished"


@pytest.mark.skipif(sys.platform == "win32", reason="a lock cannot be asked for there")
def test_a_question_whether_a_run_is_in_training_does_not_stop_one_that_starts(tmp_path):
    import fcntl

    with (tmp_path / ".lock").open("ab") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        threading.Timer(0.01, fcntl.flock, (asking, fcntl.LOCK_UN)).start()
        with locked(tmp_path / ".lock", wait=False) as alone:
            assert alone and is_locked(tmp_path / ".lock")
    assert not is_locked(tmp_path / ".lock")


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


@pytest.mark.parametrize("value", ["a", [1], 10**400, True])
def test_a_run_with_odd_scores_is_named_and_the_others_are_listed(tmp_path, value):
    for name in ("whole", "odd"):
        Run.create(tmp_path / name, {"model": {"name": "vae"}})
    (tmp_path / "odd" / "evaluation").mkdir()
    scores = json.dumps({"scores": [{"metric": "fid", "value": value}]})
    (tmp_path / "odd" / "evaluation" / "scores.json").write_text(scores)
    listed, damaged = runs_in(tmp_path)
    assert [run.path.name for run in listed] == ["whole"] and "scores.json is damaged" in damaged[0]


def test_damaged_samples_are_named_on_the_sheet(tmp_path):
    (tmp_path / "samples.png").write_bytes(b"no image")
    assert labelled([("run", tmp_path / "samples.png")]).shape == (19, 640, 3)


def test_what_a_file_says_does_not_reach_the_terminal_from_python(tmp_path):
    hostile = "\x1b[31mred\n"
    run = Run.create(tmp_path / "r", {"model": {"name": "vae"}, "data": {"source": hostile}})
    assert "\\x1b[31mred\\x0a" in repr(run) and str(UsageError(hostile)) == "\\x1b[31mred\\x0a"


@pytest.mark.parametrize("name", ["\u00b2", "1" * 5000, "7a"])
def test_a_checkpoint_has_a_number_of_ascii_digits(tmp_path, name):
    with pytest.raises(UsageError, match="no run at"):
        locate(tmp_path / "checkpoints" / name)


def test_only_our_own_left_overs_may_be_in_a_new_run_and_are_removed(tmp_path):
    left = [tmp_path / ".aside-ab12_x9z.json", tmp_path / ".lock"]
    for path in left:
        path.touch()
    check_free(tmp_path)
    Run(tmp_path, {}).tidy()
    assert not left[0].exists()
    for name in (".aside-photos", "checkpoints/.aside-photos"):
        (tmp_path / name).mkdir(parents=True)
    Run(tmp_path, {}).tidy()
    assert (tmp_path / ".aside-photos").exists() and (tmp_path / "checkpoints" / ".aside-photos").exists()
    with pytest.raises(UsageError, match="already holds files"):
        check_free(tmp_path)


def test_a_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="already holds files"):
        check_free(tmp_path / "run")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "run" / ".lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_rank_without_a_world_means_nothing_and_an_odd_world_is_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert distributed.rank() == 0 and distributed.launched() == 1
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="WORLD_SIZE"):
        distributed.rank()


def test_a_finished_run_whose_last_checkpoint_is_damaged_is_named_shown_and_repaired_by_resume(bars, tmp_path, capsys):
    run = train("vae", bars, out=tmp_path / "run", steps=4, batch_size=8, quiet=True, width=8)
    whole = load_checkpoint(run.checkpoints / "00000004").weights
    (run.checkpoints / "00000004" / "ema.safetensors").write_bytes(b"torn")
    with pytest.raises(UsageError, match=r"checkpoint 4 is damaged .* those of step 0"):
        trained(run)
    (run.path / "evaluation").mkdir()
    old = {"weights": {"checkpoint": 2}, "scores": [{"metric": "fid", "value": 7.0}]}
    (run.path / "evaluation" / "scores.json").write_text(json.dumps(old))
    assert "fid" not in run.summary()["scores"]  # of weights that were trained further
    again = resume(run.path, quiet=True)
    mended = load_checkpoint(again.checkpoints / "00000004").weights
    assert all(whole[name].equal(mended[name]) for name in whole)
    with pytest.raises(UsageError, match="no checkpoint 99"):
        COMMANDS["show"]([str(run.checkpoints / "99")])
