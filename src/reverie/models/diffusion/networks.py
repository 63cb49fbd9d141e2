"""The fast U-Net of the diffusion models, sized by the images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from reverie.core.annotations import Count, Range
from reverie.core.card import Output
from reverie.diffusion.schedules import Schedule
from reverie.models.diffusion.base import Diffusion
from reverie.nets.shapes import Shape, check_sides, divides, halved, sides
from reverie.nets.unet import UNet
from reverie.probability.conditioning import Conditioner, Conditioning


@dataclass(frozen=True)
class Network:
    """The fast U-Net.

    Attributes:
        width: channels of the U-Net's finest level.
        depth: residual blocks a level, down and up.
    """

    width: Count = 64
    depth: Annotated[int, Range(0)] = 1


def unet(shape: Shape, channels: int, width: int, depth: int, **kwargs: int) -> UNet:
    """The fast U-Net for images of a shape: maps of at most 32 down to at most 8 a side.

    Raises:
        UsageError: a side that 4 does not divide.
    """
    check_sides(shape, "The U-Net", 4, 8, 1024)
    patch_size = 2
    while max(shape) // patch_size > 32 and divides(4 * patch_size, shape):
        patch_size *= 2
    widths = level_widths(halved(shape, patch_size), width)
    return UNet(channels, tuple(widths), depth, attention=len(widths) - 1, patch_size=patch_size, **kwargs)


def level_widths(shape: Shape, width: int) -> list[int]:
    """Channels of a U-Net's levels, fine to coarse, from maps of a shape down to sides of at most 8."""
    widths = [width]
    while divides(2, shape) and min(shape) > 8:
        shape = halved(shape)
        widths.append(min(2 * widths[-1], 4 * width))
    return widths


def diffusion_of_images(
    schedule: Schedule,
    prediction: str,
    weighting: str,
    shape: int | tuple[int, ...],
    channels: int,
    classes: int,
    network: Network,
    conditioning: Conditioning,
) -> Diffusion:
    """Diffusion of images by the fast U-Net."""
    size, conditioner = sides(shape), Conditioner(conditioning, classes)
    net = unet(size, channels, network.width, network.depth, **conditioner.net_kwargs)
    return Diffusion(net, schedule, prediction, weighting, Output("image", size, channels), conditioner)
