"""Perceptual distances of reconstructions, by a pretrained network that all models of a process share.

It is no sub-module of a model: every checkpoint would hold its 15 million frozen weights.
Features: Hou et al., "Deep feature consistent variational autoencoder", WACV 2017, arXiv:1610.00291.
LPIPS: Zhang et al., arXiv:1801.03924. Both see RGBA on white.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from reverie.core.layout import to_device_layout
from reverie.media.colour import solid
from reverie.nets.features import Features
from reverie.nets.lpips import LPIPS
from reverie.nets.perceptual import content_loss
from reverie.pretrained import networks, weights

LAYERS = ("relu1_1", "relu2_1", "relu3_1")  # of the paper


@cache
def network(device: torch.device) -> Features:
    """VGG-16 with its pretrained weights, fetched once. Raises ReverieError where no source gives them."""
    return networks.features("vgg16", device)


@cache
@torch.inference_mode(False)
def lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS of images (B, C, H, W), twice, to (B,). Raises ReverieError where no source gives its weights."""
    distance = to_device_layout(LPIPS(network(device).network, weights.load("lpips-vgg")).eval(), device)
    return lambda x, y: distance(solid(x), solid(y))


def feature_error(images: Tensor, targets: Tensor) -> Tensor:
    """Relative squared error of VGG-16's activations, the mean over ``LAYERS``: (B, C, H, W), twice, to (B,).

    0 for equal images, 1 where nothing of the targets' activations is there.
    """
    features = network(images.device)
    with torch.no_grad():
        activations = features(solid(targets), LAYERS)
    return content_loss(features(solid(images), LAYERS), activations)
