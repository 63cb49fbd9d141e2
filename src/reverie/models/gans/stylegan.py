"""StyleGAN and StyleGAN2: z becomes a style w, and w scales the channels of every convolution.

StyleGAN: Karras et al., "A style-based generator architecture for generative adversarial networks", CVPR 2019,
arXiv:1812.04948. StyleGAN2: Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR 2020,
arXiv:1912.04958. Deviations are listed in docs/systems/stylegan.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from reverie.core.annotations import Channels, Classes, Count, Fraction, Shape, Weight
from reverie.core.card import Output
from reverie.models.gans.base import GAN, Adversarial, PathLength
from reverie.models.gans.generators import StyleGenerator
from reverie.nets.discriminators import Discriminator
from reverie.nets.shapes import power_of_two, sides
from reverie.nets.stylegan import AdaINSynthesis, MappingNetwork, ResidualFeatures, Synthesis
from reverie.probability.conditioning import label_classes


@dataclass(frozen=True)
class Styles:
    """The generator of a style-based GAN.

    Attributes:
        latent: numbers in z, and in w.
        mapping_layers: layers of the mapping network.
        width: channels of the finest level; coarser ones have up to four times as many.
        patch_size: the finest maps have size / patch_size pixels a side, each a patch of the image; 1 is the paper's.
        conditional: "none" or "label".
        style_mixing: fraction of training images that change from one w to another at a layer in between.
        path_length_weight: of the path length penalty: steps of one size in w should change images by one size.
        path_length_every: steps between its updates, which then count as many times.
    """

    latent: Count = 128
    mapping_layers: Count = 4
    width: Count = 64
    patch_size: Literal[1, 2, 4] = 2
    conditional: Literal["none", "label"] = "none"
    style_mixing: Fraction = 0.9
    path_length_weight: Weight = 2.0
    path_length_every: Count = 4


def stylegan2(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    styles: Styles = Styles(),
    adversarial: Adversarial = Adversarial(r1=0.1, penalty_every=16),
) -> GAN:
    """Modulated convolutions with demodulation, a skip generator, a residual discriminator.

    Three latent spaces: z, N(0, I); w, the output of the mapping network; w+, a w of its own for every layer.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    return _style_gan(Synthesis, shape, channels, classes, styles, adversarial)


def stylegan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    styles: Styles = Styles(path_length_weight=0.0),
    adversarial: Adversarial = Adversarial(r1=0.1, penalty_every=16),
) -> GAN:
    """The first one: styles set each channel's mean and deviation (AdaIN); no skips in G, no path length penalty.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares: a power of two.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    return _style_gan(AdaINSynthesis, shape, channels, classes, styles, adversarial)


def _style_gan(
    network: Callable[[int, int, int, int, int], nn.Module],
    shape: int | tuple[int, ...],
    channels: int,
    classes: int,
    styles: Styles,
    adversarial: Adversarial,
) -> GAN:
    patch_size = styles.patch_size
    size, packing = power_of_two(sides(shape), 4 * patch_size), adversarial.packing
    classes = label_classes(styles.conditional, classes)
    synthesis = network(size, channels, styles.latent, styles.width, patch_size)
    mapping = MappingNetwork(styles.latent, styles.latent, styles.mapping_layers, classes)
    generator = StyleGenerator(mapping, synthesis, styles.latent, classes, styles.style_mixing)
    features = ResidualFeatures(size, channels * packing, styles.width, patch_size)
    discriminator = Discriminator(features, features.outputs, classes, packing=packing, grouped=True)
    path = PathLength(styles.path_length_weight, styles.path_length_every)
    return GAN(generator, discriminator, Output("image", (size, size), channels), classes, adversarial, path=path)
