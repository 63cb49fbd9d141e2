"""GANs of plain networks: z goes in, an image comes out.

GAN: Goodfellow et al., NeurIPS 2014, arXiv:1406.2661. DCGAN: Radford, Metz and Chintala, ICLR 2016, arXiv:1511.06434.
Class-conditional: Mirza and Osindero, arXiv:1411.1784. AC-GAN: Odena, Olah and Shlens, ICML 2017, arXiv:1610.09585.
R3GAN: Huang et al., NeurIPS 2024, arXiv:2501.05441. Deviations are listed in docs/systems/gan.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from reverie.core.annotations import Channels, Classes, Count, Shape, Weight
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.models.gans.base import GAN, Adversarial
from reverie.models.gans.generators import LABEL_WIDTH, LatentGenerator
from reverie.nets import dcgan as nets
from reverie.nets.convolutional import Decoder, Encoder
from reverie.nets.discriminators import Discriminator, spectral_norm
from reverie.nets.shapes import check_sides, sides
from reverie.probability.conditioning import label_classes

Body = tuple[nn.Module, int]  # images (B, channels, H, W) to features, and their number


@dataclass(frozen=True)
class Networks:
    """The networks of a plain GAN.

    Attributes:
        latent: numbers in z, which is N(0, I).
        width: of the layers; of convolutional networks the channels of the finest level.
        conditional: "none" or "label".
        d_condition: how D is conditioned on the class: "concatenation" (one more plane) or "projection".
        spectral_norm: divide D's matrices by their largest singular value.
    """

    latent: Count = 100
    width: Count = 64
    conditional: Literal["none", "label"] = "none"
    d_condition: Literal["projection", "concatenation"] = "projection"
    spectral_norm: bool = False


def gan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    networks: Networks = Networks(latent=64, width=256, d_condition="concatenation"),
    adversarial: Adversarial = Adversarial("minimax"),
) -> GAN:
    """Dense networks and the minimax loss, as GANs were first written down.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    size, width = sides(shape), networks.width
    return _composed(
        lambda inputs: nets.DenseGenerator(size, channels, inputs, width),
        lambda planes: (nets.dense_features(size, planes, width), width),
        size,
        channels,
        classes,
        networks,
        adversarial,
    )


def dcgan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    networks: Networks = Networks(),
    adversarial: Adversarial = Adversarial(),
) -> GAN:
    """The convolutional networks that made GANs work: strided down, transposed up, at the images' own resolution.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
    """
    return _convolutional(shape, channels, classes, networks, adversarial)


def acgan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    aux_weight: Weight = 1.0,
    networks: Networks = Networks(conditional="label"),
    adversarial: Adversarial = Adversarial(),
) -> GAN:
    """A DCGAN whose D classifies real images by itself, and whose G is trained to be classified correctly, too.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        aux_weight: weight of the cross-entropy of the classes.
    """
    if networks.conditional != "label":
        raise UsageError(f"An AC-GAN needs classes: leave {argument('conditional')} out, or take dcgan.")
    if adversarial.packing > 1:
        raise UsageError(f"An AC-GAN classifies single images: {argument('packing')} must be 1.")
    return _convolutional(shape, channels, classes, networks, adversarial, aux_weight)


def r3gan(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    depth: Count = 1,
    networks: Networks = Networks(latent=64),
    adversarial: Adversarial = Adversarial("r3"),
) -> GAN:
    """Residual networks without normalisation, relativistic pairs, and D's gradient held down at real images and fakes.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        depth: residual blocks a level.
    """
    size, width, features = sides(shape), networks.width, 4 * networks.width

    def body(planes: int) -> Body:
        return nn.Sequential(Encoder(size, planes, features, width, depth), nn.LeakyReLU(0.2)), features

    return _composed(
        lambda inputs: Decoder(size, channels, inputs, width, depth),
        body,
        size,
        channels,
        classes,
        networks,
        adversarial,
    )


def _convolutional(
    shape: int | tuple[int, ...],
    channels: int,
    classes: int,
    networks: Networks,
    adversarial: Adversarial,
    aux_weight: float | None = None,
) -> GAN:
    size, width = sides(shape), networks.width
    check_sides(size, "The DCGAN", 4, 8, 256)
    return _composed(
        lambda inputs: nets.DCGANGenerator(size, channels, inputs, width),
        lambda planes: nets.dcgan_features(size, planes, width),
        size,
        channels,
        classes,
        networks,
        adversarial,
        aux_weight,
    )


def _composed(
    generator: Callable[[int], nn.Module],
    body: Callable[[int], Body],
    shape: tuple[int, int],
    channels: int,
    classes: int,
    networks: Networks,
    adversarial: Adversarial,
    aux_weight: float | None = None,
) -> GAN:
    """A GAN of a generator of so many inputs, and of a body of so many planes.

    Args:
        aux_weight: D classifies by itself, with this weight of the cross-entropy; None: it is conditioned on the class.
    """
    classes, packing = label_classes(networks.conditional, classes), adversarial.packing
    plane = bool(classes) and networks.d_condition == "concatenation"
    net = generator(networks.latent + (LABEL_WIDTH if classes else 0))
    latent_generator = LatentGenerator(net, networks.latent, classes)
    features, count = body(packing * (channels + plane))
    d_classes, aux_classes = (classes, 0) if aux_weight is None else (0, classes)
    discriminator = Discriminator(features, count, d_classes, shape if plane else None, packing, aux_classes)
    if networks.spectral_norm:
        spectral_norm(discriminator)
    output, weight = Output("image", shape, channels), 1.0 if aux_weight is None else aux_weight
    return GAN(latent_generator, discriminator, output, classes, adversarial, weight)
