"""A model's state: transient buffers and the hash of its weights."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from reverie.core.errors import ReverieError, UsageError


def transient(model: nn.Module) -> set[str]:
    """Names of buffers that matter only within one training: counters, image pools, Markov chains, probabilities.

    A module class lists them by name or pattern, ``transient = ("augment_p", "pool_*")``; base classes count, too.
    """
    names: set[str] = set()
    for prefix, module in model.named_modules():
        for pattern in (pattern for kind in type(module).__mro__ for pattern in vars(kind).get("transient", ())):
            buffers = (name for name, _ in module.named_buffers())
            names |= {f"{prefix}.{name}".lstrip(".") for name in buffers if fnmatch.fnmatchcase(name, pattern)}
    return names


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """First 40 hex digits of the sha256 over names, types, shapes and values of a state dict.

    Raises:
        UsageError: an entry is not a tensor with values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor):
            what = "an uninitialised lazy layer" if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise UsageError(f"{name!r} of this model is {what}: weights files hold only tensors.")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:40]


def check_weights(weights: Mapping[str, Tensor], where: Path) -> None:
    """Raise a ReverieError if weights are NaN or infinite."""
    if odd := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ReverieError(
            f"The weights in {where} are NaN or infinite in {len(odd)} of {len(weights)} tensors, first {odd[0]!r}: "
            "training diverged, or the file was changed. Use an earlier checkpoint."
        )
