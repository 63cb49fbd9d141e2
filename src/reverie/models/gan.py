"""Generative adversarial networks: a generator learns to make what a discriminator takes for real.

GAN: Goodfellow et al., NeurIPS 2014, arXiv:1406.2661. DCGAN: Radford, Metz and Chintala, ICLR 2016, arXiv:1511.06434.
Class-conditional: Mirza and Osindero, arXiv:1411.1784. AC-GAN: Odena, Olah and Shlens, ICML 2017, arXiv:1610.09585.
R3GAN: Huang et al., NeurIPS 2024, arXiv:2501.05441. Deviations are listed in docs/systems/gan.md.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from reverie.core.errors import UsageError
from reverie.models.adversarial import Adversarial, Loss
from reverie.nets import adversarial as nets
from reverie.nets.convolutional import Decoder, Encoder
from reverie.nets.shapes import Sides, check_sides, sides

_TOLD = 32  # numbers that tell G a class


class GAN(Adversarial):
    """Dense networks and the minimax game, as it was first written down.

    Args:
        latent: numbers in z, which is N(0, I).
        width: of the layers; of convolutional networks the channels of the finest level.
        condition: how D is told the class: "concatenation" (one more plane) or "projection".
        spectral: divide D's matrices by their largest singular value.
        more: as for ``Adversarial``.
    """

    named = 0  # classes that D names by itself

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Loss = "minimax",
        latent: int = 64,
        width: int = 256,
        condition: Literal["projection", "concatenation"] = "concatenation",
        spectral: bool = False,
        **more: Any,
    ):
        super().__init__(shape, channels, classes, loss=loss, **more)
        if condition not in ("projection", "concatenation"):
            raise UsageError(f"condition is 'projection' or 'concatenation', not {condition!r}.")
        if latent < 1 or width < 1:
            raise UsageError(f"latent and width must be at least 1, not {latent} and {width}.")
        self.latent, self.latent_shape = latent, (latent,)
        told = _TOLD if self.classes else 0
        plane = bool(self.classes) and condition == "concatenation"
        self.G = nets.ConditionedGenerator(self.generator(latent + told, width), self.classes, told)
        body, features = self.body(self.packing * (channels + plane), width)
        shown = 0 if self.named else self.classes  # D is told the class, or names it
        self.D = nets.Judge(
            body, features, shown, self.shape if plane else None, self.packing, self.named and self.classes
        )
        if spectral:
            nets.spectral(self.D)

    def generator(self, inputs: int, width: int) -> nn.Module:
        """(B, inputs) to pictures."""
        return nets.DenseGenerator(self.shape, self.channels, inputs, width)

    def body(self, channels: int, width: int) -> tuple[nn.Module, int]:
        """Pictures of so many channels to features, and their number."""
        return nets.dense_body(self.shape, channels, width), width


class DCGAN(GAN):
    """The convolutional networks that made GANs work: strided down, transposed up, at the pictures' own resolution.

    Args:
        more: as for ``GAN``.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Loss = "non-saturating",
        latent: int = 100,
        width: int = 64,
        condition: Literal["projection", "concatenation"] = "projection",
        **more: Any,
    ):
        check_sides(sides(shape), "The DCGAN", 4, 8, 256)
        super().__init__(shape, channels, classes, loss, latent, width, condition, **more)

    def generator(self, inputs: int, width: int) -> nn.Module:
        return nets.Transposed(self.shape, self.channels, inputs, width)

    def body(self, channels: int, width: int) -> tuple[nn.Module, int]:
        return nets.strided_body(self.shape, channels, width)


class ACGAN(DCGAN):
    """A DCGAN whose discriminator is not told the class but must name it, and whose generator is paid for that too.

    Args:
        naming: weight of the cross-entropy of the classes.
        conditional: "label": an AC-GAN is about classes.
        more: as for ``GAN``.
    """

    named = 1

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        naming: float = 1.0,
        conditional: Literal["label"] = "label",
        **more: Any,
    ):
        if conditional != "label":
            raise UsageError("An AC-GAN is about classes: leave --conditional out, or take dcgan.")
        super().__init__(shape, channels, classes, conditional=conditional, **more)
        self.naming = naming


class R3GAN(GAN):
    """Residual networks without normalisation, relativistic pairs, and D's slope held down at both sorts of pictures.

    Args:
        depth: residual blocks a level.
        more: as for ``GAN``.
    """

    depth: int

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        loss: Loss = "r3",
        latent: int = 64,
        width: int = 64,
        condition: Literal["projection", "concatenation"] = "projection",
        depth: int = 1,
        **more: Any,
    ):
        if depth < 1:
            raise UsageError(f"depth must be at least 1, not {depth}.")
        self.__dict__["depth"] = depth  # the networks are built in the base's constructor
        super().__init__(shape, channels, classes, loss, latent, width, condition, **more)

    def generator(self, inputs: int, width: int) -> nn.Module:
        return Decoder(self.shape, self.channels, inputs, width, self.depth)

    def body(self, channels: int, width: int) -> tuple[nn.Module, int]:
        features = 4 * width
        return nn.Sequential(Encoder(self.shape, channels, features, width, self.depth), nn.LeakyReLU(0.2)), features
