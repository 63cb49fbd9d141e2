"""Pretrained networks with their weights, for their activations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from reverie.core.cache import Progress
from reverie.core.errors import ReverieError, UsageError, suggest
from reverie.core.layout import to_device_layout
from reverie.nets import inception, mobilenet, resnet, vgg
from reverie.nets.features import Features
from reverie.nets.imagenet import Normalise, folded
from reverie.pretrained import weights
from reverie.pretrained.weights import Weights

WITHOUT = "Networks of your own runs need no download: reverie filters RUN, reverie dream IMAGE --net RUN."


@dataclass(frozen=True)
class Pretrained:
    """A pretrained network and the layers by which it is used.

    Attributes:
        build: (weights, **options) to a module of images (B, 1 or 3, H, W) in [-1, 1], to logits where it has them.
        aliases: other names of its layers, as the literature has them.
        main: its layers from fine to coarse, by the names that the literature uses; it has others within them.
        dream: layers of DeepDream, and their weights.
        style: layers of style transfer, fine to coarse.
        content: layer of style transfer.
        size: side in pixels of the images that its layers are measured on.
    """

    build: Callable[..., nn.Module]
    aliases: Mapping[str, str]
    main: tuple[str, ...]
    dream: Mapping[str, float]
    style: tuple[str, ...] = ()
    content: str = ""
    size: int = 64


def _vgg(depth: Literal[16, 19]) -> Pretrained:
    def build(state: Weights, **options: Any) -> nn.Module:
        return _loaded(vgg.VGG(depth, **options), state)

    names = vgg.aliases(depth)
    style = tuple(f"relu{block}_1" for block in range(1, 6))
    main = tuple(names.values())[:-1]
    return Pretrained(build, names, main, {"relu5_3": 1.0}, style, "relu4_2")


def _resnet50() -> Pretrained:
    names = resnet.aliases()
    dream = {"conv4_block3_out": 1.0, "conv4_block6_out": 1.0}
    return Pretrained(lambda state: _loaded(resnet.ResNet50(), state), names, tuple(names)[:-1], dream)


def _inception() -> Pretrained:
    def build(state: Weights) -> nn.Module:
        layers = dict(inception.Inception(state).layers.named_children())
        normalise = Normalise((128 / 255,) * 3, (128 / 255,) * 3)
        return nn.Sequential(OrderedDict(normalise=normalise, **layers))

    dream = {"mixed3": 1.0, "mixed4": 1.0}
    return Pretrained(build, inception.ALIASES, (*inception.STEM, *inception.ALIASES), dream, size=173)


def _mobilenet(lite: bool) -> Pretrained:
    def build(state: Weights) -> nn.Module:
        return folded(_loaded(mobilenet.MobileNetV2(lite), state))

    names = mobilenet.aliases(lite)
    main = tuple(f"features.{index}" for index in range(18 if lite else 19))
    dream = {"features.11": 1.0} if lite else {"features.8": 1.0, "features.12": 1.0}
    return Pretrained(build, names, main, dream)


def _loaded(network: nn.Module, state: Weights) -> nn.Module:
    network.load_state_dict(state)
    return network.eval()


NETWORKS: dict[str, Pretrained] = {
    "vgg16": _vgg(16),
    "vgg19": _vgg(19),
    "inception": _inception(),
    "resnet50": _resnet50(),
    "mobilenetv2": _mobilenet(lite=False),
    "efficientnet-lite0": _mobilenet(lite=True),
}


@torch.inference_mode(False)  # a gradient may need the weights, also later
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
    try:
        state = weights.load(name, progress)
    except ReverieError as error:
        raise ReverieError(*error.args, WITHOUT) from error
    network = to_device_layout(pretrained.build(state, **options).to(dtype), device)
    run = network.logits if isinstance(network, mobilenet.MobileNetV2) else None
    size = (pretrained.size, pretrained.size)
    return Features(network, run, aliases=pretrained.aliases, main=pretrained.main, size=size, name=name)
