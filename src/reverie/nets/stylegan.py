"""The networks of StyleGAN2 in plain torch, shaped for speed.

Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020, arXiv:1912.04958; mapping network,
noise inputs and mixing from Karras et al., CVPR 2019, arXiv:1812.04948; equalised rates, pixel norm and minibatch
standard deviation from Karras et al., ICLR 2018, arXiv:1710.10196.

Styles scale a convolution's inputs and demodulation its outputs, which is the paper's kernel of each picture exactly,
with one shared convolution. The filter that smooths up- and downsampling runs over whole maps, one channel at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[..., Tensor]  # of a shape, a normal number for each place and row of the batch

_GAIN = math.sqrt(2)  # of a leaky rectifier


def leaky(x: Tensor) -> Tensor:
    """A leaky rectifier that keeps the variance of its input."""
    return F.leaky_relu(x, 0.2) * _GAIN


def normalised(x: Tensor) -> Tensor:
    """Each row or pixel divided by its root mean square over channels."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def smoothing(x: Tensor) -> Tensor:
    """The filter [1, 3, 3, 1] by itself, (4, 4), of sum 1, in x's format."""
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return line[:, None] * line


def smoothed(x: Tensor, pad: int, gain: float = 1.0) -> Tensor:
    """Maps (B, C, H, W) with a border of zeros, smoothed: a side becomes side + 2 pad - 3."""
    kernel = (smoothing(x) * gain).expand(x.shape[1], 1, 4, 4).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, padding=pad, groups=x.shape[1])


def doubled(x: Tensor) -> Tensor:
    """Zeros between the pixels, smoothed: (B, C, H, W) to (B, C, 2 H, 2 W). Linear interpolation, from zeros."""
    return F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]


class Linear(nn.Module):
    """A linear layer with an equalised learning rate: weights of variance 1, scaled when they are used.

    Args:
        rate: share of the learning rate that it learns with.
        start: the bias at the start.
    """

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, start: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), start / rate))
        self.scale, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class Conv(nn.Module):
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
        return F.conv2d(smoothed(x, (self.weight.shape[2] + 1) // 2), weight, self.bias, stride=2)


def upward(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution (O, I, 3, 3) of twice the side: transposed with stride 2, then smoothed."""
    return smoothed(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)


class Modulated(nn.Module):
    """A convolution whose kernel each picture's style scales, input channel by input channel.

    Args:
        style: width of the style vector.
        up: double the side.
        demodulate: bring the outputs back to the variance that they would have without the style.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, kernel: int = 3, up: bool = False, demodulate: bool = True
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.style = Linear(style, inputs, start=1.0)
        self.up, self.demodulate = up, demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and styles (B, style) to (B, outputs, H or 2 H, W or 2 W)."""
        scale, weight = self.style(w), self.weight * self.scale
        x = x * scale[:, :, None, None].to(x.dtype)
        if self.up:
            x = upward(x, weight)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[2] // 2)
        if self.demodulate:
            power = weight.float().square().sum((2, 3))  # (outputs, inputs)
            x = x * (scale.float().square() @ power.T + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
        return x


class Mapping(nn.Module):
    """z (B, latent) and a class to w (B, width)."""

    def __init__(self, latent: int, width: int, depth: int, classes: int = 0, rate: float = 0.01):
        super().__init__()
        self.label = nn.Embedding(classes, latent) if classes else None
        inputs = [latent * (2 if classes else 1)] + [width] * (depth - 1)
        self.layers = nn.ModuleList(Linear(i, width, rate) for i in inputs)

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        z = normalised(z)
        if self.label is not None:
            z = torch.cat([z, normalised(self.label(label)).to(z.dtype)], 1)
        for layer in self.layers:
            z = leaky(layer(z))
        return z


class Styled(nn.Module):
    """A modulated convolution, noise of a learned strength, a bias, a leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False):
        super().__init__()
        self.conv = Modulated(inputs, outputs, style, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Draw | None) -> Tensor:
        x = self.conv(x, w)
        bias = self.bias[:, None, None].to(x.dtype)
        if noise is not None:
            bias = bias + (self.strength * noise(1, *x.shape[2:])).to(x.dtype)
        return leaky(x + bias)


def widths_of(size: int, width: int, fold: int, least: int = 4) -> list[int]:
    """Channels of each level, coarse (side 4) to fine (side size / fold): ``width`` at the finest, at most 4 times it.

    Raises:
        ValueError: a size that is not a power of two, or too small.
    """
    levels = math.log2(size / fold / least)
    if levels != int(levels) or levels < 0:
        raise ValueError(f"{size} is not {least} times a power of two after a fold of {fold}.")
    return [width * min(4, 2**level) for level in reversed(range(int(levels) + 1))]


class Synthesis(nn.Module):
    """Styles (B, layers, width) to pictures (B, channels, size, size): the skip generator.

    Args:
        fold: the finest maps have size / fold pixels a side, and each of their places makes fold x fold pixels.
    """

    def __init__(self, size: int, channels: int, style: int, width: int, fold: int = 1):
        super().__init__()
        widths = widths_of(size, width, fold)
        self.layers = 2 * len(widths)  # styles: one a convolution, and one for the last pixels
        self.start = nn.Parameter(torch.randn(widths[0], 4, 4))
        outputs = channels * fold**2
        self.convs, self.pixels = nn.ModuleList(), nn.ModuleList()
        for level, wide in enumerate(widths):
            if level:
                self.convs.append(Styled(widths[level - 1], wide, style, up=True))
            self.convs.append(Styled(wide, wide, style))
            self.pixels.append(Modulated(wide, outputs, style, kernel=1, demodulate=False))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.shuffle = nn.PixelShuffle(fold)

    def forward(self, w: Tensor, noise: Draw | None = None) -> Tensor:
        """No noise leaves the noise inputs at zero."""
        x = self.start.expand(len(w), -1, -1, -1).to(w.dtype).contiguous(memory_format=torch.channels_last)
        picture: Tensor | None = None
        place = 0
        for level, pixels in enumerate(self.pixels):
            for _ in range(2 if level else 1):
                x = self.convs[place](x, w[:, place], noise)
                place += 1
            made = pixels(x, w[:, place])
            picture = made if picture is None else made + doubled(picture)
        assert picture is not None
        return self.shuffle(picture + self.bias[:, None, None].to(picture.dtype))


class Adaptive(nn.Module):
    """A convolution, noise, a leaky rectifier, and each channel's mean and deviation set by the style (AdaIN)."""

    def __init__(self, inputs: int, outputs: int, style: int, up: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.scale, self.up = 1 / math.sqrt(inputs * 9), up
        self.strength = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Linear(style, 2 * outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Draw | None) -> Tensor:
        weight = self.weight * self.scale
        x = upward(x, weight) if self.up else F.conv2d(x, weight, padding=1)
        bias = self.bias[:, None, None]
        if noise is not None:
            bias = bias + self.strength * noise(1, *x.shape[2:])
        x = leaky(x + bias.to(x.dtype))
        deviation, mean = torch.var_mean(x.float(), (2, 3), correction=0)
        scale, shift = self.style(w).float().chunk(2, 1)
        scale = (1 + scale) * (deviation + 1e-6).rsqrt()
        shift = shift - mean * scale
        return torch.addcmul(shift[:, :, None, None].to(x.dtype), x, scale[:, :, None, None].to(x.dtype))


class AdaptiveSynthesis(nn.Module):
    """Styles (B, layers, width) to pictures (B, channels, size, size): the generator of the first StyleGAN."""

    def __init__(self, size: int, channels: int, style: int, width: int, fold: int = 1):
        super().__init__()
        widths = widths_of(size, width, fold)
        self.layers = 2 * len(widths)
        self.start = nn.Parameter(torch.ones(widths[0], 4, 4))
        inputs = [widths[0], *widths]
        convs = [
            (Adaptive(inputs[i], wide, style, up=i > 0), Adaptive(wide, wide, style)) for i, wide in enumerate(widths)
        ]
        self.convs = nn.ModuleList(conv for pair in convs for conv in pair)
        self.pixels = Conv(widths[-1], channels * fold**2, 1)
        self.shuffle = nn.PixelShuffle(fold)

    def forward(self, w: Tensor, noise: Draw | None = None) -> Tensor:
        """No noise leaves the noise inputs at zero."""
        x = self.start.expand(len(w), -1, -1, -1).to(w.dtype).contiguous(memory_format=torch.channels_last)
        for place, conv in enumerate(self.convs):
            x = conv(x, w[:, place], noise)
        return self.shuffle(self.pixels(x))


class ResidualDown(nn.Module):
    """Two convolutions, the second halving the side, beside a 1x1 that does."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = Conv(inputs, inputs), Conv(inputs, outputs, down=True)
        self.join = Conv(inputs, outputs, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (leaky(self.second(leaky(self.first(x)))) + self.join(x)) / math.sqrt(2)


class GroupDeviation(nn.Module):
    """Adds a plane: how much an image and its neighbours in the batch (4 in all, or as many as divide it) differ."""

    def forward(self, x: Tensor, sets: int = 1) -> Tensor:
        """``sets``: of how many equal sets, such as real images and fakes, the rows consist; no group spans two."""
        group = math.gcd(len(x) // sets, 4)
        groups = x.float().unflatten(0, (-1, group))
        variance = (groups - groups.mean(1, keepdim=True)).square().mean(1)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))
        plane = deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return torch.cat([x, plane.to(x.dtype)], 1)


class Features(nn.Module):
    """(B, channels, size, size) to features (B, outputs): the residual discriminator without its last layer."""

    def __init__(self, size: int, channels: int, width: int, fold: int = 1, grouped: bool = True):
        super().__init__()
        widths = widths_of(size, width, fold)[::-1]
        self.unshuffle = nn.PixelUnshuffle(fold)
        self.into = Conv(channels * fold**2, widths[0], 1 if fold == 1 else 3)
        self.blocks = nn.Sequential(*(ResidualDown(i, o) for i, o in pairwise(widths)))
        self.group = GroupDeviation() if grouped else None
        self.last = Conv(widths[-1] + grouped, widths[-1])
        self.outputs = widths[-1]
        self.out = Linear(16 * widths[-1], widths[-1])

    def forward(self, image: Tensor, sets: int = 1) -> Tensor:
        x = self.blocks(leaky(self.into(self.unshuffle(image))))
        x = leaky(self.last(x if self.group is None else self.group(x, sets)))
        return leaky(self.out(x.permute(0, 2, 3, 1).flatten(1)))  # in channels_last order: no copy
