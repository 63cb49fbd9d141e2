"""Pretrained networks with their weights, for their activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from reverie.core.cache import Progress
from reverie.core.errors import UsageError, suggest
from reverie.core.layout import to_device_layout
from reverie.nets.features import Features
from reverie.nets.vgg import VGG16
from reverie.pretrained import weights

NETWORKS: dict[str, Callable[[], nn.Module]] = {"vgg16": VGG16}


def features(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Features:
    """A pretrained network's activations; its weights are fetched once.

    Args:
        name: one of ``NETWORKS``.
        dtype: of its arithmetic; activations have it, too.
    Raises:
        UsageError: an unknown network.
        ReverieError: its weights cannot be fetched.
    """
    if name not in NETWORKS:
        raise UsageError(f"No network {name!r}.{suggest(name, list(NETWORKS))} There are {', '.join(NETWORKS)}.")
    network = NETWORKS[name]()
    network.load_state_dict(weights.load(name, progress))
    return Features(to_device_layout(network.to(dtype), device), name=name)
