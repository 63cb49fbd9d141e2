"""Verbs that show runs: all of a folder, or one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from reverie.commands.shared import RunName, dump, note, out, table, target
from reverie.core.errors import UsageError
from reverie.core.files import quoted
from reverie.core.terminal import count

if TYPE_CHECKING:
    from reverie.training.run import Run

_SCORES = 2  # of a run in the table; --json and ``reverie show`` have all


def runs(
    folder: Positional[Annotated[str, arg(metavar="[FOLDER]")]] = "runs",
    /,
    sheet: Annotated[str | None, arg(metavar="FILE")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Every run in a folder: model, data, status, steps, minutes and first scores, the newest last.

    Args:
        folder: where to look, two levels deep.
        sheet: also write an image with samples of each run.
        overwrite: replace a file that reverie did not write.
        json: print a list of {"run", "model", "data", "status", "steps", "minutes", "scores"}.
    """
    from reverie.training.run import runs_in

    all_runs, damaged = runs_in(folder)
    for line in damaged:
        note(f"Warning: {line}")
    if not all_runs:
        raise UsageError(f"There are no runs in {folder}. `reverie train` makes one.")
    path = target(sheet, "", overwrite, (), "sheet") if sheet else None
    rows = [run.summary() for run in all_runs]
    if path:
        _sheet(all_runs, path)
    if json:
        dump(rows)
        return
    cells = []
    for row in rows:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in [*row["scores"].items()][:_SCORES])
        texts = [str(row[name]) for name in ("run", "model", "data", "status", "steps")]
        cells.append([*texts, f"{row['minutes']:.1f}", scores])
    columns = ("run", "model", "data", "status", "steps", "minutes", "scores")
    table(columns, cells, right=("steps", "minutes"))
    out(f"Next: reverie evaluate {quoted(all_runs[-1].path)}" + (f"; samples of each: {path}" if path else ""))


def show(run: RunName, /, json: bool = False) -> None:
    """One run: its model and options, data, status, scores, what it can do, checkpoints and images.

    Args:
        run: a run directory.
        json: print it as JSON.
    """
    from reverie.core.options import listed
    from reverie.core.verbs import USED
    from reverie.training.checkpoint import steps_in
    from reverie.training.run import Run, locate

    path, step = locate(run)
    opened = Run.open(path)
    if step not in (None, *steps_in(opened.checkpoints)):
        raise UsageError(f"{path} has no checkpoint {step}. It has: {listed(map(str, steps_in(opened.checkpoints)))}.")
    info, summary = opened.info, opened.summary()
    result = summary | {
        "options": _options(opened),
        "training": info.get("training", {}),
        "verbs": [verb for verb in info.get("verbs", []) if verb in USED],
        "card": info.get("card", {}),
        "checkpoints": steps_in(opened.checkpoints),
        "images": sorted(path.name for path in opened.path.glob("*.png")),
    }
    if json:
        dump(result)
        return
    lines = {
        "model": summary["model"] + "".join(f", {name} {value}" for name, value in result["options"].items()),
        "data": summary["data"] or "none",
        "status": f"{summary['status']}, {count(summary['steps'], 'step')} in {summary['minutes']:.1f} minutes",
        "scores": ", ".join(f"{name} {value:.4g}" for name, value in summary["scores"].items()) or "none yet",
        "can": ", ".join(result["verbs"]),
        "reads": result["card"].get("reads", ""),
        "conditions": ", ".join(result["card"].get("conditions", {})) or "none",
        "checkpoints": ", ".join(map(str, result["checkpoints"])) or "none",
        "images": ", ".join(result["images"]) or "none yet",
    }
    out(*(f"{name:12} {value}" for name, value in lines.items() if value))
    if opened.interrupted:
        out(f"Next: reverie resume {quoted(path)}")


def _options(run: Run) -> dict[str, object]:
    """Options of the model other than its defaults; all of them where the model is not known here."""
    from reverie.core import registry

    name, kwargs = run.info["model"]["name"], run.info["model"].get("kwargs") or {}
    defaults = registry.signature(name) if name in registry.names() else {}
    plain = {key: value for key, value in kwargs.items() if not isinstance(value, dict)}
    return {
        key: value
        for key, value in plain.items()
        if key not in defaults or _listed(defaults[key].default) != _listed(value)
    }


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _sheet(runs_: list[Run], path: Path) -> None:
    from reverie.media.montage import labelled, save

    sheets = [(f"{run.path} ({run.status})", image) for run in runs_ if (image := run.samples)]
    if not sheets:
        raise UsageError("None of these runs has samples yet.")
    save(path, labelled(sheets), {"verb": "runs", "runs": [str(run.path) for run in runs_]})
