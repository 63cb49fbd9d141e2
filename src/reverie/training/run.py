"""The run directory.

run.json       the request (model, data, training, seed) and its circumstances (fingerprint, versions, machine, plan)
metrics.jsonl  one line per log point        checkpoints/STEP/, samples/STEP.png
samples.png, reconstructions.png, loss.png, latent-map.png, metrics.json   written at the end
"""

from __future__ import annotations

import base64
import contextlib
import errno
import html
import json
import os
import platform
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reverie
from reverie.core.cache import is_locked
from reverie.core.errors import ReverieError, UsageError, of_argument
from reverie.core.files import (
    atomic,
    check_regular,
    check_target,
    disk_errors,
    exists,
    first_free,
    is_file,
    is_temporary,
    path_of,
    quoted,
    read_json,
    write_json,
)
from reverie.core.schema import fault_of
from reverie.core.terminal import count, printable
from reverie.training.record import RunRecord

_LOG_BYTES = 1 << 28
_OURS = (
    "run.json",
    "metrics.jsonl",
    "checkpoints",
    "samples",
    "evaluation",
    "tensorboard",
    ".lock",
)  # never through a link


def machine() -> dict[str, Any]:
    """The machine, on which a run's numbers depend."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def versions() -> dict[str, str]:
    """Versions of reverie, Python, torch and NumPy."""
    import numpy
    import torch

    return {
        "reverie": reverie.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


@dataclass
class Run:
    """A run directory.

    Attributes:
        info: content of run.json.
        model: the trained model, if its class is the user's (no file can rebuild it); only in the training process.
        data: the training data, if it came from Python (no file can be opened again); only in the training process.
        interrupted: whether its training was killed: it was "running" when the run was opened, and no process trained.
    """

    path: Path
    info: dict[str, Any]
    model: Any = field(default=None, repr=False, compare=False)
    data: Any = field(default=None, repr=False, compare=False)
    interrupted: bool = False

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> Run:
        """A new directory with its run.json.

        Raises:
            UsageError: the directory is not free, or the info is not plain JSON.
        """
        run = cls(path, info)
        run.check_new()
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run.save()
        return run

    def check_new(self) -> None:
        """Raise a UsageError unless the info is plain JSON and the directory is free.

        A lock, and what a killed start of a training left, may be in it.
        """
        try:
            json.dumps(self.info, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"run.json cannot store these options ({error}): use plain, finite values.") from error
        check_free(self.path)

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run.

        Raises:
            UsageError: no run at this path.
            ReverieError: its run.json is damaged.
        """
        path = path_of("path", path)
        file = path / "run.json"
        if not is_file(file):
            raise UsageError(
                f"{path} is not a run: it has no run.json. `reverie train --out {quoted(path)}` creates one."
            )
        if links := [name for name in _OURS if (path / name).is_symlink()]:
            raise ReverieError(
                f"{path / links[0]} is a link. Nothing inside a run is read or written through links, so that no file "
                "outside is changed: put the file or folder itself there (the run directory may be a link)."
            )
        free = not is_locked(path / ".lock")  # before run.json is read, which a training ends before its lock
        try:
            info = read_json(file, links=False)
            if reason := fault_of(info, RunRecord):
                raise ValueError(reason)
        except (OSError, ValueError) as error:
            raise ReverieError(
                f"{file} is damaged: {getattr(error, 'strerror', None) or error}. Its checkpoints are intact; restore "
                "that file."
            ) from error
        return cls(path, info, interrupted=free and info.get("status") == "running")

    def need(self, record: type) -> None:
        """Raise a ReverieError unless run.json has these entries.

        Args:
            record: a ``TypedDict`` of ``training.record``.
        """
        if reason := fault_of(self.info, record):
            raise ReverieError(f"{self.path / 'run.json'} is damaged: {reason}. Restore that file.")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def check_exists(self) -> None:
        """Raise a ReverieError if the directory has vanished."""
        if not self.path.is_dir():
            raise ReverieError(
                f"The run directory {self.path} has vanished. If it was moved, `reverie resume` its new path: "
                "it continues from its newest checkpoint. If it was deleted, nothing is kept."
            )

    def save(self) -> None:
        """Write run.json."""
        self.check_exists()
        write_json(self.path / "run.json", self.info)

    def update(self, **entries: Any) -> None:
        """Change some entries of run.json."""
        self.info |= entries
        self.save()

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self.check_exists()
        with disk_errors(self.path, kept="every checkpoint"), (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are whole: a crash may have cut the last one.

        Raises:
            ReverieError: not a regular file, or larger than 256 MiB.
        """
        path, lines = self.path / "metrics.jsonl", []
        if not os.path.lexists(path):
            return []
        try:
            check_regular(path)
            if path.stat().st_size > _LOG_BYTES:
                raise OSError(errno.EFBIG, "larger than 256 MiB")
            with path.open("rb") as stream:
                lines += [line for text in stream if (line := _line(text)) is not None]
        except OSError as error:
            raise ReverieError(f"{path} cannot be read: {error.strerror}. Move it away or restore it.") from error
        return lines

    def summary(self) -> dict[str, Any]:
        """A row in the list of runs: {"run", "model", "data", "status", "steps", "minutes", "scores"}.

        Scores are those on held-out data at the end of training, and of ``reverie evaluate`` of the same weights on the
        run's own data.

        Raises:
            ReverieError: evaluation/scores.json is damaged.
        """
        info, lines = self.info, [] if "result" in self.info else self.metrics()
        scores = {**self._evaluated(), **(info.get("held_out") or {})}
        steps = info["result"]["steps"] if "result" in info else lines[-1]["step"] if lines else 0
        return {
            "run": str(self.path),
            "model": info["model"]["name"],
            "data": (info.get("data") or {}).get("source", ""),
            "status": self.status,
            "steps": steps,
            "minutes": float(info.get("seconds", 0.0)) / 60,
            "scores": scores,
        }

    def _evaluated(self) -> dict[str, float]:
        file = self.path / "evaluation" / "scores.json"
        if not file.is_file():
            return {}
        try:
            content = read_json(file)
            rows, of = content["scores"], (content.get("weights") or {}).get("checkpoint")
            if "result" in self.info and of not in (None, self.info["result"]["steps"]):
                return {}  # of weights that have been trained since
            scores = {
                row["metric"]: row["value"] for row in rows if row["value"] is not None and self._of_own_data(row)
            }
            if fault := fault_of(scores, dict[str, float], "scores"):
                raise ValueError(fault)
            return scores
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            again = f"`reverie evaluate {quoted(self.path)}` writes a new one"
            raise ReverieError(f"{file} is damaged: {error}. Remove it; {again}.") from error

    def _of_own_data(self, score: dict[str, Any]) -> bool:
        trained_on = (self.info.get("data") or {}).get("fingerprint")
        return score.get("passport", {}).get("reference", {}).get("fingerprint", trained_on) == trained_on

    @property
    def status(self) -> str:
        """ "new", "running", "interrupted", "stopped", "finished" or "failed"."""
        return "interrupted" if self.interrupted else str(self.info.get("status", ""))

    @property
    def curves(self) -> dict[str, tuple[list[int], list[float]]]:
        """Every metric of the log by name: its steps and its values."""
        lines, bookkeeping = self.metrics(), ("step", "seconds")
        names = dict.fromkeys(name for line in lines for name in line if name not in bookkeeping)
        logged = {name: [line for line in lines if name in line] for name in names}
        return {name: ([line["step"] for line in rows], [line[name] for line in rows]) for name, rows in logged.items()}

    @property
    def samples(self) -> Path | None:
        """The image of its samples or translations, at the end or the last of training; None if there is none yet."""
        previews = sorted((self.path / "samples").glob("*.png"), reverse=True)
        images = (self.path / "samples.png", self.path / "translations.png", *previews)
        return next((file for file in images if file.is_file()), None)

    def __repr__(self) -> str:
        row = self.summary()
        data = row["data"] or "no data"
        steps = count(row["steps"], "step")
        return printable(f"Run({row['run']}: {row['model']} on {data}, {row['status']}, {steps})")

    def _repr_html_(self) -> str:
        """Its status, options and scores, the loss curve and the samples."""
        row = self.summary()
        scores = ", ".join(f"{name} {value:.4g}" for name, value in row["scores"].items()) or "none yet"
        entries = {name: row[name] for name in ("run", "model", "data", "status", "steps")} | {"scores": scores}
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(str(value))}</td></tr>" for key, value in entries.items())
        files = (self.samples, self.path / "loss.png")
        encoded = (base64.b64encode(file.read_bytes()).decode() for file in files if file and file.is_file())
        images = "".join(f'<img src="data:image/png;base64,{data}" style="max-width:48%">' for data in encoded)
        return f"<table>{cells}</table>{images}"

    def tidy(self) -> None:
        """Remove temporary files of a killed process. Only while no other process writes here."""
        for folder in (self.path, self.checkpoints, self.path / "samples"):
            for leftover in filter(is_temporary, folder.glob(".aside-*")):
                leftover.unlink(missing_ok=True)
        for leftover in self.checkpoints.glob(".aside-*"):
            if re.fullmatch(r"\.aside-(old-)?\d+-\d+", leftover.name) and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)

    def discard(self) -> None:
        """Remove what a training has written here, and the directory unless something else is in it."""
        for name in _OURS:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    path.unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def forget_after(self, step: int) -> None:
        """Drop log lines after ``step``: a crash lost those steps."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with atomic(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _line(text: bytes) -> dict[str, Any] | None:
    """A line of the log, or None if it is not one: it must have a step, and numbers only."""
    try:
        line = json.loads(text) if len(text) < 1 << 20 else None
    except (ValueError, RecursionError):
        return None
    valid = isinstance(line, dict) and type(line.get("step")) is int and not fault_of(line, dict[str, float])
    return line if valid else None


def runs_in(folder: Path | str) -> tuple[list[Run], list[str]]:
    """The runs in a folder, two levels deep, the newest last; and the errors of damaged ones."""
    folder, runs, damaged = path_of("folder", folder), [], []
    depths = ("", "*/", "*/*/") if exists(folder) else ()
    for file in sorted(path for depth in depths for path in folder.glob(f"{depth}run.json")):
        try:
            opened = Run.open(file.parent)
            opened._evaluated()
            runs.append((file.stat().st_mtime, opened))
        except ReverieError as error:
            damaged.append(str(error))
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])], damaged


def runs(folder: Path | str = "runs") -> list[Run]:
    """The runs in a folder, two levels deep, the newest last; those that cannot be read are left out with a warning."""
    readable, damaged = runs_in(folder)
    for line in damaged:
        warnings.warn(line, stacklevel=2)
    return readable


def check_free(path: Path | str) -> None:
    """Raise a UsageError unless a run directory can be made at ``path``: checked before the work, too.

    A lock, and what a killed start of a training left, may be in it.
    """
    path = path_of("out", path)
    with of_argument("out"), disk_errors(path):
        check_target(path)
        entries = list(path.iterdir()) if path.is_dir() else []
        locks = [entry for entry in entries if entry.name == ".lock" and entry.is_file() and not entry.is_symlink()]
        names = {entry.name for entry in entries if entry not in locks and not is_temporary(entry)}
        if path.is_file() or names:
            what = "a run" if "run.json" in names else "files"
            raise UsageError(
                f"{path} already holds {what}; nothing was touched. Choose another path, or "
                f"`reverie resume {quoted(path)}`."
            )


def fresh_path(model: str, data: str) -> Path:
    """The first free path of runs/MODEL-DATA, runs/MODEL-DATA-2 ..."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(data).name[:48]) or "data"
    return first_free(Path("runs") / f"{model}-{name}")


def locate(where: Path | str) -> tuple[Path, int | None]:
    """Split the path of a run or of a checkpoint in a run into (run directory, step or None for the newest).

    Raises:
        UsageError: neither.
    """
    path = path_of("run", where)
    if re.fullmatch("[0-9]{1,18}", path.name) and path.parent.name == "checkpoints":
        return path.parent.parent, int(path.name)
    if not exists(path):
        raise UsageError(f"There is no run at {path}. `reverie train MODEL --out {quoted(path)}` creates one.")
    return path, None
