"""The run directory.

run.json       the request (model, data, training, seed) and its circumstances (fingerprint, versions, machine, plan)
metrics.jsonl  one line per log point        checkpoints/STEP/, samples/STEP.png
samples.png, reconstructions.png, loss.png, latent-map.png, metrics.json   written at the end
"""

from __future__ import annotations

import base64
import html
import json
import os
import platform
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reverie
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import atomic, disk_errors, quoted, read_json, write_json

_TYPES: dict[str, Any] = {  # of the entries of run.json that may be missing
    "data": dict | None,
    "held_out": dict | None,
    "result": dict,
    "seconds": int | float,
}


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
    """

    path: Path
    info: dict[str, Any]
    model: Any = field(default=None, repr=False, compare=False)
    data: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> Run:
        """A new directory with its run.json.

        Raises:
            UsageError: the directory is not empty, or the info is not plain JSON.
        """
        try:
            json.dumps(info, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"run.json cannot store these options ({error}): use plain, finite values.") from error
        with disk_errors(path):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if taken:
            what = "a run" if (path / "run.json").exists() else "files"
            raise UsageError(
                f"{path} already holds {what}; nothing was touched. Choose another {argument('out')}, or "
                f"`reverie resume {quoted(path)}`."
            )
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, info)
        run.save()
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run.

        Raises:
            UsageError: no run at this path.
            ReverieError: its run.json is damaged.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise UsageError(
                f"{path} is not a run: it has no run.json. `reverie train --out {quoted(path)}` creates one."
            )
        try:
            info = read_json(path / "run.json")
            model = info.get("model") if isinstance(info, dict) else None
            if not isinstance(model, dict) or not isinstance(model.get("name"), str):
                raise ValueError("it names no model")
            for name, kind in _TYPES.items():
                if name in info and not isinstance(info[name], kind):
                    raise ValueError(f"its {name} cannot be {info[name]!r}")
        except ValueError as error:
            raise ReverieError(
                f"{path / 'run.json'} is damaged: {error}. Its checkpoints are intact; restore that file."
            ) from error
        return cls(path, info)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def save(self) -> None:
        """Write run.json."""
        write_json(self.path / "run.json", self.info)

    def update(self, **entries: Any) -> None:
        """Change some entries of run.json."""
        self.info |= entries
        self.save()

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with disk_errors(self.path, kept="every checkpoint"), (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without an incomplete last line after a crash."""
        path = self.path / "metrics.jsonl"
        lines = []
        for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                break
            if isinstance(line, dict) and isinstance(line.get("step"), int):  # else not from reverie
                lines.append(line)
        return lines

    def summary(self) -> dict[str, Any]:
        """A row in the list of runs: {"run", "model", "data", "status", "steps", "minutes", "scores"}.

        Scores are those on held-out data at the end of training, and of ``reverie evaluate``.

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
            "status": info.get("status", ""),
            "steps": steps,
            "minutes": float(info.get("seconds", 0.0)) / 60,
            "scores": scores,
        }

    def _evaluated(self) -> dict[str, float]:
        file = self.path / "evaluation" / "scores.json"
        if not file.is_file():
            return {}
        try:
            return {row["metric"]: row["value"] for row in read_json(file)["scores"] if row["value"] is not None}
        except (ValueError, KeyError, TypeError) as error:
            again = f"`reverie evaluate {quoted(self.path)}` writes a new one"
            raise ReverieError(f"{file} is damaged: {error}. Remove it; {again}.") from error

    @property
    def status(self) -> str:
        """ "new", "running", "stopped", "finished" or "failed"."""
        return str(self.info.get("status", ""))

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
        return f"Run({row['run']}: {row['model']} on {row['data'] or 'no data'}, {row['status']}, {row['steps']} steps)"

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
            for leftover in folder.glob(".aside-*"):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)

    def forget_after(self, step: int) -> None:
        """Drop log lines after ``step``: a crash lost those steps."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with atomic(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def runs_in(folder: Path | str) -> tuple[list[Run], list[str]]:
    """The runs in a folder, two levels deep, the newest last; and the errors of damaged ones."""
    runs, damaged = [], []
    for file in sorted(path for depth in ("", "*/", "*/*/") for path in Path(folder).glob(f"{depth}run.json")):
        try:
            runs.append((file.stat().st_mtime, Run.open(file.parent)))
        except ReverieError as error:
            damaged.append(str(error))
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])], damaged


def runs(folder: Path | str = "runs") -> list[Run]:
    """The runs in a folder, two levels deep, the newest last; those that cannot be read are left out with a warning."""
    readable, damaged = runs_in(folder)
    for line in damaged:
        warnings.warn(line, stacklevel=2)
    return readable


def fresh_path(model: str, data: str) -> Path:
    """The first free path of runs/MODEL-DATA, runs/MODEL-DATA-2 ..."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(data).name) or "data"
    base = Path("runs") / f"{model}-{name}"
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def locate(where: Path | str) -> tuple[Path, int | None]:
    """Split the path of a run or of a checkpoint in a run into (run directory, step or None for the newest).

    Raises:
        UsageError: neither.
    """
    path = Path(where)
    if path.name.isdigit() and path.parent.name == "checkpoints":
        return path.parent.parent, int(path.name)
    if not path.exists():
        raise UsageError(f"There is no run at {path}. `reverie train MODEL --out {quoted(path)}` creates one.")
    return path, None
