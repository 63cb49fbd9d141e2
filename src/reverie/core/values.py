"""Checks of single values from the user. Torch is imported lazily: media and data import without it."""

from __future__ import annotations

import operator
from numbers import Real
from typing import Any

import numpy as np

from reverie.core.errors import UsageError

_LARGEST = 3.4028234e38  # of float32, in which networks compute


def plain(value: Any) -> Any:
    """A NumPy scalar or a 0-dim array or tensor as a Python number; anything else unchanged."""
    from torch import Tensor

    return value.item() if isinstance(value, np.generic | np.ndarray | Tensor) and not value.ndim else value


def integer(name: str, value: Any, least: int | None = None, most: int = (1 << 31) - 1) -> int:
    """An integer of any type, including NumPy's.

    Raises:
        UsageError: not an integer, below ``least``, or, where that is given, above ``most``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}.") from None
    if least is not None and number < least:
        raise UsageError(f"{name} must be at least {least}, not {number}.")
    if least is not None and number > most:
        raise UsageError(f"{name} must be at most {most:,}, not {number}.")
    return number


def integers(values: Any) -> tuple[int, ...] | None:
    """Integers of any type as Python integers; None for any other values, including bool."""
    try:
        return None if any(isinstance(value, bool) for value in values) else tuple(map(operator.index, values))
    except TypeError:
        return None


def check_bool(name: str, value: Any) -> None:
    """Raise a UsageError unless this is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise UsageError(f"{name} must be True or False, not {value!r:.80}.")


def check_seeds(*seeds: Any) -> tuple[int, ...]:
    """Seeds as Python integers. Raises a UsageError for one that is no whole number of 64 bits."""
    numbers = [integers([seed]) for seed in seeds]
    for seed, number in zip(seeds, numbers, strict=True):
        if number is None or not -(1 << 63) <= number[0] < 1 << 63:
            raise UsageError(f"A seed is a whole number from -2^63 to 2^63 - 1, not {seed!r:.80}.")
    return tuple(number[0] for number in numbers if number)


def is_finite(value: Any) -> bool:
    """Whether this is a finite number that fits a float32; False for bool, NaN and infinity."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) <= _LARGEST
    except OverflowError:  # a very large integer
        return False


def number(name: str, value: Any, least: float | None = None, most: float = _LARGEST) -> float:
    """A finite number of any type, including NumPy's.

    Raises:
        UsageError: not a finite number, below ``least`` or above ``most``.
    """
    value = plain(value)
    if not is_finite(value) or (least is not None and value < least) or value > most:
        bound = "" if least is None else f" of at least {least:g}"
        bound += "" if most == _LARGEST else f" and at most {most:g}"
        raise UsageError(f"{name} must be a finite number{bound}, not {value!r}.")
    return float(value)


def check_finite(name: str, value: Any) -> None:
    """Raise a UsageError for NaN and infinity, also inside a tensor; non-floats pass."""
    from torch import Tensor

    if isinstance(value, Tensor):
        finite = bool(value.isfinite().all())
    else:
        finite = not isinstance(value, float) or is_finite(value)
    if not finite:
        raise UsageError(f"{name} must be a finite number, not {value!r}.")
