"""Real NVP: affine couplings with fixed masks (Dinh, Sohl-Dickstein and Bengio, ICLR 2017, arXiv:1605.08803)."""

from __future__ import annotations

from torch import nn

from reverie.core.annotations import Channels, Classes, Shape
from reverie.models.flows.base import NormalizingFlow
from reverie.models.flows.multiscale import Architecture, multi_scale_flow
from reverie.probability.multiscale import Steps
from reverie.probability.transforms import ActNorm, Affine, Permutation


def realnvp(
    shape: Shape, channels: Channels, classes: Classes = 0, architecture: Architecture = Architecture()
) -> NormalizingFlow:
    """A flow of affine couplings whose masks alternate: checkerboards, then channels.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares; even.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    return multi_scale_flow(shape, channels, classes, architecture, _masked, Affine())


def _masked(index: int, channels: int) -> nn.Module:
    """ActNorm, and the channels that the mask of this coupling keeps in front."""
    before, after = (_order(number, channels) for number in (index - 1, index))
    return Steps([ActNorm(channels), Permutation([before.index(channel) for channel in after])])


def _order(index: int, channels: int) -> list[int]:
    """Channels as the mask of a coupling sorts them: halves are a checkerboard (see ``squeeze``)."""
    if index < 0:
        return list(range(channels))
    checkerboard, half = list(range(channels)), channels // 2
    order = checkerboard if index % 4 < 2 else [*checkerboard[::2], *checkerboard[1::2]]
    return order if index % 2 == 0 else [*order[half:], *order[:half]]
