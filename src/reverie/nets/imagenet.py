"""Input normalisation of networks trained on ImageNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(B, 1 or 3, H, W) in [-1, 1] to (B, 3, H, W), normalised by ImageNet's mean and standard deviation per channel.

    Grey is repeated; the output has the module's dtype. For inputs in [0, 1] these are 0.485, 0.456, 0.406 and 0.229,
    0.224, 0.225.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self):
        super().__init__()
        mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        self.register_buffer("mean", mean.view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", deviation.view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.expand(-1, 3, -1, -1) - self.mean) / self.deviation).to(self.mean.dtype)
