"""The restricted Boltzmann machine (Smolensky 1986; Hinton, Neural Computation 2002) and the deep belief network
(Hinton, Osindero and Teh, Neural Computation 2006) of images.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, Weight
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.models.energy.belief import BeliefNet
from reverie.models.energy.contrastive import Negative, Sparsity
from reverie.models.energy.machine import Machine, Units
from reverie.nets import shapes
from reverie.probability.conditioning import label_classes


def rbm(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    hidden: Count = 500,
    conditional: Literal["none", "label"] = "none",
    units: Units = Units(),
    negative: Negative = Negative(),
    sparsity: Sparsity = Sparsity(),
) -> BeliefNet:
    """A restricted Boltzmann machine.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        hidden: units.
        conditional: "label": units of the label are visible, and clamped to draw images of a class.
    """
    return _stack(shape, channels, (hidden,), label_classes(conditional, classes), 0.0, units, negative, sparsity)


def dbn(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    hidden: Annotated[tuple[int, ...], Range(1)] = (500, 1000),
    conditional: Literal["none", "label"] = "none",
    wake_sleep: Weight = 0.5,
    units: Units = Units(),
    negative: Negative = Negative(),
    sparsity: Sparsity = Sparsity(),
) -> BeliefNet:
    """A deep belief network: restricted Boltzmann machines that are trained from the image upwards.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        hidden: units of each layer, from the image upwards.
        conditional: "label": units of the label join the last layer but one, and are clamped to draw images of a class.
        wake_sleep: share of the training, relative to a layer's, in which all layers are trained together at the end;
            0: none.
    """
    if len(hidden) < 2:
        raise UsageError(f"A dbn has at least two layers of {argument('hidden')} units; with one it is an rbm.")
    labels = label_classes(conditional, classes)
    return _stack(shape, channels, hidden, labels, wake_sleep, units, negative, sparsity)


def _stack(
    shape: Shape,
    channels: Channels,
    hidden: tuple[int, ...],
    labels: int,
    wake_sleep: float,
    units: Units,
    negative: Negative,
    sparsity: Sparsity,
) -> BeliefNet:
    size = shapes.sides(shape)
    sizes = [channels * math.prod(size), *hidden]
    machines = []
    for depth, (visible, above) in enumerate(pairwise(sizes)):
        classes = labels if depth == len(hidden) - 1 else 0
        machines.append(Machine(visible + classes, above, classes, "binary" if depth else units.visible))
    return BeliefNet(machines, Output("image", size, channels), units, negative, sparsity, wake_sleep)
