"""Train a model: one story from a request to a finished run directory."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from reverie import registry
from reverie.core import distributed
from reverie.core.card import card_of, config_of
from reverie.core.errors import ReverieError
from reverie.core.files import quoted, write_json
from reverie.core.precision import keep_memory, pick_device, repeatable
from reverie.core.state import weights_hash
from reverie.core.verbs import verbs_of
from reverie.data import Dataset, open_data
from reverie.data.memory import name_of
from reverie.data.options import WHITE, Background
from reverie.media import Size, parse_size
from reverie.recipes import recipe_for
from reverie.training.callbacks import Callback
from reverie.training.formats import FORMAT
from reverie.training.loop import Loop
from reverie.training.options import Options, sort_options, split_options
from reverie.training.plan import Plan
from reverie.training.run import Run, fresh_path, machine, versions
from reverie.workflow import parts, report
from reverie.workflow.monitors import Previews


def train(
    model: str | nn.Module = "vae",
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
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Run:
    """Train a model and leave a run directory.

    Args:
        model: a name of ``registry.MODELS``, a model from ``build``, or any ``nn.Module`` with ``stages()``. A module
            keeps the weights that it has.
        data: a ``Dataset``, or what ``open_data`` opens; None for a model that learns from no data.
        size, fit, background, held_out, channels, medium: as for ``open_data``, where ``data`` is still to be opened.
        out: the run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        quiet: say nothing.
        progress: called while pictures are being read, (done, total, what).
        callbacks: more to do beside the steps, see ``reverie.callbacks``.
        options: the model's own, its phases' and ``Options``' fields; the recipe's values where not given.
    Raises:
        UsageError: an unknown name or an unfit value.
        ReverieError: the data cannot be used, the disk refuses, or training diverged (what was kept is said).
    """
    given = None if isinstance(model, str) else model
    name = model if isinstance(model, str) else config_of(model)["name"]
    source = _source(data)
    recipe = recipe_for(name, source, pick_device(options.get("device", "auto")).type == "cuda")
    kwargs: dict[str, Any] = {}
    if given is None:
        registry.accept(name)
        kwargs, stage_options, training = sort_options(name, options)
    else:
        stage_options, training = split_options(given, options)
    if "steps" in training or "minutes" in training:
        recipe_training = {k: v for k, v in recipe.get("training", {}).items() if k not in ("steps", "minutes")}
    else:
        recipe_training = {"minutes": 3.0} | recipe.get("training", {})
    chosen = Options(**recipe_training | training)
    with distributed.group():
        plan = Plan.of(chosen.steps, chosen.minutes, parts.reserve(chosen.minutes))
        distributed.rows(chosen.batch_size)
        if data is not None and not isinstance(data, Dataset):
            data = open_data(data, size, channels, fit, background, held_out, medium, progress)
        elif given is None and data is None:  # else the data decides
            shape = parse_size(size)
            asked: dict[str, Any] = {"channels": channels, "shape": shape, "size": shape and shape[0]}
            known = registry.signature(name)
            kwargs = {key: value for key, value in asked.items() if value is not None and key in known} | kwargs
        start: dict[str, Any] = {}
        if given is not None:
            built, filled = given, list[str]()
            start["given"] = weights_hash(given.state_dict())
        else:
            built = parts.build(name, parts.named(name, recipe.get("model", {}) | kwargs), data, chosen.seed)
            filled = parts.fill(built)
        if chosen.init:
            start["init"] = parts.begin_from(built, chosen.init, filled)
        info = {
            "format": FORMAT,
            "reverie": versions()["reverie"],
            "model": config_of(built),
            "verbs": verbs_of(built),
            "card": card_of(built).to_json(),
            "phases": recipe.get("phases", {}) | stage_options,
            "data": None if data is None else data.provenance,
            "training": asdict(chosen),
            "plan": plan.state(),
            "versions": versions(),
            "machine": machine() | {"processes": distributed.world()},
            "status": "new",
            "seconds": 0.0,
        } | (start | registry.code_of(name))
        path = Path(distributed.agree(str(out or fresh_path(name.rpartition(":")[2], source))))
        run = Run(path, info)
        loop = parts.loop_of(run, built, data, chosen, plan, callbacks, quiet)
        if distributed.rank() == 0:  # only now that every option has proved usable
            Run.create(path, info)
        with parts.alone(path):
            return drive(run, loop)


def _source(data: Any) -> str:
    """What to call the data in the run's name and in recipes."""
    if data is None or isinstance(data, str | os.PathLike):
        return os.fspath(data or "")
    return data.source if isinstance(data, Dataset) else name_of(data)


def drive(run: Run, loop: Loop) -> Run:
    """Train to the end of the plan, or to a clean stop; write what the run leaves behind."""
    if loop.device.type == "cpu":
        keep_memory()
    announce(run, loop)
    if loop.leader:
        run.update(status="running", precision=str(loop.precision))

    def ask() -> None:
        loop.stop()
        loop.say("Stopping after this step (press again to stop at once; the last checkpoint stays).")

    with repeatable(), signals(ask):
        try:
            for _ in loop.run():
                pass
        except Exception:
            if loop.leader:
                run.update(status="failed", seconds=round(loop.elapsed, 2))
            raise
    if config_of(loop.model)["kwargs"] is None:
        run.model = loop.engine.best
    if not loop.leader:
        return run
    if loop.finished:
        finish(run, loop)
    else:
        close(run, loop, "stopped")
        loop.say(f"Stopped at step {loop.step}; everything is kept. Continue with: reverie resume {quoted(run.path)}")
    return run


def announce(run: Run, loop: Loop) -> None:
    """What is trained, on what, and how long."""
    data, options, plan = loop.data, loop.options, loop.plan
    count = sum(p.numel() for p in loop.model.parameters())
    images = "no data"
    if isinstance(data, Dataset):
        images = f"{data.source}: {len(data.train)} {data.spec.medium}s of {data.spec}, "
        images += f"{len(data.held_out)} held out"
    length = f"{options.minutes:g} minutes" if plan.clock and options.minutes else f"{plan.expected} steps"
    if loop.extensions:
        asked = loop.extensions[-1]
        minutes = asked.get("minutes", asked.get("seconds", 0) / 60)
        length = f"{asked['steps']} steps in all" if "steps" in asked else f"{minutes:.3g} minutes more"
    loop.say(
        f"{run.info['model']['name']} ({count / 1e6:.2f} M parameters) on {images}. {length}, "
        f"batch {options.batch_size}, {loop.precision}."
    )
    if isinstance(data, Dataset) and (met := data.report.counts()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in met.items())
        more = f" `reverie data {quoted(data.source)}` tells file by file." if data.provenance["reopenable"] else ""
        loop.say(f"Met while reading the data: {kinds}.{more}")
    if (init := run.info.get("init")) and not loop.step:
        new = init["missing"]
        missing = f"; {len(new)} new: {', '.join(new[:8])}{' ...' if len(new) > 8 else ''}" if new else ""
        loop.say(f"Begun from {init['run']}: {init['taken']} tensors taken{missing}.")
        if init["model"] != run.info["model"]["name"]:
            loop.say(f"Warning: that is a run of another model, {init['model']}.")
    loop.say(f"Run directory: {run.path}")


def finish(run: Run, loop: Loop) -> None:
    """The last images and scores."""
    previews = next(callback for callback in loop.callbacks if isinstance(callback, Previews))
    count = max(previews.ROW, previews.count(loop, max(4.0, 0.02 * loop.elapsed)))
    data = loop.data if isinstance(loop.data, Dataset) else None
    try:
        scores = report.write_artifacts(loop.engine.best, data, run.metrics(), run.path, count)
    except Exception as error:  # of the model's own verbs, or of the disk; the training is done whatever it is
        close(run, loop, "finished")
        said = f"{type(error).__name__}: {error}".removeprefix("ReverieError: ").removeprefix("UsageError: ")
        raise ReverieError(
            f"The training is finished and kept, {loop.step} steps in {run.path}; its last images and scores could "
            f"not be made: {said}"
        ) from error
    if strange := [name for name, value in scores.items() if not math.isfinite(value)]:
        loop.say(f"Warning: not a number on held-out data, and left out: {', '.join(strange)}.")
        scores = {name: value for name, value in scores.items() if name not in strange}
    write_json(run.path / "metrics.json", {"step": loop.step, "held_out": scores})
    close(run, loop, "finished", held_out=scores)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    shown = f" Held-out pictures: {shown}." if shown else ""
    loop.say(f"Finished {loop.step} steps in {loop.elapsed:.0f} s.{shown}")


def close(run: Run, loop: Loop, status: str, **facts: Any) -> None:
    """The last words of run.json."""
    seconds = loop.elapsed
    result = {
        "run": str(run.path),
        "steps": loop.step,
        "images_per_second": round(loop.step * loop.options.batch_size / seconds, 1),
        "seconds": round(seconds, 2),
    }
    run.update(status=status, seconds=result["seconds"], plan=loop.plan.state(), result=result, **facts)


@contextlib.contextmanager
def signals(ask: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks to stop, the second is as it was before; what nohup ignores stays ignored."""

    def handle(number: int, frame: Any) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        ask()

    try:
        names = [name for name in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(name) != signal.SIG_IGN]
        before = {name: signal.signal(name, handle) for name in names}
    except ValueError:  # not the main thread: signals belong to somebody else
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
