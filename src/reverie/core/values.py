"""Single values that people give, checked where they enter."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from torch import Tensor

from reverie.core.errors import UsageError


def plain(value: Any) -> Any:
    """A NumPy scalar, or an array or tensor without dimensions, as a Python number; anything else as it is."""
    return value.item() if isinstance(value, np.generic | np.ndarray | Tensor) and not value.ndim else value


def integer(name: str, value: Any, least: int | None = None) -> int:
    """An integer of any type, NumPy's among them.

    Raises:
        UsageError: it is none, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}.") from None
    if least is not None and number < least:
        raise UsageError(f"{name} must be at least {least}, not {number}.")
    return number


def check_seeds(*seeds: int) -> None:
    """Raise a UsageError for a seed beyond 64 bits."""
    if odd := [seed for seed in seeds if not -(1 << 63) <= seed < 1 << 63]:
        raise UsageError(f"A seed is a whole number from -2^63 to 2^63 - 1, not {odd[0]}.")


def check_finite(name: str, value: Any) -> None:
    """Raise a UsageError for NaN and infinity, also among a tensor's numbers."""
    finite = bool(value.isfinite().all()) if isinstance(value, Tensor) else not _is_odd(value)
    if not finite:
        raise UsageError(f"{name} must be a finite number, not {value!r}.")


def _is_odd(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
