"""LPIPS 0.1: perceptual distance of two images by activations of VGG-16. Zhang et al., arXiv:1801.03924."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.features import Features
from reverie.nets.vgg import LAST_OF_BLOCKS


class LPIPS(nn.Module):
    """The perceptual distance of pairs of images, 0 for equal images.

    d(x, y) = sum over layers of the mean over positions of w . (f(x)/|f(x)| - f(y)/|f(y)|)^2. The paper's input scaling
    is ImageNet's normalisation, which ``VGG`` includes.

    Args:
        vgg: VGG-16 with the weights of "vgg16", frozen here; gradients reach the images.
        heads: {"lin0": (64,), ..., "lin4": (512,)}, a weight w >= 0 per channel: "lpips-vgg".
    """

    def __init__(self, vgg: nn.Module, heads: Mapping[str, Tensor]):
        super().__init__()
        self.vgg = Features(vgg, name="VGG-16")
        self.heads = nn.ParameterList(nn.Parameter(heads[f"lin{i}"], requires_grad=False) for i in range(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two batches (B, 1 or 3, H, W) in [-1, 1], sides of at least 16, to distances (B,). Raises UsageError."""
        of_x, of_y = self.vgg(x, LAST_OF_BLOCKS), self.vgg(y, LAST_OF_BLOCKS)
        distances = []
        for layer, head in zip(LAST_OF_BLOCKS, self.heads, strict=True):
            # F.normalize, because the gradient of a plain square root is NaN if all channels are zero
            unit_x, unit_y = (F.normalize(of[layer], dim=1, eps=1e-10) for of in (of_x, of_y))  # (B, C, H, W)
            distances.append((unit_x - unit_y).square().mean((2, 3)) @ head)
        return torch.stack(distances).sum(0)
