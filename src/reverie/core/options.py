"""Signatures are configurations: the options of a system, its training and its verbs, by name and type."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from reverie.core.annotations import Range, SubRun, mark_of
from reverie.core.card import COLUMNS, card_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.values import check_finite, plain
from reverie.core.verbs import Model, verbs_of

Parameters = dict[str, inspect.Parameter]
EMPTY = inspect.Parameter.empty
_UNNAMED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_LARGEST = 2**31 - 1  # of whole numbers within a range
_SCALARS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}


def _hints(function: Callable[..., Any], required: Collection[str] = ()) -> dict[str, Any]:
    """The types of a function's arguments, or of a class's fields. Those with names that its module does not define
    are omitted.

    Raises:
        UsageError: that is so for one of ``required``.
    """
    unresolved = (NameError, AttributeError, SyntaxError, TypeError)
    with contextlib.suppress(*unresolved):
        return typing.get_type_hints(function, include_extras=True)
    hints: dict[str, Any] = {}
    for part in reversed(function.__mro__) if isinstance(function, type) else [inspect.unwrap(function)]:
        scope = vars(sys.modules.get(getattr(part, "__module__", ""), types))
        for name, annotation in inspect.get_annotations(part).items():
            single: Any = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hints |= typing.get_type_hints(single, getattr(part, "__globals__", scope), include_extras=True)
            except unresolved as error:
                if name in required:
                    raise UsageError(
                        f"{part.__qualname__} has {name}: {annotation}, which means nothing here ({error}). Annotate "
                        "with names of its module."
                    ) from error
    return hints


def _named(function: Callable[..., Any], bound: bool = False, strict: bool = False) -> Parameters:
    """A function's arguments by name, with their types; without the first (self) if ``bound``.

    Args:
        strict: every annotation must have a meaning.
    Raises:
        UsageError: a built-in function without a signature, or an annotation without a meaning.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[bound:]
    except ValueError as error:
        raise UsageError(f"{function!r} has no signature, so it cannot be a model.") from error
    hints = _hints(function, [p.name for p in parameters] if strict else ())
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in parameters if p.kind not in _UNNAMED}


def method_parameters(kind: type, method: str, strict: bool = False) -> Parameters:
    """Parameters of a class's method without ``self``; {} if there is no such method."""
    function = getattr(kind, method, None)
    bound = not isinstance(inspect.getattr_static(kind, method, None), staticmethod)
    return _named(function, bound, strict) if callable(function) else {}


def system_parameters(system: Callable[..., Any]) -> Parameters:
    """The configuration of a system (a class, or a function that returns a model): its arguments, and the fields of
    its option groups (arguments whose default is a frozen dataclass), flat.

    Raises:
        UsageError: duplicate name, or an annotation without a meaning.
    """
    flat: Parameters = {}
    for name, parameter in _arguments(system).items():
        kind = group_of(parameter)
        new = {name: parameter} if kind is None else _fields(kind, parameter.default)
        check_names(getattr(system, "__name__", repr(system)), new, flat, "another argument")
        flat |= new
    return flat


def _arguments(system: Callable[..., Any]) -> Parameters:
    return method_parameters(system, "__init__", True) if isinstance(system, type) else _named(system, strict=True)


def option_groups(system: Callable[..., Any]) -> list[type]:
    """The dataclasses among a system's arguments, whose fields are its options."""
    return [kind for parameter in _arguments(system).values() if (kind := group_of(parameter))]


def group_of(parameter: inspect.Parameter) -> type | None:
    """The dataclass of an option group, or None for a single option."""
    kind = type(parameter.default)
    return kind if dataclasses.is_dataclass(kind) else None


def _fields(kind: type, default: Any) -> Parameters:
    hints, keyword = _hints(kind, [field.name for field in dataclasses.fields(kind)]), inspect.Parameter.KEYWORD_ONLY
    return {
        field.name: inspect.Parameter(
            field.name, keyword, default=getattr(default, field.name), annotation=hints.get(field.name, Any)
        )
        for field in dataclasses.fields(kind)
    }


def call_system(system: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Build a system's model from flat options."""
    direct: dict[str, Any] = {}
    grouped: dict[str, dict[str, Any]] = defaultdict(dict)
    arguments = _arguments(system)
    groups = {name: kind for name, parameter in arguments.items() if (kind := group_of(parameter))}
    home = {field.name: name for name, kind in groups.items() for field in dataclasses.fields(kind)}
    for name, value in options.items():
        (grouped[home[name]] if name in home else direct)[name] = value
    filled = {name: dataclasses.replace(arguments[name].default, **values) for name, values in grouped.items()}
    return system(**direct, **filled)


def model_class(system: Callable[..., Any]) -> type:
    """The class of a system's models: itself, or a function's return annotation (default ``nn.Module``)."""
    from torch import nn

    kind = system if isinstance(system, type) else _hints(system).get("return")
    return kind if isinstance(kind, type) else nn.Module


def sampling_options(model: Model | type[Model]) -> Parameters:
    """Options of ``sample`` or ``translate`` of a model or model class, without noise and conditions."""
    kind, verbs = model if isinstance(model, type) else type(model), verbs_of(model)
    conditions = set(COLUMNS) if isinstance(model, type) else {*COLUMNS, *card_of(model).conditions}
    verb = next((verb for verb in ("sample", "translate") if verb in verbs), None)
    parameters = method_parameters(kind, verb) if verb else {}
    if verb == "sample" and "stream" in verbs:
        parameters |= method_parameters(kind, "stream")
    return {name: p for name, p in parameters.items() if name != "noise" and name not in conditions}


def draws_freely(model: Model) -> bool:
    """Whether a model samples without a required option."""
    return "sample" in verbs_of(model) and all(p.default is not EMPTY for p in sampling_options(model).values())


def accepted(model: Model, verb: str, options: dict[str, Any]) -> dict[str, Any]:
    """The subset of options that a verb of the model takes."""
    return {name: value for name, value in options.items() if name in method_parameters(type(model), verb)}


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names)


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of many models for a sentence."""
    return listed(names) if len(names) <= most else f"{listed(names[:most])} ... (all: reverie models)"


def either(names: Iterable[str]) -> str:
    """Alternatives for a sentence: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


# Types


def type_of(parameter: inspect.Parameter) -> Any:
    """An argument's type: its annotation, else the type of a scalar default."""
    default = type(parameter.default)
    inferred = default if default in _SCALARS and parameter.default is not None else Any
    return inferred if parameter.annotation is Any else parameter.annotation


def has_flag(parameter: inspect.Parameter) -> bool:
    """Whether an argument has a command-line flag: a number, text, True or False, a choice, a tuple of these, or
    another run. Other arguments are only for Python."""
    return mark_of(parameter, SubRun) is not None or _is_plain(type_of(parameter))


def _is_plain(hint: Any) -> bool:
    return all(
        kind in _SCALARS
        or typing.get_origin(kind) is Literal
        or (typing.get_origin(kind) is tuple and all(map(_is_plain, _entries(kind))))
        for kind in _kinds(hint)
    )


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union type, without marks."""
    if typing.get_origin(hint) is typing.Annotated:
        return _kinds(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for member in typing.get_args(hint) for kind in _kinds(member))
    return (hint,)


def _entries(hint: Any) -> list[Any]:
    """The types of a tuple's entries."""
    return [entry for entry in typing.get_args(hint) if entry is not Ellipsis]


def checked(owner: str, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    """Check an argument's value: of the annotated type, among the choices (``Literal``), within the ``Range``, finite.

    NumPy numbers become Python numbers. The type of an argument without a flag is not checked.

    Raises:
        UsageError: any other value; the message names the argument.
    """
    value, hint, interval = plain(value), parameter.annotation, mark_of(parameter, Range)
    if _is_default(parameter, value):
        return value
    if mark_of(parameter, SubRun):
        if value is None or isinstance(value, str) or _is_run(value):
            return value
        raise UsageError(f"{argument(name)} of {owner} must be a trained run of a registered model, not {value!r}.")
    entries = value if isinstance(value, tuple | list) else [value]
    for number in entries:
        check_finite(f"{argument(name)} of {owner}", number)
    kinds = _kinds(hint)
    if not _is_plain(hint):
        return value
    if any(_fits(kind, value) for kind in kinds):
        numbers = [entry for entry in entries if isinstance(entry, int | float)] if interval else []
        if interval and not all(map(interval.holds, numbers)):
            raise UsageError(f"{argument(name)} of {owner} must be {interval}, not {value!r}.")
        if float not in kinds and max(numbers, default=0) > _LARGEST:
            raise UsageError(f"{argument(name)} of {owner} must be at most {_LARGEST}, not {value!r}.")
        return value
    choices = [choice for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)]
    others = [_described(kind) for kind in kinds if typing.get_origin(kind) is not Literal]
    close = suggest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    raise UsageError(
        f"{argument(name)} of {owner} must be {either([*map(repr, choices), *others])}, not {value!r}.{close}"
    )


def _is_run(value: Any) -> bool:
    """Whether this is the {"name", "kwargs", "run"} of a trained run."""
    return isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get("kwargs"), dict)


def _described(kind: Any) -> str:
    entries = listed(_SCALARS.get(entry, str(entry)) for entry in _entries(kind))
    return _SCALARS[kind] if kind in _SCALARS else f"a tuple of {entries}{' ...' * (Ellipsis in typing.get_args(kind))}"


def _is_default(parameter: inspect.Parameter, value: Any) -> bool:
    default = parameter.default
    return value is default or (type(value) is type(default) and type(value) in _SCALARS and value == default)


def _fits(kind: Any, value: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if origin is tuple:
        entries, any_length = _entries(kind), Ellipsis in typing.get_args(kind)
        if not isinstance(value, tuple | list) or not (any_length or len(value) == len(entries)):
            return False
        kinds = [member for entry in entries for member in _kinds(entry)]
        return all(any(_fits(member, plain(v)) for member in kinds) for v in value)
    numbers = {float: (float, int)}.get(kind, kind)
    return isinstance(value, numbers) and (kind is bool or not isinstance(value, bool))


def check_names(owner: str, names: Iterable[str], taken: Collection[str], of: str) -> None:
    """Raise a UsageError if a model's arguments have reserved names."""
    if both := [name for name in names if name in taken]:
        raise UsageError(f"{owner} has arguments with names that {of} already uses: {listed(both)}. Rename them.")
