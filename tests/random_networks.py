"""Weights of the shapes of published networks, without their megabytes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reverie.nets import vgg
from reverie.nets.inception import BLOCKS, CONVOLUTIONS
from reverie.pretrained import weights

load = weights.load


def inception_shapes() -> dict[str, tuple[int, int, int, int]]:
    """(out, in, height, width) of every convolution, from Table 1 of the paper and the graph."""
    shapes = dict(
        zip(
            CONVOLUTIONS[:5],
            [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (80, 64, 1, 1), (192, 80, 3, 3)],
            strict=True,
        )
    )
    at35 = [(64, 0, 1, 1), (48, 0, 1, 1), (64, 48, 5, 5), (64, 0, 1, 1), (96, 64, 3, 3), (96, 96, 3, 3)]
    rows = {"Mixed_5b": [*at35, (32, 0, 1, 1)], "Mixed_5c": [*at35, (64, 0, 1, 1)], "Mixed_5d": [*at35, (64, 0, 1, 1)]}
    rows["Mixed_6a"] = [(384, 0, 3, 3), (64, 0, 1, 1), (96, 64, 3, 3), (96, 96, 3, 3)]
    for block, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        seven = [(c, 0, 1, 1), (c, c, 1, 7), (192, c, 7, 1)]
        deep = [(c, 0, 1, 1), (c, c, 7, 1), (c, c, 1, 7), (c, c, 7, 1), (192, c, 1, 7)]
        rows[block] = [(192, 0, 1, 1), *seven, *deep, (192, 0, 1, 1)]
    rows["Mixed_7a"] = [
        (192, 0, 1, 1),
        (320, 192, 3, 3),
        (192, 0, 1, 1),
        (192, 192, 1, 7),
        (192, 192, 7, 1),
        (192, 192, 3, 3),
    ]
    fan = [(384, 384, 1, 3), (384, 384, 3, 1)]
    last = [(320, 0, 1, 1), (384, 0, 1, 1), *fan, (448, 0, 1, 1), (384, 448, 3, 3), *fan, (192, 0, 1, 1)]
    rows |= {"Mixed_7b": last, "Mixed_7c": last}
    inputs = dict(zip(BLOCKS, (192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048), strict=True))
    for block in BLOCKS:
        for name, (out, into, *kernel) in zip(BLOCKS[block].names, rows[block], strict=True):
            shapes[f"{block}.{name}"] = (out, into or inputs[block], *kernel)
    return shapes


def random_inception() -> dict[str, Tensor]:
    """Weights that keep the size of activations."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, shape in inception_shapes().items():
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
        tensors[f"{name}.beta"], tensors[f"{name}.mean"] = 0.2 * torch.randn(2, shape[0], generator=generator)
        tensors[f"{name}.var"] = 0.5 + torch.rand(shape[0], generator=generator)
    return tensors


def random_vgg() -> dict[str, Tensor]:
    """VGG-16's weights that keep the size of activations."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, value in vgg.VGG(16).state_dict().items():
        fan = math.prod(value.shape[1:])
        tensors[name] = torch.randn(value.shape, generator=generator) * math.sqrt(2 / fan) * (value.ndim > 1)
    return tensors


def random_weights(name: str, progress: object = None) -> dict[str, Tensor]:
    """For ``weights.load``."""
    made = {"vgg16": random_vgg, "inception": random_inception}
    return made[name]() if name in made else load(name)
