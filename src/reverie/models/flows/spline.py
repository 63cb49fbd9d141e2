"""Spline flow: couplings by rational-quadratic splines (Durkan et al., NeurIPS 2019, arXiv:1906.04032)."""

from __future__ import annotations

from typing import Annotated

from reverie.core.annotations import Channels, Classes, Range, Shape
from reverie.models.flows.base import NormalizingFlow
from reverie.models.flows.glow import mixed
from reverie.models.flows.multiscale import Architecture, multi_scale_flow
from reverie.probability.transforms import AffineSpline


def spline_flow(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    bins: Annotated[int, Range(2, 64)] = 8,
    architecture: Architecture = Architecture(),
) -> NormalizingFlow:
    """A flow like glow whose couplings are monotone splines.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares; even.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        bins: of each spline.
    """
    return multi_scale_flow(shape, channels, classes, architecture, mixed, AffineSpline(bins))
