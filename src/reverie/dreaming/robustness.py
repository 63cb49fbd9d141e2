"""Random transformations, under which an image must keep its effect, and gradients that pass rectifiers.

Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017, doi:10.23915/distill.00007.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reverie.core.noise import Noise

JITTER = (8, 4)  # pixels within which an image is shifted, before and after it is scaled and rotated
SCALE, DEGREES = 0.1, 10.0  # it is scaled by 1 +- 0.1 and rotated by +- 10 degrees
_IN_PLACE = (torch.relu_, Tensor.relu_)
_RELU = (F.relu, torch.relu, Tensor.relu, *_IN_PLACE)
_LIMITS: dict[Any, float] = {**dict.fromkeys(_RELU, math.inf), F.relu6: 6.0}  # of rectifiers; ReLU6 calls F.hardtanh


def shift(rng: Noise, pixels: float) -> Tensor:
    """Matrices (B, 3, 3) that move by up to half of ``pixels`` either way, right and down."""
    matrices = torch.eye(3, device=rng.device).repeat(len(rng), 1, 1)
    matrices[:, :2, 2] = rng.uniform(2, low=-pixels / 2, high=pixels / 2)
    return matrices


def scale(rng: Noise, amount: float = SCALE) -> Tensor:
    """Matrices (B, 3, 3) that enlarge by 1 - amount to 1 + amount."""
    factor = 1 / rng.uniform(low=1 - amount, high=1 + amount)
    return torch.stack([factor, factor, torch.ones_like(factor)], 1).diag_embed()


def rotate(rng: Noise, degrees: float = DEGREES) -> Tensor:
    """Matrices (B, 3, 3) that rotate by up to ``degrees`` either way."""
    angle = rng.uniform(low=-math.radians(degrees), high=math.radians(degrees))
    matrices = torch.eye(3, device=rng.device).repeat(len(rng), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """The images (B, C, H, W) after affine maps (B, 3, 3), bilinear, mirrored at the borders; of the same size.

    Args:
        matrices: position of a pixel of the result to its position in the image, (x, y, 1) in pixels from the centre.
    """
    height, width = images.shape[2:]
    half = torch.tensor([width / 2, height / 2, 1.0], device=images.device)
    theta = (matrices * half / half[:, None])[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)


def transformed(images: Tensor, rng: Noise) -> Tensor:
    """Shifted, scaled, rotated and shifted again, a random map for each row, resampled once.

    Below a side of 56 pixels the shifts are smaller.
    """
    share = min(1.0, min(images.shape[2:]) / 56)
    first, second = (pixels * share for pixels in JITTER)
    return warp(images, shift(rng, first) @ scale(rng) @ rotate(rng) @ shift(rng, second))


class _Redirected(torch.autograd.Function):
    """A rectifier min(max(x, 0), limit) with the gradient of ``RedirectedRectifiers``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(0, limit)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), (grad,) = ctx.saved_tensors, grads
        low, high = x <= 0, x >= ctx.limit
        passed = grad.masked_fill(low | high, 0)
        back = grad.masked_fill((low & (grad > 0)) | (high & (grad < 0)), 0)  # descent would lead further away
        alive = passed.flatten(1).any(1).view(-1, *[1] * (x.ndim - 1))
        return torch.where(alive, passed, back), None


class RedirectedRectifiers(TorchFunctionMode):
    """Within the block, a rectifier that is off for all units of a row passes gradients that would switch them on.

    Only where a row gets no gradient through it otherwise; as in Lucid (github.com/tensorflow/lucid, 2018). Covers
    relu and relu6, as functions, methods and modules, in place or not.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        limit = kwargs["max_val"] if func is F.hardtanh and kwargs.get("min_val") == 0 else _LIMITS.get(func)
        if limit is None:
            return func(*args, **kwargs)
        if func in _IN_PLACE or kwargs.get("inplace"):
            return args[0].copy_(_Redirected.apply(args[0].clone(), limit))
        return _Redirected.apply(args[0], limit)
