"""StyleGAN and StyleGAN2: z becomes a style w, and w scales the channels of every convolution.

StyleGAN: Karras et al., "A style-based generator architecture for generative adversarial networks", CVPR 2019,
arXiv:1812.04948. StyleGAN2: Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020,
arXiv:1912.04958. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from reverie.core.errors import UsageError
from reverie.models.conditioning import label_classes
from reverie.models.gan.base import GAN, Adversarial, PathLength
from reverie.models.gan.generators import StyleGenerator
from reverie.nets.adversarial import Judge
from reverie.nets.shapes import Shape, Sides, check_square, sides
from reverie.nets.stylegan import AdaptiveSynthesis, Features, Mapping, Synthesis


@dataclass(frozen=True)
class Styles:
    """What the style-based GANs have in common.

    Attributes:
        latent: numbers in z, and in w.
        mapping: layers of the mapping network.
        width: channels of the finest level; coarser ones have up to four times as many.
        fold: the finest maps have size / fold pixels a side and make squares of fold x fold pixels; 1 is the paper's.
        conditional: "none" or "label".
        mixing: share of training images that change from one w to another at a layer in between.
        path: weight of the path length penalty: steps of one size in w shall change images by one size.
        path_every: steps between its updates, which then count as many times.
    """

    latent: int = 128
    mapping: int = 4
    width: int = 64
    fold: int = 2
    conditional: Literal["none", "label"] = "none"
    mixing: float = 0.9
    path: float = 2.0
    path_every: int = 4

    def __post_init__(self) -> None:
        if self.fold not in (1, 2, 4):
            raise UsageError(f"fold is 1, 2 or 4, not {self.fold}.")
        numbers = (self.latent, self.mapping, self.width, self.path_every)
        if not 0 <= self.mixing <= 1 or self.path < 0 or min(numbers) < 1:
            raise UsageError("0 <= mixing <= 1, path >= 0 and latent, mapping, width, path_every >= 1 are needed.")


def power_of_two(shape: Shape, least: int, most: int = 1024) -> int:
    """The side of a square that is a power of two; a UsageError with the nearest fitting size for any other shape."""
    near = min(max(least, 2 ** round(math.log2(max(*shape, 1)))), most)
    size = check_square(shape, "This network", near)
    if size & (size - 1) or not least <= size <= most:
        raise UsageError(
            f"This network doubles maps of 4x4, so it needs a power of two from {least} to {most}; {size} is not. "
            f"Try --size {near}."
        )
    return size


def stylegan2(
    shape: Sides,
    channels: int,
    classes: int = 0,
    styles: Styles = Styles(),
    adversarial: Adversarial = Adversarial(r1=0.1, penalty_every=16),
) -> GAN:
    """Modulated convolutions with demodulation, a skip generator, a residual discriminator.

    Three latent spaces: z, N(0, I); w, what the mapping network makes of it; w+, a w of its own for every layer.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1 or 3.
        classes: number of classes in the data.
    """
    return _of_styles(Synthesis, shape, channels, classes, styles, adversarial)


def stylegan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    styles: Styles = Styles(path=0.0),
    adversarial: Adversarial = Adversarial(r1=0.1, penalty_every=16),
) -> GAN:
    """The first one: styles set each channel's mean and deviation (AdaIN); no skips in G, no path length penalty.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1 or 3.
        classes: number of classes in the data.
    """
    return _of_styles(AdaptiveSynthesis, shape, channels, classes, styles, adversarial)


def _of_styles(
    network: Callable[[int, int, int, int, int], nn.Module],
    shape: Sides,
    channels: int,
    classes: int,
    styles: Styles,
    adversarial: Adversarial,
) -> GAN:
    size, packing = power_of_two(sides(shape), 4 * styles.fold), adversarial.packing
    classes = label_classes(styles.conditional, classes)
    synthesis = network(size, channels, styles.latent, styles.width, styles.fold)
    mapping = Mapping(styles.latent, styles.latent, styles.mapping, classes)
    generator = StyleGenerator(mapping, synthesis, styles.latent, classes, styles.mixing)
    features = Features(size, channels * packing, styles.width, styles.fold)
    discriminator = Judge(features, features.outputs, classes, packing=packing, grouped=True)
    path = PathLength(styles.path, styles.path_every)
    return GAN(generator, discriminator, (size, size), channels, classes, adversarial, path=path)
