"""The run directory: what was asked, what happened, and how to open it again.

run.json       what was asked (model, data, training, seed) and what it met (fingerprint, versions, machine, plan)
metrics.jsonl  one line per log point        checkpoints/STEP/, samples/STEP.png
samples.png, reconstructions.png, loss.png, latent-map.png, metrics.json   written at the end
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import reverie
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import atomic, disk_errors, quoted, read_json, write_json


def machine() -> dict[str, Any]:
    """What the numbers of a run depend on."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }


def versions() -> dict[str, str]:
    """Versions of reverie, Python and what computes."""
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
        info: run.json's content.
        model: the trained model, in the process that trained it, where its class is the user's own: no file says how to
            build it.
    """

    path: Path
    info: dict[str, Any]
    model: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def create(cls, path: Path, info: dict[str, Any]) -> Run:
        """A new directory with its run.json.

        Raises:
            UsageError: something is there already, or the info is not plain.
        """
        try:
            json.dumps(info, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"run.json cannot hold these options ({error}): give plain, finite values.") from error
        with disk_errors(path):
            taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if taken:
            what = "a run" if (path / "run.json").exists() else "something"
            raise UsageError(
                f"{path} already holds {what}; nothing was touched. Choose another --out, or "
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
            UsageError: there is no run.
            ReverieError: its run.json is damaged.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise UsageError(
                f"{path} is not a run: it has no run.json. `reverie train --out {quoted(path)}` would make one."
            )
        try:
            info = read_json(path / "run.json")
            if not isinstance(info, dict) or not isinstance(info.get("model"), dict):
                raise ValueError("it names no model")
        except ValueError as error:
            raise ReverieError(
                f"{path / 'run.json'} is damaged: {error}. Its checkpoints are whole; restore that file."
            ) from error
        return cls(path, info)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def save(self) -> None:
        """Write run.json."""
        write_json(self.path / "run.json", self.info)

    def update(self, **facts: Any) -> None:
        """Change some entries of run.json."""
        self.info |= facts
        self.save()

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with disk_errors(self.path, kept="every checkpoint"), (self.path / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line torn by a crash is left out."""
        path = self.path / "metrics.jsonl"
        lines = []
        for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                break
            if isinstance(line, dict) and isinstance(line.get("step"), int):  # else somebody else wrote it
                lines.append(line)
        return lines

    def summary(self) -> dict[str, Any]:
        """What stands in a list of runs: {"run", "model", "data", "status", "steps", "minutes", "scores"}.

        Scores are those of held-out data at the end of training, and of ``reverie evaluate``.

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
            return {one["metric"]: one["value"] for one in read_json(file)["scores"] if one["value"] is not None}
        except (ValueError, KeyError, TypeError) as error:
            again = f"`reverie evaluate {quoted(self.path)}` measures again"
            raise ReverieError(f"{file} is damaged: {error}. Remove it; {again}.") from error

    def tidy(self) -> None:
        """Remove what a killed process left half written. Only while nobody else writes here."""
        for folder in (self.path, self.checkpoints, self.path / "samples"):
            for aside in folder.glob(".aside-*"):
                if aside.is_dir() and not aside.is_symlink():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.unlink(missing_ok=True)

    def forget_after(self, step: int) -> None:
        """Drop log lines past ``step``: they belong to work that a crash undid."""
        lines = [line for line in self.metrics() if line["step"] <= step]
        with atomic(self.path / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(line) + "\n" for line in lines))


def runs_in(folder: Path | str) -> tuple[list[Run], list[str]]:
    """The runs in a folder, two levels deep, the newest last; and what is wrong with those that cannot be read."""
    found, damaged = [], []
    for file in sorted(one for depth in ("", "*/", "*/*/") for one in Path(folder).glob(f"{depth}run.json")):
        try:
            found.append((file.stat().st_mtime, Run.open(file.parent)))
        except ReverieError as error:
            damaged.append(str(error))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])], damaged


def fresh_path(model: str, data: str) -> Path:
    """runs/MODEL-DATA, or with -2, -3 ... the first that does not exist."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(data).name) or "data"
    base = Path("runs") / f"{model}-{name}"
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def locate(where: Path | str) -> tuple[Path, int | None]:
    """A run directory, or a checkpoint inside one, to (run directory, step or None for the newest).

    Raises:
        UsageError: neither.
    """
    path = Path(where)
    if path.name.isdigit() and path.parent.name == "checkpoints":
        return path.parent.parent, int(path.name)
    if not path.exists():
        raise UsageError(f"There is no run at {path}. `reverie train MODEL --out {quoted(path)}` would make one.")
    return path, None
