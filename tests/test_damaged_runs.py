"""Damaged and crafted run directories: every verb ends with a message, and nothing outside the run is touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import reverie as rv
from reverie.cli import main
from reverie.workflow import artifacts
from run_damage import mutations, newest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes, sockets and signals of POSIX")
VERBS = {
    "show": ["x"],
    "runs": ["."],
    "sample": ["x", "-n", "1", "--out", "o.npz"],
    "resume": ["x"],
    "rerun": ["x", "--out", "again"],
    "evaluate": ["x", "--number", "32"],
    "doctor": ["x"],
    "view": ["x", "--out", "v.png"],
}
STRIDE = 5  # every fifth mutation of about 1,600


@pytest.fixture
def base(bars, tmp_path, monkeypatch):
    """A small run that was stopped before its last step, in the current folder, and a folder outside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(artifacts, "write_artifacts", lambda *args: {})
    shape = {"net": "dense", "hidden": (16,), "latent": 3}
    how = {"steps": 3, "keep": 3, "checkpoint_every": 1, "log_every": 2, "batch_size": 16, "precision": "fp32"}
    run = rv.train("vae", bars, out=tmp_path / "base", quiet=True, **shape, **how)
    shutil.rmtree(run.checkpoints / "00000003")
    run.update(status="stopped")
    outside = tmp_path / "outside"
    shutil.copytree(newest(run.path), outside)
    shutil.copytree(newest(run.path), outside / "00000001")
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(run.path / name, outside)
    return run.path


def listing(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


@pytest.mark.filterwarnings("ignore:Weights of:UserWarning")  # which it is, of an unfinished run
def test_hundreds_of_damaged_and_crafted_runs_end_with_a_message_and_touch_nothing_outside(base, tmp_path, capsys):
    def hangs(*args):
        raise TimeoutError

    before, before_alarm = listing(tmp_path / "outside"), signal.signal(signal.SIGALRM, hangs)
    cases, faults, refused = list(mutations(base, tmp_path / "outside"))[::STRIDE], [], 0
    assert len(cases) >= 300
    for name, mutate, verbs in cases:
        shutil.copytree(base, "x", symlinks=True)
        mutate(Path("x"))
        for verb in verbs:
            shutil.rmtree("again", ignore_errors=True)
            for file in ("o.npz", "v.png"):
                Path(file).unlink(missing_ok=True)
            signal.alarm(5)
            try:
                main([verb, *VERBS[verb]])
            except SystemExit as end:
                refused += end.code != 0
                text = capsys.readouterr().err
                if end.code not in (0, 1, 2) or (end.code and f"reverie {verb}: " not in text):
                    faults.append((name, verb, end.code, text))
            except BaseException as error:
                faults.append((name, verb, repr(error)))
            finally:
                signal.alarm(0)
        if listing(tmp_path / "outside") != before or Path("executed").exists():
            faults.append((name, "a change outside"))
            break
        shutil.rmtree("x")
    signal.signal(signal.SIGALRM, before_alarm)
    assert not faults
    assert refused > len(cases) / 3


LARGE = """
import os, resource, sys
import torch
from reverie.cli import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    main(sys.argv[1:])
except SystemExit as end:
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(end.code, round(more))
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b"[[]," * (4 << 20)),
        ("metrics.jsonl", bytes(200 << 20)),
        ("checkpoints/00000002/manifest.json", b'{"a":1},' * (20 << 20)),
    ],
)
def test_a_crafted_large_file_takes_little_memory(base, name, content):
    Path(base, name).write_bytes(content)
    verb = "resume" if name == "metrics.jsonl" else "sample"
    command = [sys.executable, "-c", LARGE, verb, *VERBS[verb]]
    shutil.move(base, "x")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=True)
    code, more = map(int, done.stdout.split()[-2:])
    assert code in (0, 1) and more < 500, done.stderr
