"""The loop: train, resume, rerun. One story from a request to a finished run directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from reverie import registry
from reverie.core import distributed
from reverie.core.errors import UsageError
from reverie.core.precision import pick_device
from reverie.data import Dataset, open_data, reopen
from reverie.data.memory import name_of
from reverie.data.options import WHITE, Background
from reverie.data.provenance import upgraded
from reverie.media import Size
from reverie.recipes import recipe_for
from reverie.training.checkpoint import trained
from reverie.training.options import Options, sort_options
from reverie.training.plan import Plan
from reverie.training.run import Run, fresh_path, machine, versions
from reverie.training.runner import Training
from reverie.verbs import Model, verbs_of


def train(
    model: str = "vae",
    data: Any = "fashion",
    size: Size | None = None,
    fit: str = "crop",
    background: Background = WHITE,
    held_out: float = 0.1,
    channels: int | None = None,
    medium: str | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Run:
    """Train a model and leave a run directory.

    Args:
        model: a name of ``registry.MODELS``.
        data: a ``Dataset``, or what ``open_data`` opens.
        size, fit, background, held_out, channels, medium: as for ``open_data``, where ``data`` is still to be opened.
        out: the run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        quiet: say nothing.
        progress: called while pictures are being read, (done, total, what).
        options: the model's own, its phases' and ``Options``' fields; the recipe's values where not given.
    Raises:
        UsageError: an unknown name or an unfit value.
        ReverieError: the data cannot be used, the disk refuses, or training diverged (what was kept is said).
    """
    registry.entry(model)
    name = data if isinstance(data, str) else data.source if isinstance(data, Dataset) else name_of(data)
    recipe = recipe_for(model, name, pick_device(options.get("device", "auto")).type == "cuda")
    kwargs, moves, training = sort_options(model, options)
    if "steps" in training or "minutes" in training:
        recipe_training = {k: v for k, v in recipe.get("training", {}).items() if k not in ("steps", "minutes")}
    else:
        recipe_training = {"minutes": 3.0} | recipe.get("training", {})
    chosen = Options(**recipe_training | training)
    with distributed.group():
        plan = Plan.of(chosen.steps, chosen.minutes)
        distributed.rows(chosen.batch_size)
        if not isinstance(data, Dataset):
            data = open_data(data, size, channels, fit, background, held_out, medium, progress)
        built = _fill(_build(model, _named(recipe.get("model", {}) | kwargs), data, chosen.seed))
        info = {
            "reverie": versions()["reverie"],
            "model": built.config,
            "verbs": verbs_of(built),
            "phases": recipe.get("phases", {}) | moves,
            "data": data.provenance,
            "training": asdict(chosen),
            "plan": asdict(plan),
            "versions": versions(),
            "machine": machine() | {"processes": distributed.world()},
            "status": "new",
            "seconds": 0.0,
        }
        path = Path(distributed.agree(str(out or fresh_path(model, name))))
        runner = Training(Run(path, info), built, data, chosen, plan, quiet)
        if distributed.rank() == 0:  # only now that every option has proved usable
            Run.create(path, info)
        return runner.go()


def resume(path: Path | str, quiet: bool = False) -> Run:
    """Continue a run from its newest whole checkpoint, bit for bit as if it had never stopped (same device).

    Raises:
        UsageError: there is no run, or it is finished.
        ReverieError: the pictures are not the ones it was trained on.
    """
    run = Run.open(path)
    if run.info["status"] == "finished":
        raise UsageError(f"{run.path} is finished. `reverie sample {run.path}` draws from it; a new --out trains anew.")
    with distributed.group():
        return _again(run, run.info, quiet).go()


def rerun(path: Path | str, out: Path | str | None = None, quiet: bool = False) -> Run:
    """Repeat a run from its run.json, with the very number of steps that its budget came to, in a new directory.

    Raises:
        UsageError: there is no run, or ``out`` is taken.
        ReverieError: the pictures are not the ones it was trained on.
    """
    old = Run.open(path).info
    if "imported" in old:
        raise UsageError(f"{path} was imported, not trained here: there is nothing to repeat. `reverie sample {path}`.")
    keep = ("reverie", "model", "verbs", "phases", "data", "training", "plan")
    info = {key: old[key] for key in keep} | {
        "rerun_of": str(path),
        "versions": versions(),
        "machine": machine(),
        "status": "new",
        "seconds": 0.0,
    }
    with distributed.group():
        where = Path(distributed.agree(str(out or fresh_path(old["model"]["name"], upgraded(old["data"])["source"]))))
        runner = _again(Run(where, info), info, quiet, fresh=True)
        if distributed.rank() == 0:
            Run.create(where, info)
        return runner.go()


def _named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, where one is a run's path with what that run trained: {"name", "kwargs", "run"}."""
    paths = {key: kwargs[key] for key in registry.RUN_ARGUMENTS if isinstance(kwargs.get(key), str) and kwargs[key]}
    return kwargs | {key: trained(path)[1].config | {"run": path} for key, path in paths.items()}


def _fill(model: Model) -> Model:
    """Put the weights of the runs that a fresh model builds on into its sub-modules of that name."""
    for key in registry.RUN_ARGUMENTS:
        argument = model.config["kwargs"].get(key)
        if isinstance(argument, dict) and "run" in argument:
            saved = trained(argument["run"])[1]
            getattr(model, key).load_state_dict(saved.weights if saved.ema is None else saved.ema)
    return model


def _build(name: str, kwargs: dict[str, Any], data: Dataset, seed: int) -> Model:
    """The model with the initial weights of this seed; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.build(name, data, **kwargs)


def _again(run: Run, info: dict[str, Any], quiet: bool, fresh: bool = False) -> Training:
    """The training that run.json describes; a fresh one takes the weights of the runs it builds on."""
    data = reopen(info["data"])
    chosen = Options(**info["training"])
    plan = Plan([(step, progress) for step, progress in info["plan"]["knots"]], info["plan"]["minutes"])
    built = _build(info["model"]["name"], info["model"]["kwargs"], data, chosen.seed)
    return Training(run, _fill(built) if fresh else built, data, chosen, plan, quiet)
