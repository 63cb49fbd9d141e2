"""Sources made of images: grey for colour, outlines for whole images; and channels brought to agree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) to luma (B, 1, H, W)."""
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(B, 1 or 3, H, W) to (B, channels, H, W): colour to luma, grey to equal channels; as it is where they agree."""
    return image if image.shape[1] == channels else grey(image).expand(-1, channels, -1, -1)


def lines(image: Tensor) -> Tensor:
    """Dark lines on white where brightness or colour changes, (B, 1, H, W) in [-1, 1]: Sobel's gradient norm."""
    kernel = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    flat = F.pad(image, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    gradients = F.conv2d(flat, torch.stack([kernel, kernel.T])[:, None]).unflatten(0, image.shape[:2])
    norm = gradients.square().sum((1, 2)).sqrt()[:, None]
    return 1 - 2 * (4 * norm - 0.2).clamp(0, 1)


TASKS = {"colour": grey, "lines": lines}  # the source that is made of an image, for the network to invert
