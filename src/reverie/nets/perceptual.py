"""Losses on activations: Gram matrices, content, total variation.

Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks", CVPR 2016, arXiv:1508.06576.
"""

from __future__ import annotations

from torch import Tensor


def gram(features: Tensor) -> Tensor:
    """(B, C, H, W) to Gram matrices (B, C, C): products of channels, means over positions, in fp32."""
    x = features.flatten(2)  # (B, C, N)
    return (x @ x.mT).float() / x.shape[2]


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, right and below: (B, C, H, W) to (B,)."""
    right = images[..., :, 1:] - images[..., :, :-1]
    below = images[..., 1:, :] - images[..., :-1, :]
    return right.square().mean((1, 2, 3)) + below.square().mean((1, 2, 3))


def mean_std(features: Tensor, eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over positions: (B, C, H, W) to (B, C, 1, 1) each, in fp32."""
    x = features.float()
    return x.mean((2, 3), keepdim=True), (x.var((2, 3), correction=0, keepdim=True) + eps).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Content features with the channel means and deviations of the style's (Huang and Belongie, arXiv:1703.06868)."""
    mean, std = mean_std(content)
    style_mean, style_std = mean_std(style)
    return ((content.float() - mean) / std * style_std + style_mean).to(content.dtype)
