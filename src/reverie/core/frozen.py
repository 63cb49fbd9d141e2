"""A trained network that serves another one as it is."""

from __future__ import annotations

from types import MethodType
from typing import TypeVar

from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def frozen(net: Net) -> Net:
    """The same network, in eval mode and without gradients for good: a ``train()`` around it does not reach it."""
    net.requires_grad_(False).eval()
    net.train = MethodType(_stay, net)  # type: ignore[method-assign]
    return net
