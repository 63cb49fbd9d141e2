"""Signatures are configurations: what a system, its training and its verbs can be asked, by name and with types."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from reverie.core.card import COLUMNS, card_of
from reverie.core.errors import UsageError, suggest
from reverie.core.verbs import Model, verbs_of

Parameters = dict[str, inspect.Parameter]


@dataclass(frozen=True)
class SubRun:
    """Marks an argument that is another trained model: ``teacher: Annotated[dict | str, SubRun()]``.

    On the command line and in Python it is a run's path. A constructor gets what that run trained, {"name", "kwargs",
    "run"}, and builds a sub-module of the argument's name, which training fills with the run's weights; a verb gets the
    loaded model.

    Attributes:
        verb: what the model must be able to do.
        remedy: what to do where it is not.
    """

    verb: str = ""
    remedy: str = ""


def sub_run(parameter: inspect.Parameter) -> SubRun | None:
    """How an argument is marked, if it is one."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, SubRun)), None)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # a name that exists only where the function was written
        return {}


def method_parameters(kind: type, method: str) -> Parameters:
    """What a class's method takes; what it hands on by ``**more`` is its base class's."""
    found: Parameters = {}
    for base in kind.__mro__:
        function = vars(base).get(method)
        if not callable(function):
            continue
        hints, parameters = _hints(function), inspect.signature(function).parameters.values()
        named = [p for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        found |= {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in named if p.name not in found}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found


def system_parameters(system: Callable[..., Any]) -> Parameters:
    """What a system, a class or a function that returns a model, is configured by."""
    if isinstance(system, type):
        return method_parameters(system, "__init__")
    hints = _hints(system)
    return {
        name: p.replace(annotation=hints.get(name, Any)) for name, p in inspect.signature(system).parameters.items()
    }


def model_class(system: Callable[..., Any]) -> type:
    """What a system builds: itself, or what a function says that it returns (``nn.Module`` where it says nothing)."""
    from torch import nn

    kind = system if isinstance(system, type) else _hints(system).get("return")
    return kind if isinstance(kind, type) else nn.Module


def sampling_options(model: Model | type[Model]) -> Parameters:
    """What a model, or a class of models, can be told when it samples or translates, beside noise and conditions."""
    kind, verbs = model if isinstance(model, type) else type(model), verbs_of(model)
    conditions = set(COLUMNS) if isinstance(model, type) else {*COLUMNS, *card_of(model).conditions}
    verb = next((verb for verb in ("sample", "translate") if verb in verbs), None)
    known = method_parameters(kind, verb) if verb else {}
    if verb == "sample" and "stream" in verbs:
        known |= method_parameters(kind, "stream")
    return {name: p for name, p in known.items() if name != "noise" and name not in conditions}


def accepted(model: Model, verb: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that a verb of the model takes."""
    return {name: value for name, value in options.items() if name in method_parameters(type(model), verb)}


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names)


def check_choice(owner: str, name: str, parameter: inspect.Parameter, value: Any) -> None:
    """Raise a UsageError for a value that is not among an argument's choices (``Literal``)."""
    hint = parameter.annotation
    if typing.get_origin(hint) is not Literal or value in (choices := typing.get_args(hint)):
        return
    close = suggest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    raise UsageError(f"{name} of {owner} is {listed(map(repr, choices))}, not {value!r}.{close}")
