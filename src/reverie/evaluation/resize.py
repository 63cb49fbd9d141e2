"""Resizing as published scores do it: each method is linear and separable, so it is two small matrices.

Scores of the same images differ by points between methods (Parmar et al., arXiv:2104.11222), so each method has a name,
which the passport records.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from reverie.core.errors import UsageError, argument

RESIZES = {
    "tf1-bilinear": "the original FID's: source = target * in / out, no half-pixel shift, not antialiased",
    "bilinear": "half-pixel centres, no antialiasing, as torch.nn.functional.interpolate",
    "bilinear-antialias": "half-pixel centres, a triangle as wide as the reduction, as Pillow and torchvision",
    "bicubic-antialias": "half-pixel centres, a cubic (a = -0.5) as wide as the reduction, as Pillow and clean-fid",
}


@lru_cache(64)
def matrix(source: int, target: int, method: str) -> Tensor:
    """(target, source) float32 weights of one axis; each row sums to one.

    Raises:
        UsageError: an unknown method.
    """
    if method not in RESIZES:
        raise UsageError(f"{argument('resize')} must be one of {', '.join(RESIZES)}, not {method!r}.")
    steps = torch.arange(target, dtype=torch.float64)
    if method == "tf1-bilinear":
        centre, width = steps * source / target, 1.0
    else:
        centre = (steps + 0.5) * source / target - 0.5
        width = max(1.0, source / target) if method.endswith("antialias") else 1.0
    if not method.endswith("antialias"):
        centre = centre.clamp(0, source - 1)  # the border repeats
    distance = (torch.arange(source, dtype=torch.float64) - centre[:, None]).abs() / width
    weights = _cubic(distance) if method.startswith("bicubic") else (1 - distance).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()  # beyond the border, an antialiasing kernel is cut


def _cubic(x: Tensor, a: float = -0.5) -> Tensor:
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize(images: Tensor, size: int, method: str) -> Tensor:
    """(N, C, H, W) float32 to (N, C, size, size); a cubic's overshoot beyond 0 ... 255 is cut."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    rows, columns = (matrix(side, size, method).to(images.device) for side in (height, width))
    resized = rows @ (images @ columns.T)
    return resized.clamp_(0, 255) if method.startswith("bicubic") else resized
