"""Progressive growing: both networks learn small images first, and larger ones are faded in level by level.

Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018,
arXiv:1710.10196. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

from typing import Literal

from reverie.core.annotations import Channels, Classes, Count, Shape
from reverie.core.card import Output
from reverie.models.gans.base import GAN, Adversarial
from reverie.models.gans.generators import LABEL_WIDTH, LatentGenerator
from reverie.nets.discriminators import Discriminator
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator
from reverie.nets.shapes import power_of_two, sides
from reverie.probability.conditioning import label_classes


def progan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    latent: Count = 128,
    width: Count = 32,
    conditional: Literal["none", "label"] = "none",
    adversarial: Adversarial = Adversarial("wasserstein"),
) -> GAN:
    """Training in stages of 4, 8, 16 ... pixels a side, each with twice the time of the one before.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        latent: numbers in z, which is N(0, I).
        width: channels of the finest level; coarser ones have up to four times as many.
        conditional: "none" or "label".
    """
    size, packing = power_of_two(sides(shape), 8), adversarial.packing
    classes = label_classes(conditional, classes)
    net = GrowingGenerator(size, channels, latent + (LABEL_WIDTH if classes else 0), width)
    generator = LatentGenerator(net, latent, classes, levels=len(net.to_image))
    features = GrowingFeatures(size, channels * packing, width)
    discriminator = Discriminator(features, features.outputs, classes, packing=packing, grouped=True)
    return GAN(generator, discriminator, Output("image", (size, size), channels), classes, adversarial)
