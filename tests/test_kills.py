"""kill -9 at every file operation of what training writes, by injection: what is then there, and that it goes on."""

from __future__ import annotations

import io
import json
import os
import shutil
import traceback
from pathlib import Path

import pytest
import torch

import reverie as rv
from reverie.core import registry
from reverie.training.checkpoint import Checkpoint, load_checkpoint, newest_whole, save_checkpoint, set_aside, steps_in
from reverie.training.run import Run
from reverie.workflow import artifacts
from run_cases import SMALL, Staged

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed processes are forks")
OPERATIONS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "chmod")


def killed(function, at):
    """Run a function in a child that dies before its file operation ``at``: whether it died, and all operations."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        count, status = 0, 1

        def before():
            nonlocal count
            if count == at:
                os._exit(137)
            count += 1

        def counted(real):
            def operation(*args, **kwargs):
                before()
                return real(*args, **kwargs)

            return operation

        def half(real):
            def write_half(path, content, *args, **kwargs):
                if count == at:
                    real(path, content[: len(content) // 2], *args, **kwargs)
                before()
                return real(path, content, *args, **kwargs)

            return write_half

        try:
            for name in OPERATIONS:
                setattr(os, name, counted(getattr(os, name)))
            io.open = counted(io.open)
            Path.write_bytes, Path.write_text = half(Path.write_bytes), half(Path.write_text)
            function()
            status = 0
            os.write(write, str(count).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as stream:
        done = stream.read()
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 137), code
    return code == 137, int(done or 0)


def checkpoint(step):
    weights = {"w": torch.full((3,), float(step))}
    return Checkpoint(step, {"name": "x", "kwargs": {}}, weights, weights, {"n": step})


def every_kill(tmp_path, prepare, function, check):
    """Kill ``function(folder)`` at each of its operations in turn, in a fresh folder each time; returns how many."""
    number = 0
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare(folder)
        died, _ = killed(lambda folder=folder: function(folder), number)
        check(folder)
        shutil.rmtree(folder)
        if not died:
            return number
        number += 1


@pytest.mark.parametrize(("keep", "obstacle"), [(1, True), (2, False)])
def test_a_save_that_is_killed_anywhere_leaves_a_whole_checkpoint_and_the_next_one_tidies_up(tmp_path, keep, obstacle):
    def prepare(folder):
        for step in range(1, keep + 1):
            save_checkpoint(folder / "checkpoints", checkpoint(step), keep)
        if obstacle:  # damaged ones: of the step that is saved, and one that was set aside
            for step in (8, 9):
                shutil.copytree(folder / "checkpoints" / "00000001", damaged := folder / "checkpoints" / f"{step:08d}")
                (damaged / "model.safetensors").write_bytes(b"")
            set_aside(folder / "checkpoints" / "00000008")

    def check(folder):
        path, _ = newest_whole(folder / "checkpoints")
        content = load_checkpoint(path, training=True)
        assert content.step in (keep, 9) and content.training == {"n": content.step}
        assert content.weights["w"].tolist() == content.ema["w"].tolist() == [content.step] * 3
        Run(folder, {}).tidy()
        for step in (9, 10):
            save_checkpoint(folder / "checkpoints", checkpoint(step), keep)
        left = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert left == ["00000009", "00000010"][-keep:]

    count = every_kill(tmp_path, prepare, lambda f: save_checkpoint(f / "checkpoints", checkpoint(9), keep), check)
    assert count > 20


def test_a_killed_write_of_run_json_or_the_log_leaves_the_old_or_the_new_content(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (1, 2, 3)]

    def prepare(folder):
        run = Run.create(folder / "run", {"model": {"name": "x"}, "status": "running"})
        for line in lines:
            run.log(line)

    def write(folder):
        run = Run.open(folder / "run")
        run.update(status="stopped")
        run.forget_after(2)
        run.log({"step": 3, "loss": 2.0})

    def check(folder):
        run = Run.open(folder / "run")
        assert run.status in ("interrupted", "stopped")
        assert run.metrics() in (lines, lines[:2], [*lines[:2], {"step": 3, "loss": 2.0}])

    assert every_kill(tmp_path, prepare, write, check) > 10


@pytest.fixture
def staged(monkeypatch):
    monkeypatch.setitem(registry.MODELS, "staged", registry.Entry(f"{Staged.__module__}:Staged", "", "", ""))
    monkeypatch.setattr(artifacts, "write_artifacts", lambda *args: {})


def log_of(run):
    """The lines of the log without what the clock says."""
    clock = ("seconds", "images_per_second")
    return [{name: value for name, value in line.items() if name not in clock} for line in run.metrics()]


def test_a_training_that_is_killed_at_file_operations_all_over_it_ends_with_the_same_weights_and_log(
    staged, bars, tmp_path
):
    how = SMALL | {"steps": 9, "log_every": 4, "checkpoint_every": 3, "keep": 1}
    expected = rv.train("staged", bars, out=tmp_path / "expected", **how)
    assert [line["step"] for line in expected.metrics()] == [4, 8, 9]
    _, count = killed(lambda: rv.train("staged", bars, out=tmp_path / "counted", **how), -1)
    for at in range(3, count, count // 8):
        out = tmp_path / str(at)
        assert killed(lambda out=out: rv.train("staged", bars, out=out, **how), at)[0]
        if (out / "run.json").exists():
            killed(lambda out=out: rv.resume(out, quiet=True), at // 2)  # and again, on its way
            run = Run.open(out)
        else:
            run = rv.train("staged", bars, out=out, **how)
        run = rv.resume(out, quiet=True) if run.status != "finished" else run
        weights, other = (load_checkpoint(newest_whole(r.checkpoints)[0], training=True) for r in (expected, run))
        assert all(torch.equal(weights.weights[name], other.weights[name]) for name in weights.weights)
        assert all(torch.equal(weights.ema[name], other.ema[name]) for name in weights.ema)
        assert log_of(run) == log_of(expected), at
        assert not list(out.rglob(".aside-*")) and steps_in(run.checkpoints) == [9]
        assert json.loads((out / "run.json").read_text())["status"] == "finished"
