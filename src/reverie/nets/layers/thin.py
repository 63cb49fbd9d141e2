"""3x3 convolutions with few input or few output channels, on a CPU as one product of matrices for all pixels.

oneDNN's kernels fill blocks of 16 or 32 channels with zeros there. The nine shifted maps lie in planes, so that all
copies and sums are along rows of pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_INPUTS, _FEW_OUTPUTS = 4, 8


class ThinConv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1 that is fast for few inputs or outputs.

    Args:
        inputs, outputs: channels.
    """

    bias: nn.Parameter

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W); of few outputs the sums are of at least float32."""
        if x.device.type == "cpu" and self.in_channels <= _FEW_INPUTS:
            return self._of_few_inputs(x)
        if x.device.type == "cpu" and self.out_channels <= _FEW_OUTPUTS:
            return self._of_few_outputs(x)
        return super().forward(x)

    def _of_few_inputs(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))  # before there are nine of it
        columns = _Unfold.apply(x.transpose(0, 1)).flatten(3).flatten(0, 2)  # (9 inputs, B H W)
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (9 inputs, outputs)
        y = torch.addmm(self.bias, columns.T, weight)
        return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)

    def _of_few_outputs(self, x: Tensor) -> Tensor:
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B H W, inputs)
        weight = self.weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)  # (9 outputs, inputs)
        planes = (weight @ rows.T).view(3, 3, self.out_channels, len(x), *x.shape[2:])
        return (_Fold.apply(planes) + self.bias[:, None, None, None]).transpose(0, 1)


class _Unfold(torch.autograd.Function):
    """Planes (C, B, H, W) to their nine shifts (3, 3, C, B, H, W), with zeros from beyond the borders."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = F.pad(x.contiguous(), (1, 1, 1, 1))
        shifts = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return torch.stack(shifts).unflatten(0, (3, 3))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Fold.apply(grad)


class _Fold(torch.autograd.Function):
    """The transpose of ``_Unfold``: the sum of nine shifted planes, in at least float32."""

    @staticmethod
    def forward(ctx: Any, shifts: Tensor) -> Tensor:
        ctx.dtype = shifts.dtype
        *planes, height, width = shifts.shape[2:]
        total = shifts.new_zeros(*planes, height + 2, width + 2, dtype=torch.promote_types(ctx.dtype, torch.float32))
        for i in range(3):
            for j in range(3):
                total[:, :, i : i + height, j : j + width] += shifts[i, j]
        return total[:, :, 1:-1, 1:-1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Unfold.apply(grad.to(ctx.dtype))
