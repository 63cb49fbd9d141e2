"""Signatures are configurations: what a system, its training and its verbs can be asked, by name and with types."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reverie.core.card import COLUMNS, card_of
from reverie.core.errors import UsageError, suggest
from reverie.core.values import check_finite, plain
from reverie.core.verbs import Model, verbs_of

Parameters = dict[str, inspect.Parameter]
EMPTY = inspect.Parameter.empty
_UNNAMED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
_SCALARS = {bool: "True or False", int: "a whole number", float: "a number", str: "text", type(None): "None"}


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
    except (NameError, AttributeError, SyntaxError, TypeError):  # names that exist only where the function was written
        return {}


def _named(function: Callable[..., Any], bound: bool = False) -> Parameters:
    """A function's arguments by name, with their types; of a ``bound`` one the first, however it is called, is left
    out.

    Raises:
        UsageError: a built-in function without a signature.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[bound:]
    except ValueError as error:
        raise UsageError(f"{function!r} does not say what it takes, so it is no model.") from error
    hints = _hints(function)
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in parameters if p.kind not in _UNNAMED}


def method_parameters(kind: type, method: str) -> Parameters:
    """What a class's method takes; what it hands on by ``**more`` is its base class's."""
    found: Parameters = {}
    for base in kind.__mro__:
        function = vars(base).get(method)
        if not callable(function):
            continue
        found = _named(function, bound=not isinstance(function, staticmethod)) | found
        if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(function).parameters.values()):
            break
    return found


def system_parameters(system: Callable[..., Any]) -> Parameters:
    """What a system, a class or a function that returns a model, is configured by: its arguments, and the fields of
    those that are option groups (frozen dataclasses with a default), flat.

    Raises:
        UsageError: a name that comes twice.
    """
    flat: Parameters = {}
    for name, parameter in _arguments(system).items():
        kind = group_of(parameter)
        new = {name: parameter} if kind is None else _fields(kind, parameter.default)
        check_names(getattr(system, "__name__", repr(system)), new, flat, "another argument")
        flat |= new
    return flat


def _arguments(system: Callable[..., Any]) -> Parameters:
    return method_parameters(system, "__init__") if isinstance(system, type) else _named(system)


def option_groups(system: Callable[..., Any]) -> list[type]:
    """The dataclasses among a system's arguments, whose fields are options of its own."""
    return [kind for parameter in _arguments(system).values() if (kind := group_of(parameter))]


def group_of(parameter: inspect.Parameter) -> type | None:
    """The dataclass that an argument groups options in; None where it is a single option."""
    kind = type(parameter.default)
    return kind if dataclasses.is_dataclass(kind) else None


def _fields(kind: type, default: Any) -> Parameters:
    hints, keyword = _hints(kind), inspect.Parameter.KEYWORD_ONLY
    return {
        field.name: inspect.Parameter(
            field.name, keyword, default=getattr(default, field.name), annotation=hints.get(field.name, Any)
        )
        for field in dataclasses.fields(kind)
    }


def call_system(system: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """The model that a system makes of flat options."""
    own: dict[str, Any] = {}
    grouped: dict[str, dict[str, Any]] = defaultdict(dict)
    arguments = _arguments(system)
    groups = {name: kind for name, parameter in arguments.items() if (kind := group_of(parameter))}
    home = {field.name: name for name, kind in groups.items() for field in dataclasses.fields(kind)}
    for name, value in options.items():
        (grouped[home[name]] if name in home else own)[name] = value
    filled = {name: dataclasses.replace(arguments[name].default, **values) for name, values in grouped.items()}
    return system(**own, **filled)


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


def draws_freely(model: Model) -> bool:
    """Whether a model samples without being told an option that only a person can give."""
    return "sample" in verbs_of(model) and all(p.default is not EMPTY for p in sampling_options(model).values())


def accepted(model: Model, verb: str, options: dict[str, Any]) -> dict[str, Any]:
    """Those of some options that a verb of the model takes."""
    return {name: value for name, value in options.items() if name in method_parameters(type(model), verb)}


def listed(names: Iterable[str]) -> str:
    """Names for a sentence."""
    return ", ".join(names)


# Types


def type_of(parameter: inspect.Parameter) -> Any:
    """An argument's type: as annotated, else that of its default where this is a scalar."""
    default = type(parameter.default)
    inferred = default if default in _SCALARS and parameter.default is not None else Any
    return inferred if parameter.annotation is Any else parameter.annotation


def has_flag(parameter: inspect.Parameter) -> bool:
    """Whether an argument can be given on the command line: a number, text, True or False, one of some choices, a tuple
    of such, or another run. Any other is for Python alone."""
    return sub_run(parameter) is not None or _is_plain(type_of(parameter))


def _is_plain(hint: Any) -> bool:
    return all(
        kind in _SCALARS
        or typing.get_origin(kind) is Literal
        or (typing.get_origin(kind) is tuple and all(map(_is_plain, _entries(kind))))
        for kind in _kinds(hint)
    )


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a type is a union of, without their marks."""
    if typing.get_origin(hint) is typing.Annotated:
        return _kinds(hint.__origin__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for one in typing.get_args(hint) for kind in _kinds(one))
    return (hint,)


def _entries(hint: Any) -> list[Any]:
    """The types of a tuple's entries."""
    return [one for one in typing.get_args(hint) if one is not Ellipsis]


def has_choices(parameter: inspect.Parameter) -> bool:
    """Whether an argument's type names its values (``Literal``)."""
    return any(typing.get_origin(kind) is Literal for kind in _kinds(parameter.annotation))


def checked(owner: str, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    """A value for an argument: of the annotated type, among the choices (``Literal``) and finite.

    NumPy's numbers become Python's. Where no flag could give the argument, its type is the caller's business.

    Raises:
        UsageError: any other value; it names the argument.
    """
    value, hint = plain(value), parameter.annotation
    if sub_run(parameter) or _is_default(parameter, value):
        return value
    for number in value if isinstance(value, tuple | list) else [value]:
        check_finite(f"{name} of {owner}", number)
    kinds = _kinds(hint)
    if not _is_plain(hint) or any(_fits(kind, value) for kind in kinds):
        return value
    choices = [choice for kind in kinds if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)]
    others = [_described(kind) for kind in kinds if typing.get_origin(kind) is not Literal]
    close = suggest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
    raise UsageError(f"{name} of {owner} is {listed([*map(repr, choices), *others])}, not {value!r}.{close}")


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
        kinds = [one for entry in _entries(kind) for one in _kinds(entry)]
        return isinstance(value, tuple | list) and all(any(_fits(one, plain(v)) for one in kinds) for v in value)
    numbers = {float: (float, int)}.get(kind, kind)
    return isinstance(value, numbers) and (kind is bool or not isinstance(value, bool))


def check_names(owner: str, names: Iterable[str], taken: Collection[str], of: str) -> None:
    """Raise a UsageError where a model's own arguments have names that belong to something else."""
    if both := [name for name in names if name in taken]:
        raise UsageError(
            f"{owner} has arguments of its own with names that {of} has taken: {listed(both)}. Give them other names."
        )
