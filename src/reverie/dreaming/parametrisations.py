"""Images in other coordinates for gradients: Fourier coefficients of decorrelated colours, or their phases alone.

A step of gradient descent in pixels favours high frequencies and garish colours. In coordinates in which natural images
are white it does not: Olah, Mordvintsev and Schubert, "Feature visualization", Distill 2017. With the amplitudes of
natural images fixed, only phases are left to train: Fel et al., "Unlocking feature visualization for deeper networks
with magnitude constrained optimization" (MACO), NeurIPS 2023, arXiv:2306.06805.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# of 542 crops of the data "photos": scripts/natural_statistics.py
_COLOURS = (
    (0.348, 0.141, -0.037),
    (0.368, 0.014, 0.066),
    (0.387, -0.141, -0.030),
)  # luma, red-blue, green-magenta
_DECAY = (1.21, 1.50, 1.38)
_LARGEST = 0.99  # of a pixel that ``set`` takes: beyond, tanh has hardly any gradient


@dataclass(frozen=True)
class Statistics:
    """Second-order statistics of images (C, H, W) in [-1, 1].

    Attributes:
        colours: (C, C), uncorrelated components of variance 1 to pixels.
        amplitudes: (C, H, W // 2 + 1) of the components' Fourier coefficients, 0 at frequency 0.
        mean: (C,) of pixels.
    """

    colours: Tensor
    amplitudes: Tensor
    mean: Tensor

    @classmethod
    def natural(cls, shape: tuple[int, int], channels: int = 3) -> Statistics:
        """Of photographs at any size: amplitudes fall as a power of the frequency."""
        colours = torch.tensor(_COLOURS)
        if channels == 1:
            colours = colours.mean(0)[:1, None]
        decay = torch.tensor(_DECAY[:channels])[:, None, None]
        f = frequencies(shape)
        amplitudes = f.clamp(min=1 / max(shape)).pow(-decay).masked_fill(f == 0, 0)
        return cls(colours, _normalised(amplitudes, shape), torch.zeros(channels))

    @classmethod
    def of(cls, images: Tensor) -> Statistics:
        """Of images (B, C, H, W)."""
        mean = images.mean((0, 2, 3))
        x = images - mean[:, None, None]
        variances, axes = torch.linalg.eigh(torch.cov(x.transpose(0, 1).flatten(1)).reshape(len(mean), -1))
        colours = (axes * variances.clamp(min=1e-8).sqrt()).flip(1)  # the largest first
        components = torch.einsum("dc,bchw->bdhw", torch.linalg.inv(colours), x)
        amplitudes = torch.fft.rfft2(components, norm="ortho").abs().mean(0)
        amplitudes[:, 0, 0] = 0
        return cls(colours, _normalised(amplitudes, images.shape[2:]), mean)


def frequencies(shape: tuple[int, int]) -> Tensor:
    """(H, W // 2 + 1): cycles per pixel of each coefficient of ``rfft2``."""
    return torch.hypot(torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1]))


def _normalised(amplitudes: Tensor, shape: Sequence[int]) -> Tensor:
    """Amplitudes of an image whose pixels have variance 1 in each component."""
    twice = 2 * torch.ones(amplitudes.shape[2])  # half of the spectrum stands for all of it
    twice[0] = 1
    if shape[1] % 2 == 0:
        twice[-1] = 1
    power = (amplitudes.square() * twice).sum((1, 2), keepdim=True) / math.prod(shape)
    return amplitudes / power.sqrt()


class _Colours(nn.Module):
    """Components (N, C, H, W) to pixels in (-1, 1), and back."""

    colours: Tensor
    inverse: Tensor
    mean: Tensor

    def __init__(self, colours: Tensor, mean: Tensor):
        super().__init__()
        self.register_buffer("colours", colours)
        self.register_buffer("inverse", torch.linalg.inv(colours))
        self.register_buffer("mean", mean.clamp(-_LARGEST, _LARGEST).atanh()[:, None, None])

    def forward(self, components: Tensor) -> Tensor:
        return (torch.einsum("dc,nchw->ndhw", self.colours, components) + self.mean).tanh()

    def back(self, image: Tensor) -> Tensor:
        x = image.clamp(-_LARGEST, _LARGEST).atanh() - self.mean
        return torch.einsum("dc,nchw->ndhw", self.inverse, x)


class Fourier(nn.Module):
    """Fourier coefficients in units of their amplitude in natural images, of components uncorrelated in these.

    Args:
        shape: (H, W) of the images.
        channels: 1 or 3.
        rows: N images.
        statistics: of the natural images; those of photographs by default.
    """

    scale: Tensor

    def __init__(self, shape: tuple[int, int], channels: int = 3, rows: int = 1, statistics: Statistics | None = None):
        super().__init__()
        self.shape = shape
        statistics = statistics or Statistics.natural(shape, channels)
        colours, scale = statistics.colours, statistics.amplitudes.clone()
        self.colours = _Colours(colours / colours.norm(dim=1).max(), torch.zeros(channels))
        scale[:, 0, 0] = scale.flatten(1).amax(1)  # the mean may move, too
        self.register_buffer("scale", scale)
        self.real = nn.Parameter(torch.zeros(rows, channels, shape[0], shape[1] // 2 + 1))
        self.imaginary = nn.Parameter(torch.zeros_like(self.real))

    def forward(self) -> Tensor:
        """The images (N, C, H, W)."""
        spectrum = torch.complex(self.real, self.imaginary) * self.scale
        return self.colours(torch.fft.irfft2(spectrum, s=self.shape, norm="ortho"))

    @torch.no_grad()
    def set(self, image: Tensor) -> None:
        """Become ``image`` (1 or N, C, H, W), kept within +-0.99."""
        spectrum = torch.fft.rfft2(self.colours.back(image), norm="ortho") / self.scale
        self.real.copy_(spectrum.real)
        self.imaginary.copy_(spectrum.imag)


class Phase(nn.Module):
    """Phases of Fourier coefficients whose amplitudes are fixed.

    Args:
        shape, channels, rows: as for ``Fourier``.
        statistics: whose amplitudes, colours and mean the images have before tanh; those of photographs by default.
    """

    amplitudes: Tensor
    shared: Tensor

    def __init__(self, shape: tuple[int, int], channels: int = 3, rows: int = 1, statistics: Statistics | None = None):
        super().__init__()
        self.shape, statistics = shape, statistics or Statistics.natural(shape, channels)
        self.colours = _Colours(statistics.colours, statistics.mean)
        self.register_buffer("amplitudes", statistics.amplitudes)
        # columns that hold both halves of their spectrum: conjugates of one another
        self.register_buffer("shared", torch.arange(shape[1] // 2 + 1) * 2 % shape[1] == 0)
        self.phase = nn.Parameter(torch.zeros(rows, *statistics.amplitudes.shape))

    def forward(self) -> Tensor:
        """The images (N, C, H, W)."""
        conjugate = -self.phase.flip(2).roll(1, 2)
        phase = torch.where(self.shared, (self.phase + conjugate) / 2, self.phase)
        spectrum = torch.polar(self.amplitudes.expand_as(phase), phase)
        return self.colours(torch.fft.irfft2(spectrum, s=self.shape, norm="ortho"))

    @torch.no_grad()
    def set(self, image: Tensor) -> None:
        """Take the phases of ``image`` (1 or N, C, H, W); its amplitudes are dropped."""
        self.phase.copy_(torch.fft.rfft2(self.colours.back(image)).angle())
