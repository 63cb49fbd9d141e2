"""What of a model's state is learned, and what belongs to one training only."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError


def transient(model: nn.Module) -> set[str]:
    """Names of buffers that are counters or memories (image pools, chains, probabilities): no other run wants them.

    A module's class lists its own as ``transient``, names or patterns: ``transient = ("augment_p", "pool_*")``; those
    of its bases count, too.
    """
    names: set[str] = set()
    for prefix, module in model.named_modules():
        for pattern in (pattern for kind in type(module).__mro__ for pattern in vars(kind).get("transient", ())):
            own = (name for name, _ in module.named_buffers())
            names |= {f"{prefix}.{name}".lstrip(".") for name in own if fnmatch.fnmatchcase(name, pattern)}
    return names


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and values of a state dict; 40 digits.

    Raises:
        UsageError: something in it is no tensor with values.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor):
            what = "a lazy layer that has seen no data yet" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UsageError(f"{name!r} of this model is no tensor but {what}: weights files hold tensors alone.")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:40]
