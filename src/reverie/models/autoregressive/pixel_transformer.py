"""A causal transformer over pixels, rows or patches of an image.

Patches with a small network for the pixels inside: Yu et al., "MegaByte", NeurIPS 2023, arXiv:2305.07185. Deviations
are listed in docs/systems/pixel-transformer.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from reverie.core.annotations import Channels, Classes, Count, Range, Shape
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.core.options import either
from reverie.models.autoregressive.base import Autoregressive
from reverie.nets import shapes
from reverie.nets.pixel_transformer import PixelTransformer
from reverie.nets.transformer import heads_of
from reverie.probability.conditioning import Conditioner, Conditioning
from reverie.probability.mixtures import distribution_of


def pixel_transformer(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    pixels_per_step: Annotated[int | Literal["rows"], Range(1)] = 16,
    within: Literal["autoregressive", "independent"] = "autoregressive",
    likelihood: Literal["categorical", "mixture", "bernoulli"] = "categorical",
    components: Count = 10,
    width: Count = 128,
    depth: Count = 4,
    local_width: Count = 128,
    local_depth: Count = 2,
    reach: Count = 3,
    conditional: Literal["none", "label"] = "none",
) -> Autoregressive:
    """Token after token, each a square of pixels or a row, by a causal transformer and a small network of pixels.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        pixels_per_step: pixels of a token: 1, 4, 16 ... (squares whose side divides those of the images), or rows.
        within: "autoregressive": each pixel given all before it; "independent": pixels of a token are independent
            given the tokens before, and drawn in one step.
        likelihood: "categorical" (256 levels), "mixture" (of logistic distributions), or "bernoulli" (binary pixels;
            grey is the probability of white).
        components: of the mixture.
        width: channels of the transformer over tokens.
        depth: its blocks.
        local_width: channels of the network that is evaluated for every pixel.
        local_depth: its blocks.
        reach: pixels to each side that it sees of those that come before.
        conditional: "label": images of a class.
    """
    size, conditioner = shapes.sides(shape), Conditioner(Conditioning(conditional), classes)
    distribution = distribution_of(likelihood, channels, components)
    net = PixelTransformer(
        size,
        channels,
        distribution.outputs,
        _patch(size, pixels_per_step),
        within == "autoregressive",
        width,
        depth,
        heads_of(width),
        local_width,
        local_depth,
        reach,
        conditioner.classes,
    )
    return Autoregressive(net, Output("image", size, channels), distribution, conditioner)


def _patch(shape: tuple[int, int], pixels: int | str) -> tuple[int, int]:
    """(height, width) of a token.

    Raises:
        UsageError: not the pixels of a square that divides the image.
    """
    if isinstance(pixels, str):
        return 1, shape[1]
    side = math.isqrt(pixels)
    if side * side == pixels and shapes.divides(side, shape):
        return side, side
    fits = [str(side**2) for side in range(1, min(shape) + 1) if shapes.divides(side, shape)]
    raise UsageError(
        f"{argument('pixels_per_step', pixels)} are not the pixels of a square whose side divides "
        f"{shapes.named(shape)}. Here it can be {either([*fits, 'rows'])}."
    )
