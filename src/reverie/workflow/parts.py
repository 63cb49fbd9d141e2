"""The parts of a run, made from what run.json says: its data, its model with the right weights, its loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie import registry
from reverie.core import distributed
from reverie.core.card import card_of, config_of, name_of
from reverie.core.errors import ReverieError, UsageError
from reverie.core.state import transient, weights_hash
from reverie.core.verbs import Model
from reverie.data import Dataset, reopen
from reverie.home import locked
from reverie.training.bar import Bar
from reverie.training.callbacks import Callback, Checkpoints, Log, TensorBoard
from reverie.training.checkpoint import same_class, trained
from reverie.training.loop import Loop
from reverie.training.options import Options
from reverie.training.plan import Plan
from reverie.training.run import Run
from reverie.workflow.monitors import Doctor, Monitor, Previews
from reverie.workflow.needs import check_needs

# Data


def data_of(info: dict[str, Any], data: Any = None) -> Dataset | None:
    """The data that a run was trained on, opened again or as passed: see ``data.reopen``."""
    return None if info["data"] is None else reopen(info["data"], data)


# Models


def build(name: str, kwargs: dict[str, Any], data: Dataset | None, seed: int) -> Model:
    """The model with the initial weights of this seed; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.build(name, data, **kwargs)


def named(model: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, where one is a run's path with what that run trained: {"name", "kwargs", "run"}."""
    paths = {key: kwargs[key] for key in registry.sub_runs(model) if isinstance(kwargs.get(key), str) and kwargs[key]}
    return kwargs | {key: trained(path)[1].config | {"run": path} for key, path in paths.items()}


def fill(model: Model) -> list[str]:
    """Put the weights of the runs that a fresh model builds on into its sub-modules of that name; returns those."""
    filled = []
    for key in registry.sub_runs(config_of(model)["name"]):
        argument = config_of(model)["kwargs"].get(key)
        if isinstance(argument, dict) and "run" in argument:
            model.get_submodule(key).load_state_dict(trained(argument["run"])[1].averaged)
            filled.append(key)
    return filled


def begin_from(model: Model, path: str, filled: Sequence[str], weights: str | None = None) -> dict[str, Any]:
    """Give a fresh model the averaged weights of a run, wherever name and shape agree.

    Args:
        filled: sub-modules that have the weights of other runs already.
        weights: the hash that the run's weights must have.
    Returns:
        what run.json records: {"run", "step", "model", "weights", "taken", "missing"}.
    Raises:
        UsageError: nothing agrees, or there is no such run.
        ReverieError: the weights are not those of this hash.
    """
    run, saved = trained(path)
    offered, own = saved.averaged, model.state_dict()
    digest = weights_hash(offered)
    if weights not in (None, digest):
        raise ReverieError(
            f"{path} at step {saved.step} no longer has the weights that this run began with (their hash differs). "
            "A rerun needs the same; `reverie train MODEL --init RUN` begins from what is there now."
        )
    aside = transient(model)
    wanted = [name for name in own if name not in aside and name.partition(".")[0] not in filled]
    taken = {name: offered[name] for name in wanted if name in offered and offered[name].shape == own[name].shape}
    if not taken:
        raise UsageError(
            f"No weight of {path} (a {saved.config['name']}) fits this {config_of(model)['name']} by name and shape: "
            "there is nothing to begin from. Choose a run of a like model."
        )
    model.load_state_dict(own | taken)
    return {
        "run": str((run.checkpoints / f"{saved.step:08d}").absolute()),
        "step": saved.step,
        "model": saved.config["name"],
        "weights": digest,
        "taken": len(taken),
        "missing": [name for name in wanted if name not in taken],
    }


def model_of(info: dict[str, Any], path: Path, data: Dataset | None, given: nn.Module | None, fresh: bool) -> Model:
    """The model of a run: rebuilt, or as given.

    Args:
        fresh: with the weights that the run began with; else those of a checkpoint will follow.
    Raises:
        UsageError: it must be given and is not, or another model is.
        ReverieError: the weights that the run began with are no longer there.
    """
    config, begun = info["model"], info.get("given")
    if given is None and (config["kwargs"] is None or (fresh and begun)):
        why = (
            f"{config['name']} is a class of your own, and a file never chooses code"
            if config["kwargs"] is None
            else "its initial weights came with the model that was passed"
        )
        raise UsageError(f"{path} needs its model again: {why}. In Python: pass model=, a fresh instance.")
    if given is not None:
        same_class(given, config, path)
    if given is None:
        registry.check_known(config["name"], info)
        given = build(config["name"], config["kwargs"], data, info["training"]["seed"])
    if fresh and begun and weights_hash(given.state_dict()) != begun:
        raise UsageError(f"The model given does not have the initial weights that {path} began with (hash {begun}).")
    if fresh:
        filled = [] if begun else fill(given)
        if init := info.get("init"):
            begin_from(given, init["run"], filled, init["weights"])
    return given


# Loops


def reserve(minutes: float | None) -> float:
    """Seconds of a budget that are kept for the last images and scores."""
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
    """The loop with the callbacks that every run has, and the caller's own."""

    def saved(loop: Loop) -> None:
        run.update(seconds=round(loop.elapsed, 2), plan=loop.plan.state())

    check_needs(card_of(model), data, name_of(model))
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
    return Loop(model, data, plan, options, run.info["phases"], [*callbacks, *usual], init="init" in run.info)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a run directory while training it.

    Raises:
        UsageError: another process does.
    """
    with contextlib.ExitStack() as stack:
        free = True
        if distributed.rank() == 0:
            try:
                stack.enter_context(locked(path / ".lock", wait=False))
            except BlockingIOError:
                free = False
        if not distributed.agree(free):
            raise UsageError(f"{path} is being trained by another process. Nothing was touched.")
        yield
