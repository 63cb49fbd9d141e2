"""Networks of feed-forward style transfer: a painter in one style, and a decoder of a classifier's activations.

Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016,
arXiv:1603.08155. Instance normalisation: Ulyanov et al., arXiv:1607.08022. Nearest-neighbour upsampling before
convolutions leaves no checkerboard: Odena et al., "Deconvolution and checkerboard artifacts", Distill 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MARGIN = 24  # pixels around an image, so that the zero padding of convolutions is far from its border


def padded(images: Tensor) -> Tensor:
    """(B, C, H, W) mirrored at its border by ``MARGIN`` and to multiples of 8; tiny images repeat their border."""
    height, width = images.shape[2:]
    mode = "reflect" if min(height, width) >= MARGIN + 8 else "replicate"
    return F.pad(images, (MARGIN, MARGIN + -width % 8, MARGIN, MARGIN + -height % 8), mode=mode)


def to_eights(images: Tensor) -> Tensor:
    """(B, C, H, W) whose right and lower borders are repeated to multiples of 8."""
    return F.pad(images, (0, -images.shape[3] % 8, 0, -images.shape[2] % 8), mode="replicate")


def cropped(images: Tensor, shape: Sequence[int]) -> Tensor:
    """The part of a result that belongs to the image (H, W) before ``padded``."""
    return images[..., MARGIN : MARGIN + shape[0], MARGIN : MARGIN + shape[1]]


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and deviation 1 over its positions, then a learned scale and shift."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, x.shape[1], self.weight, self.bias)


def _block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [_conv(inputs, outputs, stride, bias=False), InstanceNorm(outputs), nn.ReLU()]


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        norm = InstanceNorm(channels)
        nn.init.zeros_(norm.weight)  # the identity at the start of training
        self.layers = nn.Sequential(*_block(channels, channels), _conv(channels, channels, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class StyleNet(nn.Module):
    """Images (B, C, H, W) in [-1, 1] of any size to images of the same size, not clamped.

    Patches of 4 x 4 pixels are packed into channels; residual blocks run at an eighth and at a quarter of the
    resolution, and only the last convolution at all of it.

    Args:
        channels: of the images.
        width: channels at a quarter of the resolution; twice as many at an eighth.
        depth: residual blocks at an eighth.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 3):
        super().__init__()
        half = max(1, 3 * width // 4)
        self.stem = nn.Sequential(nn.PixelUnshuffle(4), *_block(16 * channels, width))
        self.coarse = nn.Sequential(*_block(width, 2 * width, 2), *(_Residual(2 * width) for _ in range(depth)))
        self.fine = nn.Sequential(*_block(3 * width, width), _Residual(width), _Residual(width))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), *_block(width, half), *_block(half, half))
        self.last = nn.Sequential(nn.Upsample(scale_factor=2), _conv(half, channels))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.stem(padded(images))  # (B, width, H / 4, W / 4)
        strokes = F.interpolate(self.coarse(patches), scale_factor=2.0)
        pixels = self.last(self.up(self.fine(torch.cat([patches, strokes], 1))))  # (B, C, H, W), with its margin
        return cropped(pixels, images.shape[2:])


class FeatureDecoder(nn.Sequential):
    """Activations (B, inputs, H, W) to images (B, channels, H * 2^k, W * 2^k), not clamped; no normalisation layers.

    Args:
        inputs: channels of the activations.
        channels: of the images.
        widths: channels at each resolution, coarse to fine: k + 1 of them.
    """

    def __init__(self, inputs: int, channels: int, widths: Sequence[int]):
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            if level:
                layers.append(nn.Upsample(scale_factor=2))
            layers += [_conv(inputs, width), nn.ReLU()]
            if 0 < level < len(widths) - 1:
                layers += [_conv(width, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, _conv(inputs, channels))
