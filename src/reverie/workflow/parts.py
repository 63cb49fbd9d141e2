"""The parts of a run, built from run.json: its data, its model with the right weights, its loop."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.core import distributed, registry
from reverie.core.cache import locked
from reverie.core.card import card_of, config_of, name_of
from reverie.core.errors import ReverieError, UsageError, argument, of_argument
from reverie.core.files import disk_errors, path_of
from reverie.core.options import method_parameters
from reverie.core.state import transient, weights_hash
from reverie.core.terminal import count
from reverie.core.verbs import Model
from reverie.data import Dataset, image_files, reopen
from reverie.dreaming.photo import open_photo
from reverie.training.bar import Bar
from reverie.training.callbacks import Callback, Checkpoints, Log, TensorBoard, as_list
from reverie.training.checkpoint import Checkpoint, same_class, trained
from reverie.training.loop import Loop
from reverie.training.options import Options
from reverie.training.plan import Plan
from reverie.training.run import Run
from reverie.workflow.monitors import Doctor, Monitor, Previews
from reverie.workflow.needs import check_needs

# Data


def data_of(info: dict[str, Any], data: Any = None) -> Dataset | None:
    """The training data of a run, reopened or as passed: see ``data.reopen``."""
    return None if info["data"] is None else reopen(info["data"], data)


# Models


def build(name: str, kwargs: dict[str, Any], data: Dataset | None, seed: int) -> Model:
    """The model with the initial weights of this seed; torch's global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.build(name, data, **kwargs)


def named(model: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments with every path of a sub-run replaced by {"name", "kwargs", "run"} of that run, and paths of image
    files absolute.

    Raises:
        UsageError: no such run, file or folder with images.
        ReverieError: a file that is no image.
    """
    configs: dict[str, Any] = {}
    for key, mark in registry.image_files(model, kwargs).items():
        source = path_of(key, kwargs[key])
        with of_argument(key):
            files = image_files(source)
            if not mark.folder and files != [source]:
                raise UsageError(f"One image is needed, and {source} is a folder.")
            for file in files:
                open_photo(file)
        configs[key] = str(source.absolute())
    for key in registry.sub_runs(model):
        if isinstance(path := kwargs.get(key), str) and path:
            with of_argument(key):
                configs[key] = trained(path)[1].config | {"run": path}
    return kwargs | configs


def hashes(model: str, kwargs: dict[str, Any]) -> dict[str, str]:
    """sha256 of the image files that a model learns from beside its data, by argument."""
    digests = {}
    for key in registry.image_files(model, kwargs):
        with of_argument(key):
            digests[key] = sha256(
                b"".join(sha256(f.read_bytes()).digest() for f in image_files(kwargs[key]))
            ).hexdigest()
    return digests


def check_hashes(info: dict[str, Any], path: Path) -> None:
    """Raise a ReverieError unless a run's image files are those that it was trained with."""
    if before := info.get("files"):
        config = info["model"]
        for key, digest in hashes(config["name"], config["kwargs"]).items():
            if digest != before.get(key):
                raise ReverieError(
                    f"{config['kwargs'][key]} is not what {path} was trained with (its hash differs). Put the "
                    f"same images there; `reverie train {config['name']}` learns from those that are there now."
                )


def fill(model: Model, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Load the weights of sub-runs into a fresh model's sub-modules.

    Args:
        before: what this returned when the run was trained: the weights must be the same.
    Returns:
        for run.json, by argument: {"run" (its absolute path), "step", "weights" (their hash)}.
    Raises:
        ReverieError: a sub-run has been trained on, and its checkpoint of that step is gone.
    """
    filled = {}
    for key in registry.sub_runs(config_of(model)["name"]):
        argument = config_of(model)["kwargs"].get(key)
        if isinstance(argument, dict) and "run" in argument:
            run, saved, digest = _sub_run(argument["run"], (before or {}).get(key))
            submodule(model, key).load_state_dict(saved.averaged)
            filled[key] = {"run": str(run.path.absolute()), "step": saved.step, "weights": digest}
    return filled


def _sub_run(path: str, before: Mapping[str, Any] | None) -> tuple[Run, Checkpoint, str]:
    """A sub-run, its checkpoint, and the hash of its weights; ``before``: as it was, where it may have moved since."""
    if before is not None and not Path(path).exists():  # a relative path, from another folder
        path = before["run"]
    run, saved = trained(path)
    digest = weights_hash(saved.averaged)
    if before is None or digest == before["weights"]:
        return run, saved, digest
    earlier = run.checkpoints / f"{before['step']:08d}"
    if earlier.is_dir() and saved.step != before["step"]:
        return _sub_run(str(earlier), before)
    raise ReverieError(
        f"{path} at step {saved.step} no longer has the weights that this run was trained with (those of step "
        f"{before['step']}; their hash differs). A rerun needs the same weights; `reverie train` takes those of today."
    )


def submodule(model: Model, key: str) -> nn.Module:
    """The sub-module with an argument's name, at any depth."""
    return next(module for name, module in model.named_modules() if name.rpartition(".")[2] == key)


def begin_from(model: Model, path: str, filled: Collection[str], weights: str | None = None) -> dict[str, Any]:
    """Copy the averaged weights of a run into a fresh model, where name and shape agree.

    Args:
        filled: sub-modules that already have the weights of sub-runs.
        weights: expected hash of the run's weights.
    Returns:
        for run.json: {"run", "step", "model", "weights", "taken", "missing"}.
    Raises:
        UsageError: no weight fits, or no such run.
        ReverieError: the hash differs.
    """
    with of_argument("init"):
        run, saved = trained(path)
    offered, current = saved.averaged, model.state_dict()
    digest = weights_hash(offered)
    if weights not in (None, digest):
        raise ReverieError(
            f"{path} at step {saved.step} no longer has the weights that this run started from (their hash differs). "
            "A rerun needs the same weights; `reverie train MODEL --init RUN` starts from the current ones."
        )
    skipped = transient(model)
    names = [name for name in current if name not in skipped and not set(name.split(".")) & set(filled)]
    taken = {name: offered[name] for name in names if name in offered and offered[name].shape == current[name].shape}
    if not taken:
        raise UsageError(
            f"No weight of {path} (a {saved.config['name']}) fits this {config_of(model)['name']} by name and shape: "
            "there is nothing to start from. Choose a run of a similar model."
        )
    model.load_state_dict(current | taken)
    return {
        "run": str((run.checkpoints / f"{saved.step:08d}").absolute()),
        "step": saved.step,
        "model": saved.config["name"],
        "weights": digest,
        "taken": len(taken),
        "missing": [name for name in names if name not in taken],
    }


def model_of(info: dict[str, Any], path: Path, data: Dataset | None, model: nn.Module | None, fresh: bool) -> Model:
    """The model of a run: rebuilt, or ``model`` as passed.

    Args:
        fresh: with the run's initial weights; else a checkpoint's weights are loaded later.
    Raises:
        UsageError: a required model is missing, or another model was passed.
        ReverieError: the run's initial weights no longer exist.
    """
    config, begun = info["model"], info.get("given")
    if model is None and (config["kwargs"] is None or (fresh and begun)):
        why = (
            f"{config['name']} is a class of your own, and a file never chooses code"
            if config["kwargs"] is None
            else "its initial weights came with the model that was passed"
        )
        raise UsageError(f"{path} needs its model again: {why}. In Python: pass a fresh instance as model=.")
    if fresh:
        check_hashes(info, path)
    if model is not None:
        same_class(model, config, path)
    else:
        registry.check_known(config["name"], info)
        model = build(config["name"], config["kwargs"], data, Options(**info["training"]).seed)
    if fresh and begun and weights_hash(model.state_dict()) != begun:
        raise UsageError(f"The model passed does not have the initial weights of {path} (hash {begun}).")
    if fresh:
        filled = {} if begun else fill(model, info.get("sub_runs"))
        if init := info.get("init"):
            begin_from(model, init["run"], filled, init["weights"])
    return model


# Loops


def reserve(minutes: float | None) -> float:
    """Seconds of a budget that are reserved for the final images and scores."""
    return 0.0 if minutes is None else min(4.0, 0.25 * 60 * minutes)


def loop_of(
    run: Run,
    model: Model,
    data: Dataset | None,
    options: Options,
    plan: Plan,
    callbacks: Sequence[Callback],
    quiet: bool,
) -> Loop:
    """The loop with the standard callbacks and the caller's."""

    def saved(loop: Loop) -> None:
        run.update(seconds=round(loop.elapsed, 2), plan=loop.plan.state())

    check_needs(card_of(model), data, name_of(model))
    arguments = method_parameters(type(model), "stages")
    if odd := [name for name in run.info["phases"] if name not in arguments]:
        raise UsageError(f"The stages() of {name_of(model)} have no option {odd[0]!r}, which run.json names in phases.")
    usual: list[Callback] = [
        Previews(run.path / "samples", data, options.sample_every),
        Log(run.path),
        Doctor(run),
        Checkpoints(run.checkpoints, options.checkpoint_every, options.keep, saved),
        Bar(distributed.rank() == 0 and not quiet),
    ]
    if data is not None:
        usual.append(Monitor(data, options.sample_every))
    if options.tensorboard:
        usual.append(TensorBoard(run.path / "tensorboard"))
    return Loop(model, data, plan, options, run.info["phases"], [*as_list(callbacks), *usual], init="init" in run.info)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock a run directory during its training, and remove what killed processes left in it.

    Raises:
        UsageError: another process trains it.
        ReverieError: nothing can be written there.
    """
    with contextlib.ExitStack() as stack:
        free = True
        if distributed.rank() == 0:
            try:
                with disk_errors(path):
                    exclusive = stack.enter_context(locked(path / ".lock", wait=False))
            except BlockingIOError:
                free = False
            else:
                if not exclusive:
                    warnings.warn(f"{path} is on a file system without locks: do not train it twice.", stacklevel=3)
                Run(path, {}).tidy()
        if not distributed.agree(free):
            raise UsageError(f"{path} is being trained by another process. Nothing was touched.")
        yield


def _check_outside(path: Path, source: str) -> None:
    """Raise a UsageError if a run would lie in the folder of its data."""
    folders = {os.path.realpath(name) for name in (source, source.rpartition(":")[0]) if Path(name).is_absolute()}
    if folders & {os.path.realpath(folder) for folder in (path, *path.absolute().parents)}:
        raise UsageError(
            f"{argument('out', path)} is inside the data ({source}): the images of the run would be data of the next "
            "training. Choose a folder outside it."
        )


@contextlib.contextmanager
def created(run: Run, loop: Loop) -> Iterator[None]:
    """``alone`` in a new run directory, with its run.json; an error before the end of the first step removes it.

    Raises:
        UsageError: it is not free, inside the folder of its data, or another process trains it.
    """
    if distributed.rank() == 0:
        run.check_new()
        _check_outside(run.path, (run.info["data"] or {}).get("source", ""))
    with alone(run.path):
        try:
            if distributed.rank() == 0:
                Run.create(run.path, run.info)
            yield
        except Exception:
            if distributed.rank() == 0 and not loop.step:  # the corrected command takes the same path
                run.discard()
                loop.say(f"No step was made: {run.path} is removed.")
            raise


@contextlib.contextmanager
def same_threads(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Train with the number of threads that a run recorded: another number rounds sums differently."""
    before, threads = torch.get_num_threads(), run.info.get("machine", {}).get("threads")
    if threads is None or threads == before or not 1 <= threads <= (os.cpu_count() or 1):
        if threads not in (None, before):
            trained = f"the run was trained with {count(threads, 'thread')}"
            say(f"Warning: {trained}, now {before}: its results differ in rounding.")
        yield
        return
    as_before = f"Training with {count(threads, 'thread')} as before"
    say(f"{as_before} instead of {before}, so that the results are equal to the bit.")
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
