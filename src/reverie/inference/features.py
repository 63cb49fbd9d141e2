"""The activations of pretrained networks and of the networks of one's runs."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from reverie.core import registry
from reverie.core.cache import Progress
from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.files import exists
from reverie.core.options import listed
from reverie.core.precision import pick_device, pick_precision
from reverie.core.verbs import verbs_of
from reverie.inference.load import Source, model_of, spec_of
from reverie.nets.features import Features
from reverie.pretrained import networks


def features_of(
    source: Source | Features, device: str = "auto", progress: Progress | None = None, precision: str = "auto"
) -> Features:
    """The activations of a network by layer, named by its modules: "body.2", "encoder.layers.3.conv1".

    Of a run it is the network that looks at images: a GAN's discriminator, the encoder of an autoencoder, the denoiser
    of a diffusion model where there is little noise, the generator of a translator.

    Args:
        source: a pretrained network ("vgg16" ...), a run, or a model; one that can be trained is copied. ``Features``
            are returned as they are.
        device: of the network.
        progress: of the download of a pretrained network.
        precision: arithmetic of a pretrained network: "auto" (bf16 where that is fast), "fp32" or "bf16". Others
            compute in fp32.
    Raises:
        UsageError: no such network or run, or a model without ``features`` or of no images.
    """
    target = pick_device(device)
    bf16 = pick_precision(precision, target).bf16
    if isinstance(source, Features):
        return source
    if isinstance(source, str) and source in networks.NETWORKS:
        return networks.features(source, target, torch.bfloat16 if bf16 else torch.float32, progress)
    if precision == "bf16":
        raise UsageError(f"{argument('precision', precision)} is for pretrained networks: others compute in fp32.")
    if isinstance(source, str) and source == Path(source).name and not exists(source):
        names = list(networks.NETWORKS)
        raise UsageError(
            f"There is no network and no run {source!r}.{suggest(source, names)} Networks: {', '.join(names)}; of runs "
            "take the directory."
        )
    model = model_of(source)
    if "features" not in verbs_of(model):
        able = listed(registry.with_verb("features"))
        raise UsageError(f"{name_of(model)} has no network that looks at images. These models have: {able}.")
    spec, card = spec_of(model), card_of(model)
    if spec.medium != "image" or len(spec.shape) != 2:
        raise UsageError(f"{name_of(model)} is a model of {spec.medium}s: there are no images that its layers see.")
    if card.conditions.get("source", spec.channels) == 4:
        raise UsageError(f"{name_of(model)} looks at RGBA images; layers are studied and used on grey or RGB ones.")
    if any(parameter.requires_grad for parameter in model.parameters()):
        model = copy.deepcopy(model)
    return Features(
        model.to(target),
        model.features,
        channels=card.conditions.get("source", spec.channels),
        size=(spec.shape[0], spec.shape[1]),
        name=name_of(model),
    )
