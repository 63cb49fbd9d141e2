"""Pretrained networks with their weights, for their activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from reverie.core.cache import Progress
from reverie.core.errors import UsageError, suggest
from reverie.core.layout import to_device_layout
from reverie.nets import vgg
from reverie.nets.features import Features
from reverie.pretrained import weights
from reverie.pretrained.weights import Weights


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network and the layers by which it is used.

    Attributes:
        build: (weights, **options) to a module of images (B, 1 or 3, H, W) in [-1, 1].
        aliases: other names of its layers in the literature.
        dream: layers of DeepDream and their weights.
        style: layers of style transfer, fine to coarse.
        content: layer of style transfer.
        size: side in pixels of the images that its layers are measured on.
    """

    build: Callable[..., nn.Module]
    aliases: Mapping[str, str] = field(default_factory=dict)
    dream: Mapping[str, float] = field(default_factory=dict)
    style: tuple[str, ...] = ()
    content: str = ""
    size: int = 64


def _vgg(depth: int) -> Pretrained:
    def build(state: Weights, **options: Any) -> nn.Module:
        network = vgg.VGG(depth, **options)
        network.load_state_dict(state)
        return network

    style = tuple(f"relu{block}_1" for block in range(1, 6))
    return Pretrained(build, vgg.aliases(depth), {"relu4_3": 1.0, "relu5_1": 1.0}, style, "relu4_2")


NETWORKS: dict[str, Pretrained] = {"vgg16": _vgg(16), "vgg19": _vgg(19)}


def features(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
    **options: Any,
) -> Features:
    """A pretrained network's activations; its weights are fetched once.

    Args:
        name: one of ``NETWORKS``.
        dtype: of its arithmetic; activations have it, too.
        options: of the network: VGG's pooling and replicate.
    Raises:
        UsageError: an unknown network.
        ReverieError: its weights cannot be fetched.
    """
    if name not in NETWORKS:
        raise UsageError(f"No network {name!r}.{suggest(name, list(NETWORKS))} There are {', '.join(NETWORKS)}.")
    pretrained = NETWORKS[name]
    network = pretrained.build(weights.load(name, progress), **options).to(dtype)
    size = (pretrained.size, pretrained.size)
    return Features(to_device_layout(network, device), aliases=pretrained.aliases, size=size, name=name)
