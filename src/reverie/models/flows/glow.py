"""Glow: affine couplings between invertible 1x1 convolutions (Kingma and Dhariwal, NeurIPS 2018, arXiv:1807.03039)."""

from __future__ import annotations

from torch import nn

from reverie.core.annotations import Channels, Classes, Shape
from reverie.models.flows.base import NormalizingFlow
from reverie.models.flows.multiscale import Architecture, multi_scale_flow
from reverie.probability.transforms import Affine, NormalisedConv1x1


def glow(
    shape: Shape, channels: Channels, classes: Classes = 0, architecture: Architecture = Architecture()
) -> NormalizingFlow:
    """A flow of affine couplings; before each a learned invertible convolution mixes the channels.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares; even.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    return multi_scale_flow(shape, channels, classes, architecture, mixed, Affine())


def mixed(index: int, channels: int) -> nn.Module:
    """ActNorm and an invertible 1x1 convolution."""
    return NormalisedConv1x1(channels)
