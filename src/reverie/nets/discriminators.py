"""Discriminators: a body, a head with a logit of "real", and class conditioning.

Spectral normalisation: Miyato et al., ICLR 2018, arXiv:1802.05957; projection: Miyato and Koyama, ICLR 2018,
arXiv:1802.05637. Patches: Isola et al., CVPR 2017, arXiv:1611.07004. Packing: Lin et al., NeurIPS 2018,
arXiv:1712.04086.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.nets.shapes import Shape


class Discriminator(nn.Module):
    """A logit of "real" per image, or per ``packing`` neighbours in the batch, (B / packing,).

    Args:
        body: (B / packing, packing * (C + planes), H, W) to features (B / packing, F).
        features: F.
        classes: number of classes of the condition (0: none).
        plane: shape of the images, to condition by an additional input plane; None: by projection.
        packing: images that share a logit, stacked as channels.
        aux_classes: number of classes of an auxiliary classifier (0: none).
        grouped: whether ``body`` compares rows, and so needs the number of sets of images.
    """

    def __init__(
        self,
        body: nn.Module,
        features: int,
        classes: int = 0,
        plane: Shape | None = None,
        packing: int = 1,
        aux_classes: int = 0,
        grouped: bool = False,
    ):
        super().__init__()
        self.body, self.packing, self.grouped = body, packing, grouped
        self.head = nn.Linear(features, 1)
        self.label_plane = nn.Embedding(classes, math.prod(plane)) if classes and plane else None
        self.projection = nn.Embedding(classes, features) if classes and not plane else None
        self.aux_head = nn.Linear(features, aux_classes) if aux_classes else None

    def forward(
        self, image: Tensor, label: Tensor | None = None, sets: int = 1, *level: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The logits (B / packing,), and the auxiliary class logits (B / packing, aux_classes) or None.

        Args:
            sets: number of equal sets, such as real images and fakes, in the rows; only rows of a set are compared.
            level: level and fading of a growing body, see ``nets.progressive``.
        """
        if self.label_plane is not None:
            image = torch.cat([image, self.label_plane(label).unflatten(1, (1, *image.shape[2:])).to(image)], 1)
        image = image.unflatten(0, (-1, self.packing)).flatten(1, 2) if self.packing > 1 else image
        image = image.contiguous(memory_format=torch.channels_last)
        features = (self.body(image, *level, sets=sets) if self.grouped else self.body(image)).float()
        with torch.autocast(image.device.type, enabled=False):  # losses depend on small differences of large logits
            logits = self.head(features)[:, 0]
            if self.projection is not None:
                embedding = self.projection(label).unflatten(0, (-1, self.packing)).mean(1)
                logits = logits + (embedding * features).sum(1)
            return logits, None if self.aux_head is None else self.aux_head(features)


class SpectralNorm(nn.Module):
    """A matrix, or a kernel as (outputs, inputs x kernel positions), divided by its largest singular value.

    Squares W W' six times, which equals 64 power iterations, without any state.
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
        projected = u @ matrix if len(u) == len(matrix) else matrix @ u
        return weight / projected.norm()


def spectral_norm(net: nn.Module) -> nn.Module:
    """Apply ``SpectralNorm`` to all linear and convolutional layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.utils.parametrize.register_parametrization(module, "weight", SpectralNorm())
    return net


def patch_discriminator(shape: Shape, channels: int, width: int) -> nn.Sequential:
    """(B, channels, *shape) to a logit of "real" per overlapping patch, (B, 1, h, w)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    side, wide = min(shape) // 2, width
    while side > 8 and wide < 4 * width:
        # normalises over channels and positions of an image: the paper's batch norm would mix images
        layers += [nn.Conv2d(wide, 2 * wide, 4, stride=2, padding=1), nn.GroupNorm(1, 2 * wide), nn.LeakyReLU(0.2)]
        side, wide = side // 2, 2 * wide
    return nn.Sequential(*layers, nn.Conv2d(wide, 1, 3, padding=1))
