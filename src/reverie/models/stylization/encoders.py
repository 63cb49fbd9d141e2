"""The frozen encoders whose activations define content and style, the weights of the loss, and images of styles."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL.Image import Resampling
from torch import Tensor, nn

from reverie.core.annotations import Weight
from reverie.core.batch import Batch
from reverie.core.errors import ReverieError, argument, of_argument
from reverie.core.layout import to_device_layout
from reverie.media import decode, montage
from reverie.nets.features import Features
from reverie.nets.perceptual import mean_std
from reverie.nets.small import small_encoder
from reverie.optim.phase import Loss, Outputs, Phase, Stage, adamw
from reverie.pretrained import networks, weights

Encoder = Literal["vgg16", "vgg19", "small"]
Forward = Callable[[Batch], Outputs]
_VGG = {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512}
_PIXELS = 1 << 22  # of an image of a style
LAYERS: dict[str, dict[str, int]] = {  # layers and their channels; each halves the resolution of the one before
    "vgg16": _VGG,
    "vgg19": _VGG,
    "small": {"layers.1": 32, "layers.3": 64, "layers.5": 96, "layers.7": 128},
}


@dataclass(frozen=True)
class StyleTerms:
    """The weights of the terms of the loss.

    Attributes:
        content_weight: of the relative error of activations.
        style_weight: of the relative error of the style, a mean over layers.
        tv_weight: of total variation.
    """

    content_weight: Weight = 1.0
    style_weight: Weight = 5.0
    tv_weight: Weight = 0.1

    def total(self, metrics: Mapping[str, Tensor]) -> Tensor:
        """Content, style and tv, weighted."""
        return (
            self.content_weight * metrics["content"]
            + self.style_weight * metrics["style"]
            + self.tv_weight * metrics["tv"]
        )


def two_stages(
    net: nn.Module, lr: float, share: float, inverse: Loss, loss: Loss, forward: Forward, measure: Callable[..., None]
) -> list[Stage]:
    """Reconstruction for a share of the training, then style; every checkpoint has the measured styles."""
    first, second = (adamw(net.parameters(), lr) for _ in range(2))
    stages = [Stage([Phase("style", second, loss)], "style", 1 - share, forward=forward)]
    if share:
        stages.insert(0, Stage([Phase("reconstruction", first, inverse)], "reconstruction", share))
    stages[0].prepare = measure
    return stages


@functools.cache
@torch.inference_mode(False)  # a gradient may need the weights, whoever asks for them first
def _frozen(name: str, device: torch.device, dtype: torch.dtype) -> Features:
    if name != "small":
        return networks.features(name, device, dtype, replicate="first")  # zeros would leave a seam at the border
    small = to_device_layout(small_encoder(weights.load("small")).to(dtype), device)
    return Features(small, lambda images: small(images.expand(-1, 3, -1, -1)), name="small")


def activations(encoder: str, images: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Of some layers of a frozen encoder, in the dtype of the images.

    The encoder is no sub-module of a model: every checkpoint would hold its weights. They are fetched once.

    Raises:
        ReverieError: no source gives them.
    """
    return _frozen(encoder, images.device, images.dtype)(images, layers)


def prepare_encoder(encoder: str, like: Tensor) -> None:
    """Fetch an encoder's weights, for activations on the device and in the dtype of a tensor.

    Raises:
        ReverieError: no source gives them.
    """
    try:
        _frozen(encoder, like.device, like.dtype)
    except ReverieError as error:
        error.args = (*error.args, f"{argument('encoder', 'small')} needs no download.")
        raise


def style_image(file: Path | str, channels: int, name: str, shorter: int | None = None) -> Tensor:
    """The image (1, C, H, W) of a file, in [-1, 1], of at most 2^22 pixels.

    Args:
        name: of the argument, for messages.
        shorter: pixels of the shorter side; by default the image's own.
    Raises:
        ReverieError: it cannot be read.
    """
    with of_argument(name):
        image = decode.read_file(file).convert("RGB" if channels == 3 else "L")
    width, height = image.size
    scale = min(shorter / min(image.size) if shorter else 1.0, math.sqrt(_PIXELS / (width * height)))
    if scale != 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = image.resize(size, Resampling.LANCZOS)
    return torch.from_numpy(montage.from_image(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def statistics(features: dict[str, Tensor]) -> Tensor:
    """Mean and deviation of the channels, layer by layer: (B, 2 channels of all layers)."""
    return torch.cat([part.flatten(1) for x in features.values() for part in mean_std(x)], 1)
