"""Linear layers whose weights are integers: sums in any order, on any machine, are the same numbers.

Activations are integers, too, carried by floating-point numbers. No partial sum reaches 2^24, so float32 and float64
compute every product and sum without rounding. Training rounds the weights in the forward pass, and passes gradients
on as if it did not (Bengio et al., arXiv:1308.3432).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

UNIT = 128  # an activation of 1.0
TOP = 1023  # the largest activation
_SCALE = 512  # a weight of 1.0
_BIAS_LIMIT = 1 << 22
_SUM_LIMIT = (1 << 24) - _BIAS_LIMIT - (1 << 13)


class IntegerLinear(nn.Linear):
    """y = round((W x + b) / 512) of columns x, with integers W and b.

    Args:
        inputs, outputs: rows of x and y.
        bias: whether there is b.
        top: the largest absolute value of x.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True, top: int = TOP):
        super().__init__(inputs, outputs, bias)
        self.top = top
        self.fixed: tuple[np.ndarray, np.ndarray] | None = None

    def integers(self) -> tuple[Tensor, Tensor]:
        """W (outputs, inputs) and b (outputs, 1), of which sum |W| top + |b| < 2^24 in every row.

        A row of W that is too large is scaled down: by integers and single operations, so that no order of summation
        matters.
        """
        weight = (self.weight.detach() * _SCALE).round().double()
        norm = weight.abs().sum(1, keepdim=True)
        limit = _SUM_LIMIT // self.top
        weight = torch.where(norm > limit, (weight * limit / norm.clamp(min=1)).trunc(), weight)
        if self.bias is None:
            return weight, weight.new_zeros(len(weight), 1)
        bias = (self.bias.detach() * (_SCALE * UNIT)).round().clamp(-_BIAS_LIMIT, _BIAS_LIMIT)
        return weight, bias.double()[:, None]

    def freeze(self, carrier: type[np.floating[Any]] = np.float32) -> None:
        """From now on compute with integers, on the CPU, without gradients.

        NumPy multiplies, which no setting of torch makes less precise than its type.
        """
        weight, bias = self.integers()
        self.fixed = weight.numpy().astype(carrier), bias.numpy().astype(carrier)

    def forward(self, x: Tensor) -> Tensor:
        """(inputs, n) to (outputs, n); integers once it is frozen."""
        if self.fixed is not None:
            matrix, shift = self.fixed
            y = matrix @ x.numpy().astype(matrix.dtype, copy=False)
            y += shift + _SCALE // 2
            y *= 1 / _SCALE
            return torch.from_numpy(np.floor(y, out=y))
        weight, bias = (part.to(x.dtype) for part in self.integers())
        weight = _passing(self.weight * _SCALE, weight)
        if self.bias is not None:
            bias = _passing(self.bias[:, None] * (_SCALE * UNIT), bias)
        return torch.addmm(bias, weight, x) / _SCALE


def _passing(value: Tensor, rounded: Tensor) -> Tensor:
    """``rounded``, with the gradient of ``value``."""
    return value + (rounded - value).detach()


def clipped(y: Tensor) -> Tensor:
    """The activation function: 0 ... ``TOP``."""
    return y.clamp(0, TOP)
