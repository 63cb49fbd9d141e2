"""Progressive growing: both networks learn small images first, and larger ones are faded in level by level.

Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR 2018,
arXiv:1710.10196. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

from typing import Literal

from reverie.core.errors import UsageError
from reverie.models.conditioning import label_classes
from reverie.models.gan.base import GAN, Adversarial
from reverie.models.gan.generators import LABEL_WIDTH, LatentGenerator
from reverie.models.gan.stylegan import power_of_two
from reverie.nets.adversarial import Judge
from reverie.nets.progressive import GrowingFeatures, GrowingGenerator
from reverie.nets.shapes import Sides, sides


def progan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    latent: int = 128,
    width: int = 32,
    conditional: Literal["none", "label"] = "none",
    adversarial: Adversarial = Adversarial("wasserstein"),
) -> GAN:
    """Training in stages of 4, 8, 16 ... pixels a side, each with twice the time of the one before.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1 or 3.
        classes: number of classes in the data.
        latent: numbers in z, which is N(0, I).
        width: channels of the finest level; coarser ones have up to four times as many.
        conditional: "none" or "label".
    """
    size, packing = power_of_two(sides(shape), 8), adversarial.packing
    classes = label_classes(conditional, classes)
    if latent < 1 or width < 1:
        raise UsageError(f"latent and width must be at least 1, not {latent} and {width}.")
    net = GrowingGenerator(size, channels, latent + (LABEL_WIDTH if classes else 0), width)
    generator = LatentGenerator(net, latent, classes, levels=len(net.pixels))
    features = GrowingFeatures(size, channels * packing, width)
    discriminator = Judge(features, features.outputs, classes, packing=packing, grouped=True)
    return GAN(generator, discriminator, (size, size), channels, classes, adversarial)
