"""What the coupling flows of images share: the multi-scale architecture, its networks, and the dequantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Range, Shape
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.models.flows.base import NormalizingFlow
from reverie.nets import shapes
from reverie.nets.coupling import CouplingNet
from reverie.optim.phase import adamw
from reverie.probability.conditioning import label_classes
from reverie.probability.dequantisation import VariationalDequantiser
from reverie.probability.multiscale import MultiScale, Steps, squeeze, unsqueeze
from reverie.probability.transforms import Affine, Coupling, Elementwise, Logit, NormalisedConv1x1

_COARSEST, _LEVELS, _LARGEST = 4, 3, 512  # pixels of the last map, levels by default; pixels of an image
_DEQUANTISER_COUPLINGS = 4
Net = Callable[[shapes.Shape, int, int], nn.Module]  # of a map's shape, inputs and outputs
Mix = Callable[[int, int], nn.Module]  # of the number of a coupling and its channels


@dataclass(frozen=True)
class Architecture:
    """The multi-scale architecture.

    Attributes:
        width: channels of the coupling networks.
        depth: residual blocks of each.
        couplings: on each level.
        levels: each halves the map; 0: as many as fit, at most 3.
        conditional: "label": the coupling networks get the class.
        dequantisation: noise within the bins of 8-bit levels: "uniform", or "variational", learned: a tighter bound.
        logit: alpha of logit(alpha + (1 - 2 alpha) x) before the flow, of pixels in [0, 1]; 0: none.
    """

    width: Count = 96
    depth: Count = 1
    couplings: Count = 8
    levels: Annotated[int, Range(0, 8)] = 0
    conditional: Literal["none", "label"] = "none"
    dequantisation: Literal["uniform", "variational"] = "uniform"
    logit: Annotated[float, Range(0, 0.4)] = 1e-6


def multi_scale_flow(
    shape: Shape, channels: int, classes: int, architecture: Architecture, mix: Mix, elementwise: Elementwise
) -> NormalizingFlow:
    """A flow of images.

    Args:
        mix: the layer before each coupling.
        elementwise: of the couplings.
    """
    size, labels = shapes.sides(shape), label_classes(architecture.conditional, classes)

    def net(side: shapes.Shape, inputs: int, outputs: int) -> nn.Module:
        return CouplingNet(side, inputs, outputs, architecture.width, architecture.depth, labels)

    levels, side, wide, count = [], size, channels, number_of_levels(size, architecture.levels)
    for depth in range(count):
        side, wide = shapes.halved(side), 4 * wide
        layers = coupling_layers(side, wide, architecture.couplings, net, mix, elementwise)
        if depth < count - 1:
            layers.append(coupling(side, wide, net, Affine()))
            wide //= 2
        levels.append(Steps(layers))
    preprocess = Logit(architecture.logit) if architecture.logit else None
    transform = MultiScale((channels, *size), levels, preprocess)
    variational = architecture.dequantisation == "variational"
    dequantiser = VariationalDequantiser(DequantisationFlow(size, channels, net)) if variational else None
    return NormalizingFlow(
        transform, Output("image", size, channels), dequantiser, labels, _adamw, values=torch.float64
    )


def _adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Not Muon, which moves the many small outputs of a spline's network too far."""
    return adamw(module.parameters(), lr, weight_decay)


def coupling_layers(
    side: shapes.Shape, channels: int, number: int, net: Net, mix: Mix, elementwise: Elementwise, context: int = 0
) -> list[nn.Module]:
    """Couplings on a map of this shape, each behind a layer that mixes its channels."""
    layers: list[nn.Module] = []
    for index in range(number):
        layers += [mix(index, channels), coupling(side, channels, net, elementwise, context)]
    return layers


def coupling(side: shapes.Shape, channels: int, net: Net, elementwise: Elementwise, context: int = 0) -> Coupling:
    """The second half of the channels, given the first and a context."""
    kept = channels // 2
    return Coupling(net(side, kept + context, (channels - kept) * elementwise.parameters), elementwise, kept)


def number_of_levels(shape: shapes.Shape, levels: int) -> int:
    """The number of levels; of 0 as many as halve the map to 4 pixels or more, from 1 to 3.

    Raises:
        UsageError: sides that cannot be halved so often, or too large ones.
    """
    if levels == 0:
        halvings = [n for n in range(1, _LEVELS + 1) if shapes.divides(2**n, shape) and min(shape) >= _COARSEST << n]
        levels = max(halvings, default=1)
        shapes.check_sides(shape, "A multi-scale flow", 2, 2, _LARGEST)
    elif not shapes.divides(2**levels, shape):
        fitting = [n for n in range(1, levels) if shapes.divides(2**n, shape)]
        fewer = f"use {argument('levels', fitting[-1])}, or " if fitting else ""
        near = [max(1, round(side / 2**levels)) * 2**levels for side in shape]
        raise UsageError(
            f"{argument('levels', levels)} halves the map as many times, which sides of {shapes.named(shape)} do not "
            f"allow: {fewer}try {shapes.sized(*near)}."
        )
    return levels


class DequantisationFlow(nn.Module):
    """A flow of noise given the image: affine couplings on 2x2 pixels, each shown the image (Ho et al., "Flow++")."""

    def __init__(self, size: shapes.Shape, channels: int, net: Net):
        super().__init__()
        side, wide = shapes.halved(size), 4 * channels
        mix = lambda index, channels: NormalisedConv1x1(channels)  # noqa: E731
        self.steps = Steps(coupling_layers(side, wide, _DEQUANTISER_COUPLINGS, net, mix, Affine(), context=wide))

    def forward(self, e: Tensor, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) of N(0, I) to v (B, C, H, W) and log |dv / de| (B,)."""
        context = squeeze(image.permute(0, 2, 3, 1))
        v, log_det = self.steps(squeeze(e.permute(0, 2, 3, 1)), label, context)
        return unsqueeze(v).permute(0, 3, 1, 2), log_det
