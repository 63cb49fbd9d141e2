"""The networks of StyleGAN2 in plain torch, designed for speed.

Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020, arXiv:1912.04958; mapping network,
noise inputs and mixing from Karras et al., CVPR 2019, arXiv:1812.04948; equalised learning rates, pixel norm and
minibatch standard deviation from Karras et al., ICLR 2018, arXiv:1710.10196.

Styles scale a convolution's inputs and demodulation its outputs: exactly the paper's kernel per image, with a shared
convolution. The smoothing filter of up- and downsampling is a depthwise convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[..., Tensor]  # a shape to N(0, 1) of that shape for each row of the batch

_GAIN = math.sqrt(2)  # of a leaky rectifier


def leaky_relu(x: Tensor) -> Tensor:
    """A leaky rectifier that keeps the variance of its input."""
    return F.leaky_relu(x, 0.2) * _GAIN


def pixel_norm(x: Tensor) -> Tensor:
    """Each row or pixel divided by its root mean square over channels."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def smoothing(x: Tensor) -> Tensor:
    """The outer product of the filter [1, 3, 3, 1] with itself, (4, 4), normalised to sum 1, in x's dtype."""
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return line[:, None] * line


def blur(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Smoothed maps (B, C, H, W) with zero padding: a side becomes side + 2 pad - 3."""
    kernel = (smoothing(x) * gain).expand(x.shape[1], 1, 4, 4).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, padding=pad, groups=x.shape[1])


def upsample2d(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, 2 H, 2 W): zeros inserted and smoothed, which is bilinear interpolation, zero padded."""
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]


class EqualizedLinear(nn.Module):
    """A linear layer with an equalised learning rate: weights of variance 1, scaled at run time.

    Args:
        rate: factor on the learning rate.
        start: initial bias.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, start: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualizedConv2d(nn.Module):
    """A convolution with an equalised learning rate; ``down`` smooths and halves the side."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, down: bool = False, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.down = 1 / math.sqrt(inputs * kernel**2), down

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=self.weight.shape[2] // 2)
        return F.conv2d(blur(x, (self.weight.shape[2] + 1) // 2), weight, self.bias, stride=2)


def upsample_conv(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution (O, I, 3, 3) that doubles the side: transposed with stride 2, then smoothed."""
    return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by each image's style.

    Args:
        style: width of the style vector.
        up: double the side.
        demodulate: rescale the outputs to their variance without the style.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, kernel: int = 3, up: bool = False, demodulate: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.style = EqualizedLinear(style, inputs, start=1.0)
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and styles (B, style) to (B, outputs, H or 2 H, W or 2 W)."""
        scale, weight = self.style(w), self.weight * self.scale
        x = x * scale[:, :, None, None].to(x.dtype)
        if self.up:
            x = upsample_conv(x, weight)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        if self.demodulate:
            power = weight.float().square().sum((2, 3))  # (outputs, inputs)
            x = x * (scale.float().square() @ power.T + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
        return x


class MappingNetwork(nn.Module):
    """z (B, latent) and a class to w (B, width)."""

    def __init__(self, latent: int, width: int, depth: int, classes: int = 0, rate: float = 0.01):
        super().__init__()
        self.label_embedding = nn.Embedding(classes, latent) if classes else None
        inputs = [latent * (2 if classes else 1)] + [width] * (depth - 1)
        self.layers = nn.ModuleList(EqualizedLinear(i, width, rate) for i in inputs)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        z = pixel_norm(z)
        if self.label_embedding is not None:
            z = torch.cat([z, pixel_norm(self.label_embedding(label)).to(z.dtype)], 1)
        for layer in self.layers:
            z = leaky_relu(layer(z))
        return z


class StyledConv(nn.Module):
    """A modulated convolution, noise of learned strength, a bias, a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, style, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Draw | None) -> Tensor:
        x = self.conv(x, w)
        bias = self.bias[:, None, None].to(x.dtype)
        if noise is not None:
            bias = bias + (self.noise_strength * noise(1, *x.shape[2:])).to(x.dtype)
        return leaky_relu(x + bias)


def widths_of(size: int, width: int, patch_size: int, least: int = 4) -> list[int]:
    """Channels of each level, coarse (side 4) to fine: ``width`` at the finest, at most 4 times it.

    Raises:
        ValueError: a size that is not a power of two, or too small.
    """
    levels = math.log2(size / patch_size / least)
    if levels != int(levels) or levels < 0:
        raise ValueError(f"{size} is not {least} times a power of two with patches of {patch_size}.")
    return [width * min(4, 2**level) for level in reversed(range(int(levels) + 1))]


class Synthesis(nn.Module):
    """Styles (B, layers, width) to images (B, channels, size, size): the skip generator.

    Args:
        patch_size: the finest maps have side size / patch_size; each pixel is a patch of the image.
    """

    def __init__(self, size: int, channels: int, style: int, width: int, patch_size: int = 1):
        super().__init__()
        widths = widths_of(size, width, patch_size)
        self.layers = 2 * len(widths)  # styles: one per convolution, and one for the last ``to_image``
        self.const = nn.Parameter(torch.randn(widths[0], 4, 4))
        outputs = channels * patch_size**2
        self.convs, self.to_image = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            if level:
                self.convs.append(StyledConv(widths[level - 1], wide, style, up=True))
            self.convs.append(StyledConv(wide, wide, style))
            self.to_image.append(ModulatedConv2d(wide, outputs, style, kernel=1, demodulate=False))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.shuffle = nn.PixelShuffle(patch_size)

    def forward(self, w: Tensor, noise: Draw | None = None) -> Tensor:
        """Without noise, the noise inputs are zero."""
        x = self.const.expand(len(w), -1, -1, -1).to(w.dtype).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        layer = 0
        for level, to_image in enumerate(self.to_image):
            for _ in range(2 if level else 1):
                x = self.convs[layer](x, w[:, layer], noise)
                layer += 1
            rgb = to_image(x, w[:, layer])
            image = rgb if image is None else rgb + upsample2d(image)
        assert image is not None
        return self.shuffle(image + self.bias[:, None, None].to(image.dtype))


class AdaINConv(nn.Module):
    """A convolution, noise, a leaky rectifier, and adaptive instance normalisation (AdaIN) by the style."""

    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.scale, self.up = 1 / math.sqrt(inputs * 9), up
        self.noise_strength = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualizedLinear(style, 2 * outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Draw | None) -> Tensor:
        weight = self.weight * self.scale
        x = upsample_conv(x, weight) if self.up else F.conv2d(x, weight, padding=1)
        bias = self.bias[:, None, None]
        if noise is not None:
            bias = bias + self.noise_strength * noise(1, *x.shape[2:])
        x = leaky_relu(x + bias.to(x.dtype))
        variance, mean = torch.var_mean(x.float(), (2, 3), correction=0)
        scale, shift = self.style(w).float().chunk(2, 1)
        scale = (1 + scale) * (variance + 1e-6).rsqrt()
        shift = shift - mean * scale
        return torch.addcmul(shift[:, :, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))


class AdaINSynthesis(nn.Module):
    """Styles (B, layers, width) to images (B, channels, size, size): the generator of the first StyleGAN."""

    def __init__(self, size: int, channels: int, style: int, width: int, patch_size: int = 1):
        super().__init__()
        widths = widths_of(size, width, patch_size)
        self.layers = 2 * len(widths)
        self.const = nn.Parameter(torch.ones(widths[0], 4, 4))
        inputs = [widths[0], *widths]
        convs = [
            (AdaINConv(inputs[i], wide, style, up=i > 0), AdaINConv(wide, wide, style)) for i, wide in enumerate(widths)
        ]
        self.convs = nn.ModuleList(conv for pair in convs for conv in pair)
        self.to_image = EqualizedConv2d(widths[-1], channels * patch_size**2, 1)
        self.shuffle = nn.PixelShuffle(patch_size)

    def forward(self, w: Tensor, noise: Draw | None = None) -> Tensor:
        """Without noise, the noise inputs are zero."""
        x = self.const.expand(len(w), -1, -1, -1).to(w.dtype).contiguous(memory_format=torch.channels_last)
        for layer, conv in enumerate(self.convs):
            x = conv(x, w[:, layer], noise)
        return self.shuffle(self.to_image(x))


class ResidualDownsample(nn.Module):
    """Two convolutions, the second halving the side, and a 1x1 shortcut that halves it, too."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1, self.conv2 = EqualizedConv2d(inputs, inputs), EqualizedConv2d(inputs, outputs, down=True)
        self.shortcut = EqualizedConv2d(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (leaky_relu(self.conv2(leaky_relu(self.conv1(x)))) + self.shortcut(x)) / math.sqrt(2)


class MinibatchStdDev(nn.Module):
    """Append a channel: the standard deviation over groups of 4 images (or fewer, if 4 does not divide the batch)."""

    def forward(self, x: Tensor, sets: int = 1) -> Tensor:
        """``sets``: number of equal sets, such as real images and fakes, in the rows; no group spans two sets."""
        group = math.gcd(len(x) // sets, 4)
        groups = x.float().unflatten(0, (-1, group))
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
        std = (variance + 1e-8).sqrt().mean((1, 2, 3))
        plane = std.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return torch.cat([x, plane.to(x.dtype)], 1)


class ResidualFeatures(nn.Module):
    """(B, channels, size, size) to features (B, outputs): the residual discriminator without its head."""

    def __init__(self, size: int, channels: int, width: int, patch_size: int = 1, grouped: bool = True):
        super().__init__()
        widths = widths_of(size, width, patch_size)[::-1]
        self.unshuffle = nn.PixelUnshuffle(patch_size)
        self.stem = EqualizedConv2d(channels * patch_size**2, widths[0], 1 if patch_size == 1 else 3)
        self.blocks = nn.Sequential(*(ResidualDownsample(i, o) for i, o in pairwise(widths)))
        self.stddev = MinibatchStdDev() if grouped else None
        self.last_conv = EqualizedConv2d(widths[-1] + grouped, widths[-1])
        self.outputs = widths[-1]
        self.fc = EqualizedLinear(16 * widths[-1], widths[-1])

    def forward(self, image: Tensor, sets: int = 1) -> Tensor:
        x = self.blocks(leaky_relu(self.stem(self.unshuffle(image))))
        x = leaky_relu(self.last_conv(x if self.stddev is None else self.stddev(x, sets)))
        return leaky_relu(self.fc(x.permute(0, 2, 3, 1).flatten(1)))  # in channels_last order: no copy
