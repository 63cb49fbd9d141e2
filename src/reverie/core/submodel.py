"""Trained models inside another model: the codec of latent diffusion, the teacher of a student."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from reverie.core.card import Output, card_of
from reverie.core.errors import UsageError
from reverie.core.registry import build
from reverie.core.verbs import Model

Net = TypeVar("Net", bound=nn.Module)


def _no_train(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def frozen(net: Net) -> Net:
    """Freeze a network: no gradients, and eval mode even if an outer module calls ``train()``."""
    net.requires_grad_(False).eval()
    net.train = MethodType(_no_train, net)  # type: ignore[method-assign]
    return net


def submodel(
    run: Any, role: str, output: Output, example: str, lack: Callable[[Model], str] = lambda model: ""
) -> Model:
    """The model of another run; its weights are loaded later.

    Args:
        run: {"name", "kwargs", "run"} of that run.
        role: "teacher" or "codec".
        output: the required output.
        example: a command that names such a run.
        lack: returns what a model lacks for this role and what to use instead, or "".
    Raises:
        UsageError: no run, or a run whose model or output does not fit.
    """
    if not isinstance(run, dict) or not isinstance(run.get("kwargs"), dict):
        named = f"{run!r} is no trained run" if run else "a trained run is needed"
        raise UsageError(f"There is no {role}: {named}. Example: {example}.")
    model = build(run["name"], **run["kwargs"])
    owner = f"The {role} {run.get('run') or run['name']}"
    if lacking := lack(model):
        raise UsageError(f"{owner} is a run of {run['name']}, which has {lacking}")
    if (produced := card_of(model).output) != output:
        raise UsageError(
            f"{owner} generates images of {produced}, but the data has {output}. Train on images of its size and "
            f"channels, or use a {role} trained on this size."
        )
    return model
