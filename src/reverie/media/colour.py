"""Brightness, and channels brought to agree."""

from __future__ import annotations

from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def grey(image: Tensor) -> Tensor:
    """(B, 1 or 3, *shape) to luma (B, 1, *shape)."""
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(LUMA).view(1, 3, *[1] * (image.ndim - 2))).sum(1, keepdim=True)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(B, 1 or 3, *shape) to (B, channels, *shape): colour to luma, grey to equal channels."""
    return image if image.shape[1] == channels else grey(image).expand(-1, channels, *image.shape[2:])
