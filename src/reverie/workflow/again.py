"""Resume, extend or repeat a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from reverie.core import distributed
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import quoted
from reverie.core.values import integer
from reverie.training.callbacks import Callback
from reverie.training.checkpoint import load_checkpoint, newest_whole, passed_over, put_weights, set_aside
from reverie.training.formats import FORMAT
from reverie.training.loop import Loop
from reverie.training.options import Options
from reverie.training.plan import Plan, seconds_of
from reverie.training.record import TrainedRecord
from reverie.training.run import Run, check_free, fresh_path, machine, versions
from reverie.workflow import parts
from reverie.workflow.train import drive


def resume(
    path: Path | str,
    steps: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    model: nn.Module | None = None,
    data: Any = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Continue a run from its newest undamaged checkpoint, bit for bit as without the interruption (same device).

    ``steps`` or ``minutes`` extends it. A finished run continues like a run of the full length, after a new warm-up.

    Args:
        path: the run directory.
        steps: train until this total number of steps.
        minutes: train this many minutes more.
        model: a fresh instance, if the run is of a class of your own.
        data: the data, if the run cannot reopen it: a ``Dataset``, an object, or another path to it.
        callbacks: additional callbacks.
    Raises:
        UsageError: no run; or it is finished, in training by another process, or of an older version.
        ReverieError: the data is not what the run was trained on.
    """
    run = Run.open(path)
    if steps is not None and minutes is not None:
        raise UsageError(f"Set either {argument('steps')} (in total) or {argument('minutes')} (more), not both.")
    if "imported" in run.info:
        name = run.info["model"]["name"]
        raise UsageError(
            f"{path} was imported, not trained here. `reverie train {name} --init {quoted(path)}` trains it further."
        )
    _check_format(run)
    with distributed.group(), parts.alone(run.path):
        run = Run.open(path)  # again: its state under the lock
        run.need(TrainedRecord)
        newest, passed = newest_whole(run.checkpoints)
        if run.info["status"] == "finished" and steps is None and minutes is None and not passed:
            raise UsageError(
                f"{run.path} is finished. `reverie sample {quoted(run.path)}` samples from it; {argument('steps')} (in "
                f"total) or {argument('minutes')} (more) extends it."
            )
        info = run.info
        opened = parts.data_of(info, data)
        built = parts.model_of(info, run.path, opened, model, fresh=newest is None)
        chosen = Options(**info["training"])
        plan = Plan.from_state(info["plan"])
        if newest is None and "rerun_of" not in info:  # without a checkpoint the clock's plan restarts
            plan = Plan.of(chosen.steps, chosen.minutes, parts.reserve(chosen.minutes))
        loop = parts.loop_of(run, built, opened, chosen, plan, callbacks, quiet)
        if newest is not None:
            _restore(loop, newest)
        extensions = info.get("extensions", [])
        if steps is not None or minutes is not None:
            extensions = [extension for extension in extensions if extension["step"] < loop.step]
            extensions.append(_extension(loop.step, steps, minutes))
            info["extensions"] = extensions
        loop.extensions = [extension for extension in extensions if extension["step"] >= loop.step]
        for damaged, reason in passed:
            kept = set_aside(damaged) if loop.leader else damaged
            loop.say(
                f"Warning: {passed_over(damaged, reason)}; using the one before it. It is {kept.name} until this "
                "training is past its step."
            )
        if newest is not None:
            loop.say(f"Continuing {run.path} from step {loop.step}.")
        with parts.same_threads(run, loop.say):
            return drive(run, loop)


def _restore(loop: Loop, checkpoint: Path) -> None:
    """Load weights, average and training state.

    Raises:
        ReverieError: they do not fit the loop.
    """
    saved = load_checkpoint(checkpoint, training=True, device=loop.device)
    put_weights(loop.model, saved.weights, checkpoint)
    try:
        if loop.engine.ema and saved.ema:
            loop.engine.ema.load_state_dict(saved.ema)
        loop.load_state(saved.step, saved.training or {})
    except ReverieError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ReverieError(
            f"The training state in {checkpoint} does not fit this run ({what:.200}). Without that folder, `reverie "
            f"resume` continues from the checkpoint before it."
        ) from error


def _extension(step: int, steps: int | None, minutes: float | None) -> dict[str, Any]:
    if steps is None:
        return {"step": step, "minutes": minutes, "seconds": seconds_of(minutes) - parts.reserve(minutes)}
    if integer(argument("steps"), steps, least=1) <= step:
        raise UsageError(f"{argument('steps')} is the total number of steps, and {step} are done: set a larger number.")
    return {"step": step, "steps": steps}


def rerun(
    path: Path | str,
    out: Path | str | None = None,
    quiet: bool = False,
    model: nn.Module | None = None,
    data: Any = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Repeat a run from its run.json in a new directory, with its exact number of steps.

    Args:
        out: the new directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        model: required if the run started from a model that was passed: that model, with its initial weights.
        data: the data, if the run cannot reopen it: a ``Dataset``, an object, or another path to it.
        callbacks: additional callbacks.
    Raises:
        UsageError: no run, ``out`` is not empty, or the model is missing.
        ReverieError: the data, or the weights of the run that it started from, have changed.
    """
    if out is not None:
        check_free(out)
    original = Run.open(path)
    old = original.info
    if "imported" in old:
        raise UsageError(
            f"{path} was imported, not trained here: there is nothing to repeat. `reverie sample {quoted(path)}`."
        )
    _check_format(original)
    original.need(TrainedRecord)
    kept = (
        "format",
        "reverie",
        "model",
        "verbs",
        "card",
        "phases",
        "data",
        "training",
        "given",
        "init",
        "code",
        "files",
        "sub_runs",
    )
    plan = Plan.from_state(old["plan"]).fixed()
    info = {key: old[key] for key in kept if key in old} | {
        "plan": plan.state(),
        "rerun_of": str(path),
        "versions": versions(),
        "status": "new",
        "seconds": 0.0,
    }
    with distributed.group():
        opened = parts.data_of(info, data)
        source = (old["data"] or {}).get("source", "")
        where = Path(distributed.agree(str(out or fresh_path(old["model"]["name"].rpartition(":")[2], source))))
        built = parts.model_of(info, Path(path), opened, model, fresh=True)
        run = Run(where, info)
        loop = parts.loop_of(run, built, opened, Options(**info["training"]), plan, callbacks, quiet)
        with parts.same_threads(original, loop.say):
            info["machine"] = machine()
            with parts.created(run, loop):
                return drive(run, loop)


def _check_format(run: Run) -> None:
    if run.info.get("format", 1) > FORMAT:
        raise UsageError(f"{run.path} was written by a later version of reverie. Update reverie to continue it.")
    if run.info.get("format", 1) < FORMAT:
        raise UsageError(
            f"{run.path} is a run of an older version, whose training this version cannot continue or repeat exactly. "
            f"It can be sampled and evaluated; `reverie train {run.info['model']['name']} --init {quoted(run.path)}` "
            "trains further from its weights."
        )
