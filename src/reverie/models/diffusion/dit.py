"""The diffusion transformer: flow matching with a transformer in place of the U-Net.

Peebles and Xie, "Scalable diffusion models with transformers", ICCV 2023, arXiv:2212.09748; trained as in Ma et al.,
"SiT", ECCV 2024, arXiv:2401.08740. Deviations are listed in docs/systems/dit.md.
"""

from __future__ import annotations

from reverie.core.annotations import Channels, Classes, Count, Shape, Weight
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.diffusion.schedules import RectifiedFlow
from reverie.models.diffusion.base import Diffusion
from reverie.nets import shapes
from reverie.nets.dit import DiffusionTransformer
from reverie.probability.conditioning import Conditioner, Conditioning

_HEAD = 64  # channels of a head of attention, at least, where the width has so many


def transformer(
    shape: shapes.Shape, channels: int, patch_size: int, width: int, depth: int, **kwargs: int
) -> DiffusionTransformer:
    """The transformer for images of a shape, with heads of 64 channels or a little more.

    Raises:
        UsageError: a patch that does not divide the sides, a width that 4 does not divide.
    """
    if not shapes.divides(patch_size, shape):
        fits = ", ".join(str(side) for side in range(1, min(shape) + 1) if shapes.divides(side, shape))
        raise UsageError(
            f"{argument('patch_size', patch_size)} does not divide {shapes.named(shape)}. Here it can be {fits}."
        )
    if width % 4:
        raise UsageError(
            f"The transformer needs a width that 4 divides, not {width}. Try {argument('width', 4 * -(-width // 4))}."
        )
    heads = next(count for count in range(max(1, width // _HEAD), 0, -1) if width % count == 0)
    return DiffusionTransformer(channels, patch_size, width, depth, heads, **kwargs)


def dit(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    logit_mean: float = 0.0,
    logit_std: Weight = 1.0,
    patch_size: Count = 4,
    width: Count = 192,
    depth: Count = 6,
    conditioning: Conditioning = Conditioning(),
) -> Diffusion:
    """Straight lines from images to noise, and a transformer of patches that predicts their velocity.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        logit_mean: mean of the logit of t in training; t = 1 is noise.
        logit_std: its standard deviation; 0 draws t evenly.
        patch_size: side in pixels of the squares that are one token; half of it takes four times as long, or more.
        width: channels of a token, a multiple of 4.
        depth: blocks.
    """
    size, conditioner = shapes.sides(shape), Conditioner(conditioning, classes)
    net = transformer(size, channels, patch_size, width, depth, **conditioner.net_kwargs)
    schedule, output = RectifiedFlow(logit_mean, logit_std), Output("image", size, channels)
    return Diffusion(net, schedule, "velocity", "velocity", output, conditioner)
