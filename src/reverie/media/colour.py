"""Brightness and transparency of a model's images (B, C, *shape), and channels brought to agree.

RGBA is premultiplied here: see ``media.alpha``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reverie.media.alpha import WHITE, is_rgba

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def solid(image: Tensor, background: Sequence[int] = WHITE) -> Tensor:
    """RGBA (B, 4, H, W) on a background of 8-bit RGB: (B, 3, H, W). Other images stay. Differentiable."""
    if not is_rgba(image, 1):
        return image
    behind = image.new_tensor(background).div_(255).view(3, 1, 1)
    return image[:, :3] + behind * (1 - image[:, 3:])


def grey(image: Tensor) -> Tensor:
    """(B, 1, 3 or 4, *shape) to luma (B, 1, *shape); RGBA on white."""
    image = solid(image)
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor(LUMA).view(1, 3, *[1] * (image.ndim - 2))).sum(1, keepdim=True)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(B, 1, 3 or 4, *shape) to (B, channels, *shape): colour to luma, grey to equal channels, RGBA on white.

    What becomes RGBA is opaque.
    """
    if image.shape[1] == channels:
        return image
    image = solid(image)
    if channels == 1 or image.shape[1] == 1:
        image = grey(image).expand(-1, min(channels, 3), *image.shape[2:])
    return torch.cat([image, torch.ones_like(image[:, :1])], 1) if channels == 4 else image


def weighted(image: Tensor) -> Tensor:
    """Of RGBA, its colours around mid-grey times their opacity, and the opacity in [0, 1]; other images stay.

    A transparent pixel is 0, and a change of colours, a c + b, is a c + b opacity: see ``parts``.
    """
    if not is_rgba(image, 1):
        return image
    opacity = (image[:, 3:] + 1) / 2
    return torch.cat([image[:, :3] + 1 - opacity, opacity], 1)


def unweighted(image: Tensor) -> Tensor:
    """The image that ``weighted`` turned."""
    if not is_rgba(image, 1):
        return image
    opacity = image[:, 3:]
    return torch.cat([image[:, :3] - 1 + opacity, 2 * opacity - 1], 1)


def parts(image: Tensor) -> tuple[Tensor, Tensor | float]:
    """The colours of a ``weighted`` image, and their opacity: 1 unless it is RGBA."""
    return (image[:, :3], image[:, 3:]) if is_rgba(image, 1) else (image, 1.0)


def joined(colours: Tensor, opacity: Tensor | float) -> Tensor:
    """The ``weighted`` image of these ``parts``."""
    return torch.cat([colours, opacity], 1) if isinstance(opacity, Tensor) else colours


def mean_colour(colours: Tensor, opacity: Tensor | float) -> Tensor:
    """The mean colour (B, 1, ...) over channels and positions, by their opacity."""
    mean = colours.mean(tuple(range(1, colours.ndim)), keepdim=True)
    return mean / opacity.mean((1, 2, 3), keepdim=True).clamp(min=1e-3) if isinstance(opacity, Tensor) else mean
