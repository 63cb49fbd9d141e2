"""Restore the state of an optimiser from a file that may be damaged."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from reverie.optim.muon import Muon

_ELEMENTWISE = (torch.optim.Adam, torch.optim.SGD, Muon)  # AdamW is an Adam
_KEYS = ({"momentum"}, {"momentum_buffer"}, {"step", "exp_avg", "exp_avg_sq"})


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """``load_state_dict``, checked for Adam, AdamW, SGD and Muon: fused kernels write past the end of a short moment.

    Raises:
        ValueError: the state is not one of this optimiser and its parameters.
    """
    groups = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    if not isinstance(optimizer, _ELEMENTWISE):
        return
    for before, group in zip(groups, optimizer.param_groups, strict=True):
        if odd := [name for name, value in before.items() if not _is_alike(value, group.get(name))]:
            raise ValueError(f"the optimiser's {odd[0]} cannot be {group.get(odd[0])!r:.60}")
    for parameter, state in optimizer.state.items():
        keys = state.keys() - {"max_exp_avg_sq"}
        if not isinstance(parameter, Tensor) or (keys and keys not in _KEYS):
            raise ValueError(f"the optimiser's state cannot hold {list(state)!r:.80}")
        if odd := [name for name, value in state.items() if not _fits(name, value, parameter)]:
            raise ValueError(f"the optimiser's {odd[0]} is not of its parameter's shape {tuple(parameter.shape)}")


def _is_alike(before: Any, value: Any) -> bool:
    """Whether a number stays a finite number, and a tuple one of as many; anything else is not compared."""
    if isinstance(before, tuple):
        return isinstance(value, tuple) and len(value) == len(before) and all(map(_is_alike, before, value))
    is_number = isinstance(before, int | float) and not isinstance(before, bool)
    return not is_number or (isinstance(value, int | float) and math.isfinite(value))


def _fits(name: str, value: Any, parameter: Tensor) -> bool:
    if name == "step":
        return isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex()
    if value is None:
        return name == "momentum_buffer"
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.dtype != parameter.dtype:
        return False
    stored = value.untyped_storage().nbytes() // value.element_size()
    return stored >= value.storage_offset() + value.numel()  # an expanded view repeats its elements
