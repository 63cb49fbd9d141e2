"""The diffusion transformer as a system: flow matching with a transformer in place of the U-Net.

Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, arXiv:2212.09748; trained as in Ma et al.,
"SiT", ECCV 2024, arXiv:2401.08740. Deviations are listed in docs/systems/dit.md.
"""

from __future__ import annotations

from reverie.core.errors import UsageError
from reverie.diffusion.schedules import Flow
from reverie.models.conditioning import Conditioner, Conditioning
from reverie.models.diffusion import Diffusion
from reverie.nets.dit import DiffusionTransformer
from reverie.nets.shapes import Shape, Sides, divides, named, sides

_HEAD = 64  # channels of a head of attention, at least, where the width has so many


def transformer(shape: Shape, channels: int, patch: int, width: int, depth: int, **told: int) -> DiffusionTransformer:
    """The transformer for images of a shape, with heads of 64 channels or a little more.

    Raises:
        UsageError: a patch that does not divide the sides, a width that 4 does not divide, numbers below 1.
    """
    if min(patch, width, depth) < 1:
        raise UsageError(f"patch, width and depth must be at least 1, not {patch}, {width} and {depth}.")
    if not divides(patch, shape):
        fits = ", ".join(str(side) for side in range(1, min(shape)) if divides(side, shape))
        raise UsageError(
            f"A patch of {patch} pixels does not divide {named(shape)}. For this size --patch can be {fits}."
        )
    if width % 4:
        raise UsageError(f"The transformer needs a width that 4 divides, not {width}. Try {4 * -(-width // 4)}.")
    heads = next(count for count in range(max(1, width // _HEAD), 0, -1) if width % count == 0)
    return DiffusionTransformer(channels, patch, width, depth, heads, **told)


def dit(
    shape: Sides,
    channels: int,
    classes: int = 0,
    time_mean: float = 0.0,
    time_deviation: float = 1.0,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Straight lines from images to noise, and a transformer of patches that predicts their velocity.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        time_mean: mean of the logit of t in training; t = 1 is noise.
        time_deviation: its standard deviation; 0 draws t evenly.
        patch: side in pixels of the squares that the transformer sees as one place; half of it takes four times as
            long, or more.
        width: channels of every place, a multiple of 4.
        depth: blocks.
    """
    conditioner = Conditioner(conditioning, classes)
    net = transformer(sides(shape), channels, patch, width, depth, **conditioner.arguments)
    schedule = Flow(time_mean, time_deviation)
    return Diffusion(net, schedule, "velocity", "velocity", sides(shape), channels, conditioner)
