"""Input normalisation of networks trained on ImageNet."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Colour = tuple[float, float, float]


class Normalise(nn.Module):
    """(B, 1 or 3, H, W) in [-1, 1] to (B, 3, H, W), normalised by a mean and a standard deviation per channel.

    Grey is repeated. The output has the module's dtype.

    Args:
        mean: for inputs in [0, 1]; by default ImageNet's.
        std: likewise.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Colour = (0.485, 0.456, 0.406), std: Colour = (0.229, 0.224, 0.225)):
        super().__init__()
        self.register_buffer("mean", torch.tensor([2 * m - 1 for m in mean]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([2 * s for s in std]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.expand(-1, 3, -1, -1) - self.mean) / self.deviation).to(self.mean.dtype)


def folded(network: nn.Module) -> nn.Module:
    """Fold each batch normalisation of a network in eval mode into the convolution before it in the same Sequential."""
    for block in network.modules():
        if isinstance(block, nn.Sequential):
            for index, (conv, norm) in enumerate(itertools.pairwise(list(block))):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[index], block[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network
