"""Train a model, from the request to a finished run directory."""

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

from reverie.core import distributed, registry, terminal
from reverie.core.cache import check_progress
from reverie.core.card import card_of, config_of
from reverie.core.errors import ReverieError, UsageError, argument, of_argument
from reverie.core.files import quoted, write_json
from reverie.core.precision import keep_memory, pick_device, repeatable
from reverie.core.state import weights_hash
from reverie.core.verbs import verbs_of
from reverie.data import Dataset, open_data
from reverie.data.memory import name_of
from reverie.data.options import CHOICES, WHITE, Background, colour_name, flags_of
from reverie.inference.conditions import length_of, vocabulary
from reverie.media import Size, parse_size
from reverie.media.formats import PIXEL_LIMIT
from reverie.probability.conditioning import lengths_beyond, text_encoder_of
from reverie.recipes import recipe_for
from reverie.training.bar import Bar
from reverie.training.callbacks import Callback
from reverie.training.formats import FORMAT
from reverie.training.loop import Loop
from reverie.training.options import Options, sort_options, split_options
from reverie.training.plan import Plan
from reverie.training.progress import bar
from reverie.training.run import Run, check_free, fresh_path, machine, versions
from reverie.workflow import artifacts, parts
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
    low: float | None = None,
    high: float | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Run:
    """Train a model; returns its run directory.

    Args:
        model: a name of ``rv.list_models()``, a model from ``build``, or any ``nn.Module`` with ``stages()``. A module
            starts from its current weights.
        data: a ``Dataset``, or anything ``open_data`` opens; None for a model that needs no data.
        size, fit, background, held_out, channels, medium, low, high: as for ``open_data``, unless ``data``
            is a ``Dataset``.
        out: the run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        quiet: print nothing.
        progress: called while data is read, (done, total, description).
        callbacks: additional callbacks, see ``reverie.callbacks``.
        options: of the model, of its stages, and fields of ``Options``; by default the recipe's values. Also the other
            arguments of ``open_data``: ``layout`` ...
    Raises:
        UsageError: an unknown name or an invalid value.
        ReverieError: unusable data, a disk error, or diverged training; the message states what was kept.
    """
    if out is not None:
        check_free(out)
    check_progress(progress)
    module = model if isinstance(model, nn.Module) else None
    name = config_of(model)["name"] if isinstance(model, nn.Module) else registry.accept(model)
    source = _source(data)
    recipe = recipe_for(name, source, pick_device(options.get("device", "auto")).type == "cuda")
    kwargs: dict[str, Any] = {}
    usual = (None, False, PIXEL_LIMIT)  # values of the flags that no data needs
    named = [option for option in CHOICES if option in options and (data is not None or options[option] in usual)]
    chosen_data = {option: options.pop(option) for option in named}
    if isinstance(data, Dataset) and any(value is not None for value in chosen_data.values()):
        raise UsageError(f"The data set is open already: {', '.join(chosen_data)} are arguments of open_data.")
    if module is None:
        kwargs, stage_options, training = sort_options(name, options)
        kwargs = parts.named(name, recipe.get("model", {}) | kwargs)  # before the data is prepared
    else:
        stage_options, training = split_options(module, options)
    if "steps" in training or "minutes" in training:
        recipe_training = {k: v for k, v in recipe.get("training", {}).items() if k not in ("steps", "minutes")}
    else:
        recipe_training = {"minutes": 3.0} | recipe.get("training", {})
    chosen = Options(**recipe_training | training)
    with distributed.group():
        plan = Plan.of(chosen.steps, chosen.minutes, parts.reserve(chosen.minutes))
        distributed.rows(chosen.batch_size)
        if data is not None and not isinstance(data, Dataset):
            with of_argument("data"):
                first = (size, channels, fit, background, held_out, medium, progress)
                data = open_data(data, *first, low=low, high=high, **chosen_data)
        elif module is None and data is None:  # else the data decides
            shape = parse_size(size)
            values = {"channels": channels, "shape": shape, "side": shape and shape[0]}
            decided = registry.from_data(name).items()
            kwargs = {key: value for key, fact in decided if (value := values.get(fact)) is not None} | kwargs
        start: dict[str, Any] = {}
        if module is not None:
            built, filled = module, dict[str, Any]()
            start["given"] = weights_hash(module.state_dict())
        else:
            built = parts.build(name, kwargs, data, chosen.seed)
            filled = parts.fill(built)
            start |= {"files": files} if (files := parts.hashes(name, kwargs)) else {}
            start |= {"sub_runs": filled} if filled else {}
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
        } | (start | _caption_words(built, data) | registry.code_of(name))
        path = Path(distributed.agree(str(out or fresh_path(name.rpartition(":")[2], source))))
        run = Run(path, info)
        loop = parts.loop_of(run, built, data, chosen, plan, callbacks, quiet)
        with parts.created(run, loop):  # only now that every option has been validated
            return drive(run, loop)


def _caption_words(model: nn.Module, data: Dataset | None) -> dict[str, list[str]]:
    """The words that a model of captions learns from, so that sampling can warn of others."""
    captions = data.train.every_text if data is not None and "text" in card_of(model).conditions else None
    length = length_of(text_encoder_of(model))
    return {"caption_words": sorted(vocabulary(captions, length))} if captions else {}


def _cut_captions(model: nn.Module, data: Dataset) -> str:
    """How many captions are longer than the model's text encoder reads, in words; "" if none is."""
    encoder = text_encoder_of(model)
    if encoder is None or not (beyond := lengths_beyond(encoder, data.train.every_text)):
        return ""
    some = f"{len(beyond):,} of {len(data.train.every_text):,} captions"
    read = f"the {encoder.length} {encoder.unit} that the text encoder reads"
    return f"{some} are longer than {read}, and cut: {argument('text_length', max(beyond))} reads all."


def _source(data: Any) -> str:
    """The data's name for the run directory and recipes."""
    if data is None or isinstance(data, str | os.PathLike):
        return os.fspath(data or "")
    return data.source if isinstance(data, Dataset) else name_of(data)


def drive(run: Run, loop: Loop) -> Run:
    """Train to the end of the plan, or to a clean stop; write the final files of the run."""
    if loop.device.type == "cpu":
        keep_memory()
    announce(run, loop)
    if loop.leader:
        run.update(status="running", precision=str(loop.precision))

    def ask() -> None:
        loop.stop()
        loop.say("Stopping after this step (press again to stop at once; the last checkpoint is kept).")

    with repeatable(), signals(ask):
        try:
            for _ in loop.run():
                pass
        except Exception:
            if loop.leader:
                with contextlib.suppress(ReverieError):  # a disk that ended the training refuses this, too
                    run.update(status="failed", seconds=round(loop.elapsed, 2))
            raise
    if config_of(loop.model)["kwargs"] is None:
        run.model = loop.engine.best
    if isinstance(loop.data, Dataset) and not loop.data.provenance["reopenable"]:
        run.data = loop.data
    if not loop.leader:
        return run
    if loop.finished:
        finish(run, loop)
    else:
        close(run, loop, "stopped")
        loop.say(f"Stopped at step {loop.step}; everything is kept. Continue with: reverie resume {quoted(run.path)}")
    return run


def announce(run: Run, loop: Loop) -> None:
    """Print what is trained, on which data, and for how long."""
    data, options, plan = loop.data, loop.options, loop.plan
    count = sum(p.numel() for p in loop.model.parameters())
    images = "no data"
    if isinstance(data, Dataset):
        images = f"{data.source}: {len(data.train)} {data.spec.medium}s of {data.spec}, "
        images += f"{len(data.held_out)} held out"
    length = (
        f"{options.minutes:g} minutes" if plan.clock and options.minutes else terminal.count(plan.expected or 0, "step")
    )
    if loop.extensions:
        extension = loop.extensions[-1]
        minutes = extension.get("minutes", extension.get("seconds", 0) / 60)
        length = (
            f"{terminal.count(extension['steps'], 'step')} in total"
            if "steps" in extension
            else f"{minutes:.3g} minutes more"
        )
    loop.say(
        f"{run.info['model']['name']} ({count / 1e6:.2f} M parameters) on {images}. {length}, "
        f"batch {options.batch_size}, {loop.precision}."
    )
    if isinstance(data, Dataset) and (cut := _cut_captions(loop.model, data)):
        loop.say(cut)
    if isinstance(data, Dataset) and not len(data.held_out):
        scores = f"no held-out scores, and what is shown are training images ({argument('held_out', 0)})"
        loop.say(f"Nothing is held out: {scores}.")
    if len(stages := loop.engine.stages) > 1 and all(stage.name for stage in stages):
        names = [stage.name for stage in stages]
        loop.say(f"Stages, one after the other: {', '.join(names[:8])}{' ...' * (len(names) > 8)}.")
    if reads := card_of(loop.model).reads:
        loop.say(reads)
    if isinstance(data, Dataset) and data.report.problems:
        more = ""
        if data.provenance["reopenable"]:
            flags = flags_of(data.opened | {"medium": data.spec.medium})
            more = f" `{' '.join(['reverie data', quoted(data.source), *flags, '--problems'])}` lists them."
        loop.say(f"Remarks on the data: {data.report.in_words()}.{more}")
        if "rgba" in data.report.counts():
            colour, keep = colour_name(data.provenance["background"]), argument("channels", 4)
            loop.say(
                f"Transparent pixels are {colour}: {argument('background')} takes another colour, {keep} keeps them."
            )
    if (init := run.info.get("init")) and not loop.step:
        new = init["missing"]
        missing = f"; {len(new)} new: {', '.join(new[:8])}{' ...' if len(new) > 8 else ''}" if new else ""
        loop.say(f"Started from {init['run']}: {init['taken']} tensors copied{missing}.")
        if init["model"] != run.info["model"]["name"]:
            loop.say(f"Warning: that is a run of another model, {init['model']}.")
    loop.say(f"Run directory: {run.path}")


def finish(run: Run, loop: Loop) -> None:
    """Write the final images and scores."""
    previews = next(callback for callback in loop.callbacks if isinstance(callback, Previews))
    count = max(previews.ROW, previews.count(loop, max(4.0, 0.02 * loop.elapsed)))
    data, trained = loop.data if isinstance(loop.data, Dataset) else None, loop.elapsed
    try:
        with bar(any(isinstance(callback, Bar) and callback.show for callback in loop.callbacks)) as progress:
            scores = artifacts.write_artifacts(loop.engine.best, data, run.metrics(), run.path, count, progress)
    except Exception as error:  # in the model's verbs, or a disk error; the training is complete in any case
        close(run, loop, "finished", trained)
        text = " ".join(str(error).split())
        message = text if isinstance(error, ReverieError) else f"{type(error).__name__}: {text}"
        raise ReverieError(
            f"The training is finished and kept, {terminal.count(loop.step, 'step')} in {run.path}; its final images "
            f"and scores failed: {message}"
        ) from error
    if strange := [name for name, value in scores.items() if not math.isfinite(value)]:
        loop.say(f"Warning: NaN or infinite on held-out data, and not recorded: {', '.join(strange)}.")
        scores = {name: value for name, value in scores.items() if name not in strange}
    write_json(run.path / "metrics.json", {"step": loop.step, "held_out": scores})
    close(run, loop, "finished", trained, held_out=scores)
    text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    text = f" Held-out data: {text}." if text else ""
    closing = f"final images and scores took {loop.elapsed - trained:.0f} s"
    loop.say(f"Finished {terminal.count(loop.step, 'step')} in {trained:.0f} s; {closing}.{text}")


def close(run: Run, loop: Loop, status: str, trained: float | None = None, **entries: Any) -> None:
    """Write the final state to run.json; ``trained`` are the seconds of training, by default all."""
    seconds = loop.elapsed
    result = {
        "run": str(run.path),
        "steps": loop.step,
        "images_per_second": round(loop.step * loop.options.batch_size / (trained or seconds), 3),
        "seconds": round(seconds, 2),
    }
    run.update(status=status, seconds=result["seconds"], plan=loop.plan.state(), result=result, **entries)


@contextlib.contextmanager
def signals(ask: Callable[[], None]) -> Iterator[None]:
    """On the first Ctrl-C or SIGTERM call ``ask`` and restore the handlers; signals ignored by nohup stay ignored."""

    def handle(number: int, frame: Any) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        ask()

    try:
        names = [name for name in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(name) != signal.SIG_IGN]
        before = {name: signal.signal(name, handle) for name in names}
    except ValueError:  # not the main thread: signals cannot be handled
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
