"""Losses on activations: Gram matrices, content, total variation; channel statistics and AdaIN.

Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", CVPR 2016, arXiv:1508.06576.
Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", ICCV 2017,
arXiv:1703.06868.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least in fp32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Products(torch.autograd.Function):
    """x^T x of (B, N, C), at least in fp32; the gradient has the dtype of x, which takes half the time in bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        x = wide(x)
        return x.mT @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x @ (gradient + gradient.mT).to(x.dtype)


def gram(features: Tensor, weight: Tensor | None = None) -> Tensor:
    """(B, C, H, W) to Gram matrices (B, C, C): products of channels, means over positions, at least in fp32.

    Args:
        weight: of positions, (1, 1, H, W) and at least 0, for the Gram matrices of a region.
    """
    products, total = gram_sums(features, weight)
    return products / total


def gram_sums(features: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The numerator and the denominator of ``gram``: sums over positions, so those of parts add up."""
    total = wide(features.new_empty(0)).new_tensor(float(features.shape[2] * features.shape[3]))
    if weight is not None:
        features, total = features * weight.sqrt().to(features.dtype), weight.sum()
    return _Products.apply(features.permute(0, 2, 3, 1).flatten(1, 2)), total


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, right and below: (B, C, H, W) to (B,)."""
    right = images[..., :, 1:] - images[..., :, :-1]
    below = images[..., 1:, :] - images[..., :-1, :]
    return right.square().mean((1, 2, 3)) + below.square().mean((1, 2, 3))


def relative_error(x: Tensor, target: Tensor) -> Tensor:
    """|x - target|^2 / |target|^2 of each row, at least in fp32: (B, ...) and (B or 1, ...) to (B,).

    It has no unit, so losses of layers of any size, and of any network, have weights of the same order.
    """
    x, target = wide(x), wide(target)
    return (x - target).square().flatten(1).sum(1) / target.square().flatten(1).sum(1).clamp(min=1e-12)


def error_sums(x: Tensor, target: Tensor, scaled: bool) -> tuple[Tensor, Tensor]:
    """The numerator and the denominator of an error: sums over values, so those of parts add up.

    Args:
        scaled: the sum of squares of x - target over its sum of magnitudes: of any size, with a gradient of L1 norm 1
            to 2, so layers need no weights for the size of their activations (crowsonkb/style-transfer-pytorch).
            Else the mean square.
    """
    difference = wide(x) - wide(target)
    count = difference.new_tensor(float(difference.numel()))
    return difference.square().sum(), difference.abs().sum() if scaled else count


def style_loss(features: Mapping[str, Tensor], grams: Mapping[str, Tensor]) -> Tensor:
    """Relative error of the Gram matrices, the mean over the layers of ``grams`` (B or 1, C, C): (B,)."""
    return torch.stack([relative_error(gram(features[layer]), target) for layer, target in grams.items()]).mean(0)


def content_loss(features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Relative error of the activations, the mean over the layers of ``targets`` (B or 1, C, H, W): (B,)."""
    return torch.stack([relative_error(features[layer], target) for layer, target in targets.items()]).mean(0)


def positions(features: Tensor) -> Tensor:
    """Activations (B, C, H, W) or (B, C) to (B, H W or 1, C)."""
    return features.flatten(2).mT if features.ndim == 4 else features[:, None]


def best_match(x: Tensor, guide: Tensor) -> Tensor:
    """The largest scalar product of each position (B, N, C) with one of a guide (M, C): (B, N).

    Blocks of positions are compared one after the other: all of them at once would take N M numbers.
    """
    with torch.no_grad():
        best = torch.cat([(block @ guide.mT).argmax(2) for block in x.split(1024, 1)], 1)
    return (x * guide[best]).sum(2)


def mean_std(features: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over positions: (B, C, H, W) to (B, C, 1, 1) each, at least in fp32.

    Args:
        eps: smallest variance.
    """
    variance, mean = torch.var_mean(wide(features), (2, 3), correction=0, keepdim=True)
    return mean, variance.clamp(min=eps).sqrt()


def adain(content: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Content features (B, C, H, W) with other channel means and deviations (B or 1, C, 1, 1), such as a style's."""
    content_mean, content_std = mean_std(content)
    return ((content - content_mean) / content_std * std + mean).to(content.dtype)
