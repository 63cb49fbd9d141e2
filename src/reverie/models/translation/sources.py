"""Sources made of images: grey for colour, outlines for whole images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.media.colour import grey


def lines(image: Tensor) -> Tensor:
    """Dark lines on white where brightness or colour changes, (B, 1, H, W) in [-1, 1]: Sobel's gradient norm."""
    kernel = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    flat = F.pad(image, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    gradients = F.conv2d(flat, torch.stack([kernel, kernel.T])[:, None]).unflatten(0, image.shape[:2])
    norm = gradients.square().sum((1, 2)).sqrt()[:, None]
    return 1 - 2 * (4 * norm - 0.2).clamp(0, 1)


TASKS = {"colour": grey, "lines": lines}  # the source that is made of an image, for the network to invert
