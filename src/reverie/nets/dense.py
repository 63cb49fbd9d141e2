"""Fully connected networks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """(B, sizes[0]) to (B, sizes[-1]): linear layers with SiLU in between; a single linear layer for two sizes."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
