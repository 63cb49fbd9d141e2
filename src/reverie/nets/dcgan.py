"""The networks of the plain GANs, dense and convolutional, at the images' resolution.

Dense: Goodfellow et al., arXiv:1406.2661. Convolutional: Radford, Metz and Chintala, "Unsupervised representation
learning with deep convolutional generative adversarial networks", ICLR 2016, arXiv:1511.06434.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError
from reverie.nets.shapes import Shape, divides, halved, named, sized


def halvings(shape: Shape) -> list[tuple[int, int]]:
    """Shapes of the maps from the image down to sides of at most 7, each half of the one before: 28, 14, 7.

    Raises:
        UsageError: sides that cannot be halved down to at most 7; the message has the nearest that can.
    """
    shapes = [halved(shape, 1)]
    while max(shapes[-1]) > 7:
        shapes.append(halved(shapes[-1]))
    factor = 2 ** (len(shapes) - 1)
    if divides(factor, shape):
        return shapes
    near = [min(max(1, round(side / factor)), 7) * factor for side in shape]
    raise UsageError(
        f"This network halves images down to at most 7 pixels, so it needs sides divisible by {factor}, not "
        f"{named(shape)}. Try {sized(*near)}."
    )


class DenseGenerator(nn.Module):
    """(B, inputs) to (B, channels, *shape) in (-1, 1)."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int):
        super().__init__()
        self.shape = (channels, *shape)
        self.layers = nn.Sequential(
            nn.Linear(inputs, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * width, math.prod(self.shape)),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.shape)


def dense_features(shape: Shape, channels: int, width: int) -> nn.Sequential:
    """(B, channels, *shape) to features (B, width)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * math.prod(shape), 2 * width),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * width, width),
        nn.LeakyReLU(0.2),
    )


class DCGANGenerator(nn.Module):
    """(B, inputs) to (B, channels, *shape) in (-1, 1): transposed 4x4 convolutions, each doubling the sides."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int):
        super().__init__()
        shapes = halvings(shape)
        widths = [min(2**i, 8) * width for i in range(len(shapes) - 1)]  # fine to coarse
        self.start = (*shapes[-1], widths[-1])
        self.stem = nn.Linear(inputs, math.prod(self.start))
        self.norm = nn.GroupNorm(1, widths[-1])
        layers: list[nn.Module] = [nn.ReLU(True)]
        for level in reversed(range(1, len(widths))):
            layers += [
                nn.ConvTranspose2d(widths[level], widths[level - 1], 4, 2, 1),
                nn.GroupNorm(1, widths[level - 1]),
            ]
            layers += [nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh())
        _small_normal(self)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.stem(z).unflatten(1, self.start).permute(0, 3, 1, 2)  # channels_last
        return self.layers(self.norm(maps))


class FlattenChannelsLast(nn.Module):
    """Maps (B, C, H, W) to rows (B, H * W * C), in channels_last order."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def dcgan_features(shape: Shape, channels: int, width: int) -> tuple[nn.Sequential, int]:
    """(B, channels, *shape) to features (B, F), by 4x4 convolutions of stride 2; and F."""
    shapes = halvings(shape)
    layers: list[nn.Module] = []
    wide = channels
    for level in range(len(shapes) - 1):
        outputs = min(2**level, 8) * width
        layers += [nn.Conv2d(wide, outputs, 4, 2, 1)] + ([nn.GroupNorm(1, outputs)] if level else [])
        layers += [nn.LeakyReLU(0.2, True)]
        wide = outputs
    net = nn.Sequential(*layers, FlattenChannelsLast())
    _small_normal(net)
    return net, wide * math.prod(shapes[-1])


def _small_normal(net: nn.Module) -> None:
    """The paper's N(0, 0.02^2)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _ClampPixels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where((x.abs() > 1) & (x * grad < 0), 0, grad)  # descent goes against the gradient


def clamp_pixels(x: Tensor) -> Tensor:
    """Pixels clamped to [-1, 1]; outside, only gradients that would move them further out are zeroed.

    So pure black and white are easy to reach, and pixels do not get stuck there as with tanh or a plain clamp.
    """
    return _ClampPixels.apply(x)
