"""Checks and conversions of values from a model's functions and of callbacks' state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.optim.phase import Metrics


def detached(value: Any) -> Any:
    """The same tensors without their graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: detached(item) for name, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*map(detached, value))
    return type(value)(map(detached, value)) if isinstance(value, list | tuple) else value


def checked(who: str, value: Any) -> Any:
    """The value; raises a UsageError unless it is a mapping. ``who`` names the function that returned it."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{who} must return a dict of tensors by name, not {type(value).__name__}.")
    return value


def wide(value: Tensor) -> Tensor:
    """The value in float32, or unchanged in float64."""
    return value if value.dtype == torch.float64 else value.float()


def check_scalars(who: str, scalars: Metrics) -> None:
    """Raise a UsageError unless all values are 0-dim real tensors."""
    for name, value in checked(who, scalars).items():
        if not isinstance(value, Tensor) or value.ndim or value.is_complex():
            is_tensor = isinstance(value, Tensor)
            kind = f"a {value.dtype} of shape {tuple(value.shape)}" if is_tensor else type(value).__name__
            raise UsageError(f"{who}: {name!r} must be a 0-dim tensor, not {kind}.")


_PLAIN = (bool, int, float, str, bytes, type(None), Tensor)


def check_plain(state: Any, whose: str) -> None:
    """Raise a UsageError if a checkpoint of this state could be written but not read."""
    kind = type(state)
    if kind in (list, tuple, set):
        parts = list(state)
    elif kind is dict:
        parts = [*state.keys(), *state.values()]
    elif kind in _PLAIN:
        return
    else:
        raise UsageError(
            f"The state() of callback {whose} holds a {kind.__module__}.{kind.__name__}, which a checkpoint cannot "
            "restore: return only plain numbers, texts, lists, dicts and tensors."
        )
    for part in parts:
        check_plain(part, whose)
