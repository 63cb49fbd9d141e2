"""The weights of units that see the image directly, as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.dreaming.filters import numbers_of
from reverie.inference.features import features_of
from reverie.inference.load import Source
from reverie.inference.origin import origin
from reverie.media import Spec, medium_of
from reverie.media.images import Images
from reverie.nets.features import Features

MANY = 100  # units by default


def receptive_fields(
    network: Source | Features,
    layer: str | None = None,
    channels: Sequence[int] | Literal["all"] | None = None,
    device: str = "auto",
) -> Images:
    """For each unit of a layer that is linear in the image its weights, as an image.

    Mid-grey is a weight of 0, white and black are the largest positive and negative one; a unit's image is scaled to
    its own largest. They are the gradient of the unit with respect to the image, so units of any dense first layer
    have them: hidden units of an ``rbm``, the first layer of a dense autoencoder. ``conditions`` of the result are the
    "channels" and the largest weight of each, "scale", in units of an image that spans 2.

    Args:
        network: a run, a model, or ``Features`` of any module.
        layer: a name of ``Features.layers``; by default the first that computes a vector by weights of its own.
        channels: numbers of units from 0, or "all"; by default 100 of them, evenly spaced.
        device: of the network.
    Raises:
        UsageError: no such layer or unit, or a layer that is no linear function of the image as a whole.
    """
    features = features_of(network, device)
    layer = _first(features) if layer is None else layer
    numbers = numbers_of(channels, features.layer(layer), layer, MANY)
    weights = _gradients(features, layer, numbers)
    scale = weights.abs().amax((1, 2, 3), keepdim=True)
    spec = Spec("image", features.size, features.channels)
    return Images(
        medium_of(spec).to_storage(weights / scale.clamp(min=1e-12), spec),
        spec,
        labels=list(map(str, numbers)),
        origin=origin(
            "filters", features.network, network=features.name, layer=layer, image="weights", channels=numbers
        ),
        conditions={"channels": numbers, "scale": scale.flatten().tolist()},
    )


def _first(features: Features) -> str:
    modules = dict(features.network.named_modules())
    image = torch.zeros(1, features.channels, *features.size, device=next(features.network.parameters()).device)
    for name in features.layers:
        if any(True for _ in modules[name].parameters(recurse=False)) and features(image, [name])[name].ndim == 2:
            return name
    raise UsageError(f"No layer of {features.name} computes a vector by weights of its own.")


def _gradients(features: Features, layer: str, numbers: Sequence[int]) -> Tensor:
    """Of unit ``numbers[i]`` the gradient with respect to the image, (N, C, H, W); the same at every image."""
    device = next(features.network.parameters()).device
    count, shape = len(numbers), (features.channels, *features.size)

    def at(images: Tensor) -> Tensor:
        images = images.to(device).requires_grad_()
        units = features(images, [layer])[layer]
        if units.ndim == 2:
            (gradient,) = torch.autograd.grad(units[torch.arange(count), list(numbers)].float().sum(), images)
            return gradient.cpu()
        raise UsageError(
            f"{layer} of {features.name} computes maps, whose filters see parts of the image: leave out "
            f"{argument('weights')} for what they respond to."
        )

    weights = at(torch.zeros(count, *shape))
    if not torch.allclose(weights, at(Noise.of_seeds(range(count))(*shape)), rtol=1e-3, atol=1e-6):
        raise UsageError(
            f"{layer} of {features.name} is no linear function of the image: leave out {argument('weights')} for what "
            "its units respond to."
        )
    return weights
