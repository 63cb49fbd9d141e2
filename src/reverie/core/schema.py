"""Types of JSON values: whether a file that anybody may have edited holds what its readers expect."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, Literal


def fault_of(value: Any, hint: Any, name: str = "", finite: bool = True) -> str | None:
    """Why a JSON value does not have a type, as "plan.knots[3] cannot be 'x'", or None.

    Args:
        hint: None, bool, int (of 64 bits), float (any number), str, Any, ``Literal``, unions of these, ``list[T]``, a
            ``tuple`` of a fixed length, ``dict[str, T]``, a ``TypedDict`` (other keys are accepted) or a dataclass
            (keys may be missing, but no others are accepted).
        name: of the value.
        finite: whether NaN and infinity are faults.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        faults = [fault_of(value, kind, name, finite) for kind in typing.get_args(hint)]
        return None if None in faults else max(faults, key=lambda fault: len((fault or "").partition(" cannot")[0]))
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    wrong = f"{name or 'it'} cannot be {reprlib.repr(value)}"
    if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        return wrong if not isinstance(value, dict) else _fault_of_fields(value, kind, name, finite)
    entries: list[tuple[Any, Any, str]] = []
    if kind is dict:
        if not isinstance(value, dict):
            return wrong
        entries = [(item, parts[1], f"{name}.{key}") for key, item in value.items()]
    elif kind in (list, tuple):
        if not isinstance(value, list | tuple) or (kind is tuple and len(value) != len(parts)):
            return wrong
        kinds = parts * len(value) if kind is list else parts
        entries = [(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(value, kinds, strict=True))]
    if kind in (dict, list, tuple):
        return next(filter(None, (fault_of(*entry, finite) for entry in entries)), None)
    if kind is float:
        fits = (type(value) is float and (math.isfinite(value) or not finite)) or _is_integer(value)
    elif kind is int:
        fits = _is_integer(value)
    elif kind is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in parts)
    else:
        fits = kind is Any or type(value) is (type(None) if kind is None else kind)
    return None if fits else wrong


def _is_integer(value: Any) -> bool:
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _fault_of_fields(value: dict[str, Any], kind: Any, name: str, finite: bool) -> str | None:
    hints, prefix = typing.get_type_hints(kind), f"{name}." if name else ""
    if typing.is_typeddict(kind):
        lacking = [key for key in kind.__required_keys__ if key not in value]
        odd = list[str]()
    else:
        lacking, odd = [], [key for key in value if key not in hints]
    if lacking or odd:
        return f"it lacks {prefix}{min(lacking)}" if lacking else f"{prefix}{odd[0]!r:.80} is unknown"
    fields = (fault_of(value[key], hint, f"{prefix}{key}", finite) for key, hint in hints.items() if key in value)
    return next(filter(None, fields), None)
