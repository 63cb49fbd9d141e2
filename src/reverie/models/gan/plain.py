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

from reverie.core.errors import UsageError
from reverie.models.conditioning import label_classes
from reverie.models.gan.base import GAN, Adversarial
from reverie.models.gan.generators import LABEL_WIDTH, LatentGenerator
from reverie.nets import adversarial as nets
from reverie.nets.convolutional import Decoder, Encoder
from reverie.nets.shapes import Shape, Sides, check_sides, sides

Body = tuple[nn.Module, int]  # images (B, channels, H, W) to features, and their number


@dataclass(frozen=True)
class Networks:
    """What the plain GANs have in common.

    Attributes:
        latent: numbers in z, which is N(0, I).
        width: of the layers; of convolutional networks the channels of the finest level.
        conditional: "none" or "label".
        condition: how D is told the class: "concatenation" (one more plane) or "projection".
        spectral: divide D's matrices by their largest singular value.
    """

    latent: int = 100
    width: int = 64
    conditional: Literal["none", "label"] = "none"
    condition: Literal["projection", "concatenation"] = "projection"
    spectral: bool = False

    def __post_init__(self) -> None:
        if self.condition not in ("projection", "concatenation"):
            raise UsageError(f"condition is 'projection' or 'concatenation', not {self.condition!r}.")
        if self.latent < 1 or self.width < 1:
            raise UsageError(f"latent and width must be at least 1, not {self.latent} and {self.width}.")


def gan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    networks: Networks = Networks(latent=64, width=256, condition="concatenation"),
    adversarial: Adversarial = Adversarial("minimax"),
) -> GAN:
    """Dense networks and the minimax loss, as GANs were first written down.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
    """
    size, width = sides(shape), networks.width
    return _composed(
        lambda inputs: nets.DenseGenerator(size, channels, inputs, width),
        lambda planes: (nets.dense_body(size, planes, width), width),
        size,
        channels,
        classes,
        networks,
        adversarial,
    )


def dcgan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    networks: Networks = Networks(),
    adversarial: Adversarial = Adversarial(),
) -> GAN:
    """The convolutional networks that made GANs work: strided down, transposed up, at the images' own resolution.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
    """
    return _convolutional(shape, channels, classes, networks, adversarial)


def acgan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    naming: float = 1.0,
    networks: Networks = Networks(conditional="label"),
    adversarial: Adversarial = Adversarial(),
) -> GAN:
    """A DCGAN whose D is not told the class but must name it, and whose G is rewarded for that, too.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        naming: weight of the cross-entropy of the classes.
    """
    if networks.conditional != "label":
        raise UsageError("An AC-GAN is about classes: leave --conditional out, or take dcgan.")
    return _convolutional(shape, channels, classes, networks, adversarial, naming)


def r3gan(
    shape: Sides,
    channels: int,
    classes: int = 0,
    depth: int = 1,
    networks: Networks = Networks(latent=64),
    adversarial: Adversarial = Adversarial("r3"),
) -> GAN:
    """Residual networks without normalisation, relativistic pairs, and D's gradient held down at real images and fakes.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        depth: residual blocks a level.
    """
    if depth < 1:
        raise UsageError(f"depth must be at least 1, not {depth}.")
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
    shape: Sides,
    channels: int,
    classes: int,
    networks: Networks,
    adversarial: Adversarial,
    aux_weight: float | None = None,
) -> GAN:
    size, width = sides(shape), networks.width
    check_sides(size, "The DCGAN", 4, 8, 256)
    return _composed(
        lambda inputs: nets.Transposed(size, channels, inputs, width),
        lambda planes: nets.strided_body(size, planes, width),
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
    shape: Shape,
    channels: int,
    classes: int,
    networks: Networks,
    adversarial: Adversarial,
    aux_weight: float | None = None,
) -> GAN:
    """A GAN of a generator of so many inputs, and of a body of so many planes.

    Args:
        aux_weight: D names the classes by itself, with this weight of their cross-entropy; None: it is told them.
    """
    classes, packing = label_classes(networks.conditional, classes), adversarial.packing
    plane = bool(classes) and networks.condition == "concatenation"
    net = generator(networks.latent + (LABEL_WIDTH if classes else 0))
    made = LatentGenerator(net, networks.latent, classes)
    features, count = body(packing * (channels + plane))
    told, named = (classes, 0) if aux_weight is None else (0, classes)
    discriminator = nets.Judge(features, count, told, shape if plane else None, packing, named)
    if networks.spectral:
        nets.spectral(discriminator)
    return GAN(
        made,
        discriminator,
        shape,
        channels,
        classes,
        adversarial,
        1.0 if aux_weight is None else aux_weight,
    )
