"""Generators and discriminators of the plainer GANs, at the pictures' own resolution.

Dense: Goodfellow et al., arXiv:1406.2661. Convolutional: Radford, Metz and Chintala, "Unsupervised representation
learning with deep convolutional generative adversarial networks", ICLR 2016, arXiv:1511.06434. Spectral normalisation:
Miyato et al., ICLR 2018, arXiv:1802.05957; projection: Miyato and Koyama, ICLR 2018, arXiv:1802.05637. Patches: Isola
et al., CVPR 2017, arXiv:1611.07004.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.shapes import Shape, divides, halved, named


def halvings(shape: Shape) -> list[tuple[int, int]]:
    """Shapes of the maps from the image down to sides of at most 7, each half of the one before: 28, 14, 7.

    Raises:
        ValueError: sides that cannot be halved down to at most 7.
    """
    shapes = [halved(shape, 1)]
    while max(shapes[-1]) > 7:
        if not divides(2, shapes[-1]):
            raise ValueError(f"{named(shape)} cannot be halved down to 7 or less.")
        shapes.append(halved(shapes[-1]))
    return shapes


class DenseGenerator(nn.Module):
    """(B, inputs) to (B, channels, *shape) in (-1, 1)."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int):
        super().__init__()
        self.shape = (channels, *shape)
        self.layers = nn.Sequential(
            nn.Linear(inputs, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * width, math.prod(self.shape)),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, self.shape)


def dense_body(shape: Shape, channels: int, width: int) -> nn.Sequential:
    """(B, channels, *shape) to features (B, width)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * math.prod(shape), 2 * width),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * width, width),
        nn.LeakyReLU(0.2),
    )


class Transposed(nn.Module):
    """(B, inputs) to (B, channels, *shape) in (-1, 1): 4x4 convolutions transposed, each doubling the sides."""

    def __init__(self, shape: Shape, channels: int, inputs: int, width: int):
        super().__init__()
        shapes = halvings(shape)
        widths = [min(2**i, 8) * width for i in range(len(shapes) - 1)]  # fine to coarse
        self.start = (*shapes[-1], widths[-1])
        self.into = nn.Linear(inputs, math.prod(self.start))
        self.norm = nn.GroupNorm(1, widths[-1])
        layers: list[nn.Module] = [nn.ReLU(True)]
        for level in reversed(range(1, len(widths))):
            layers += [
                nn.ConvTranspose2d(widths[level], widths[level - 1], 4, 2, 1),
                nn.GroupNorm(1, widths[level - 1]),
            ]
            layers += [nn.ReLU(True)]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], channels, 4, 2, 1), nn.Tanh())
        _small_normal(self)

    def forward(self, z: Tensor) -> Tensor:
        maps = self.into(z).unflatten(1, self.start).permute(0, 3, 1, 2)  # channels_last
        return self.layers(self.norm(maps))


class Row(nn.Module):
    """Maps (B, C, H, W) to rows (B, H * W * C), as they lie in memory: each place's channels beside each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def strided_body(shape: Shape, channels: int, width: int) -> tuple[nn.Sequential, int]:
    """(B, channels, *shape) to features (B, F), by 4x4 convolutions of stride 2; and F."""
    shapes = halvings(shape)
    layers: list[nn.Module] = []
    wide = channels
    for level in range(len(shapes) - 1):
        outputs = min(2**level, 8) * width
        layers += [nn.Conv2d(wide, outputs, 4, 2, 1)] + ([nn.GroupNorm(1, outputs)] if level else [])
        layers += [nn.LeakyReLU(0.2, True)]
        wide = outputs
    made = nn.Sequential(*layers, Row())
    _small_normal(made)
    return made, wide * math.prod(shapes[-1])


def _small_normal(net: nn.Module) -> None:
    """The paper's N(0, 0.02^2)."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-1, 1)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where((x.abs() > 1) & (x * slope < 0), 0, slope)  # descent goes against the slope


def within(x: Tensor) -> Tensor:
    """Pixels clamped to [-1, 1]; of the gradient outside, only what leads further out is lost.

    So plain black and white are within easy reach, and no pixel is stuck there, as with a tanh or a plain clamp.
    """
    return _Within.apply(x)


class Judge(nn.Module):
    """A logit of "real" for each picture, or for each ``packing`` neighbours in the batch, (B / packing,).

    Args:
        body: (B / packing, packing * (C + planes), H, W) to features (B / packing, F).
        features: F.
        classes: number of classes that it is told (0: none).
        plane: shape of the images where a class is one more plane of the image; None where it is a projection.
        packing: pictures that are judged together, as channels of one.
        named: number of classes for which it also has logits of its own opinion (an auxiliary classifier).
        grouped: whether ``body`` compares rows, and so has to know how many sets of images it sees.
    """

    def __init__(
        self,
        body: nn.Module,
        features: int,
        classes: int = 0,
        plane: Shape | None = None,
        packing: int = 1,
        named: int = 0,
        grouped: bool = False,
    ):
        super().__init__()
        self.body, self.packing, self.grouped = body, packing, grouped
        self.head = nn.Linear(features, 1)
        self.plane = nn.Embedding(classes, math.prod(plane)) if classes and plane else None
        self.projection = nn.Embedding(classes, features) if classes and not plane else None
        self.names = nn.Linear(features, named) if named else None

    def forward(self, image: Tensor, label: Tensor | None = None, sets: int = 1, *level: Any) -> Tensor:
        return self.opinion(image, label, sets, *level)[0]

    def opinion(
        self, image: Tensor, label: Tensor | None = None, sets: int = 1, *level: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The logits (B / packing,), and those of the classes (B / packing, named) where it has some.

        Args:
            sets: of how many equal sets, such as real images and fakes, the rows consist; rows of two are not compared.
            level: what a growing body is told, see ``nets.progressive``.
        """
        if self.plane is not None:
            image = torch.cat([image, self.plane(label).unflatten(1, (1, *image.shape[2:])).to(image)], 1)
        image = image.unflatten(0, (-1, self.packing)).flatten(1, 2) if self.packing > 1 else image
        image = image.contiguous(memory_format=torch.channels_last)
        features = (self.body(image, *level, sets=sets) if self.grouped else self.body(image)).float()
        with torch.autocast(image.device.type, enabled=False):  # losses look at small differences of large logits
            logits = self.head(features)[:, 0]
            if self.projection is not None:
                told = self.projection(label).unflatten(0, (-1, self.packing)).mean(1)
                logits = logits + (told * features).sum(1)
            return logits, None if self.names is None else self.names(features)


class OverLargest(nn.Module):
    """A matrix, or a kernel read as (outputs, inputs x places), divided by its largest singular value.

    Found by squaring W W' six times, which is 64 steps of the power iteration, without a state of its own.
    """

    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.flatten(1)
        with torch.no_grad():
            square = (matrix if len(matrix) < matrix.shape[1] else matrix.T).float()
            square = square @ square.T
            for _ in range(6):
                square = square / square.norm()
                square = square @ square
            u = F.normalize(square[:, square.diagonal().argmax()], dim=0).to(matrix)
        reached = u @ matrix if len(u) == len(matrix) else matrix @ u
        return weight / reached.norm()


def spectral(net: nn.Module) -> nn.Module:
    """Every linear and convolutional layer divided by its largest singular value."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.utils.parametrize.register_parametrization(module, "weight", OverLargest())
    return net


def patch_judge(shape: Shape, channels: int, width: int) -> nn.Sequential:
    """(B, channels, *shape) to a logit of "real" for each of some overlapping patches, (B, 1, h, w)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    side, wide = min(shape) // 2, width
    while side > 8 and wide < 4 * width:
        # over all channels and places of one picture: the paper's batch norm would let pictures see one another
        layers += [nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1), nn.GroupNorm(1, 2 * wide), nn.LeakyReLU(0.2)]
        side, wide = side // 2, 2 * wide
    return nn.Sequential(*layers, nn.Conv2d(wide, 1, 3, padding=1))
