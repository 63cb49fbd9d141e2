"""The gated PixelCNN (van den Oord et al., NeurIPS 2016, arXiv:1606.05328) and PixelCNN++ (Salimans et al., ICLR 2017,
arXiv:1701.05517). Deviations are listed in docs/systems/autoregressive.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from torch import nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.models.autoregressive.base import Autoregressive
from reverie.nets import shapes
from reverie.nets.pixelcnn import Gated, PixelCNN, Residual
from reverie.probability.conditioning import Conditioner, Conditioning
from reverie.probability.mixtures import distribution_of


def pixelcnn(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    likelihood: Literal["categorical", "bernoulli"] = "categorical",
    width: Count = 32,
    depth: Count = 6,
    kernel: Count = 3,
    reach: Count = 4,
    conditional: Literal["none", "label"] = "none",
) -> Autoregressive:
    """Two stacks of gated convolutions, and a probability for each level of each value.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        likelihood: "categorical" (256 levels), or "bernoulli" (binary pixels; grey is the probability of white).
        width: channels of both stacks.
        depth: layers.
        kernel: side of the convolutions before their later half is cut off; odd.
        reach: rows, and columns to each side, that the first layer sees.
        conditional: "label" for a model of p(x | label).
    """
    if kernel % 2 == 0:
        raise UsageError(f"{argument('kernel', kernel)} has no middle: try {argument('kernel', kernel + 1)}.")
    half = (kernel + 1) // 2

    def block(up: bool, w: int, across: int, embedding: int, skip: bool) -> nn.Module:
        return Gated(w, (half, kernel) if up else (1, half), up, across, embedding)

    return _model(shape, channels, classes, conditional, likelihood, 0, block, (width,), depth, reach)


def pixelcnn_pp(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    likelihood: Literal["mixture", "categorical", "bernoulli"] = "mixture",
    components: Count = 10,
    widths: Annotated[tuple[int, ...], Range(1)] = (32, 64, 96),
    depth: Count = 2,
    dropout: Annotated[float, Range(0, 0.9)] = 0.0,
    reach: Count = 4,
    conditional: Literal["none", "label"] = "none",
) -> Autoregressive:
    """Two U-Nets of gated residual blocks, and a mixture of logistic distributions of each pixel.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        likelihood: "mixture" (of logistic distributions), "categorical" (256 levels), or "bernoulli" (binary pixels;
            grey is the probability of white).
        components: of the mixture.
        widths: channels at each level; every further level has half the sides.
        depth: blocks of a level on the way down, and on the way up.
        dropout: probability, drawn for each image.
        reach: rows, and columns to each side, that the first layer sees.
        conditional: "label" for a model of p(x | label).
    """
    if not widths:
        raise UsageError(f"{argument('widths')} needs at least one level's channels.")

    def block(up: bool, w: int, across: int, embedding: int, skip: bool) -> nn.Module:
        return Residual(w, (2, 3) if up else (2, 2), up, across, embedding, skip, dropout)

    return _model(shape, channels, classes, conditional, likelihood, components, block, widths, depth, reach)


def _model(
    shape: Any,
    channels: int,
    classes: int,
    conditional: Any,
    likelihood: str,
    components: int,
    block: Any,
    widths: tuple[int, ...],
    depth: int,
    reach: int,
) -> Autoregressive:
    size, conditioner = shapes.sides(shape), Conditioner(Conditioning(conditional), classes)
    distribution = distribution_of(likelihood, channels, components)

    def vertical(*options: Any) -> nn.Module:
        return block(True, *options)

    def horizontal(*options: Any) -> nn.Module:
        return block(False, *options)

    net = PixelCNN(
        size,
        channels,
        distribution.outputs,
        vertical,
        horizontal,
        widths,
        depth,
        reach,
        **conditioner.net_kwargs,
    )
    return Autoregressive(net, Output("image", size, channels), distribution, conditioner)
