"""Arbitrary style transfer in one pass: adaptive instance normalisation of a classifier's activations, and a decoder.

Huang and Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", ICCV 2017,
arXiv:1703.06868. Deviations are listed in docs/systems/stylization.md.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Fraction, ImageFiles, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.noise import Noise
from reverie.data import image_files
from reverie.models.stylization.encoders import (
    LAYERS,
    Encoder,
    StyleTerms,
    activations,
    prepare_encoder,
    statistics,
    style_image,
    two_stages,
)
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.perceptual import adain as with_statistics
from reverie.nets.perceptual import relative_error, total_variation
from reverie.nets.shapes import check_opaque, sides
from reverie.nets.stylization import FeatureDecoder, cropped, padded, to_eights
from reverie.optim.phase import Metrics, Outputs, Stage

_AT_ONCE = 8  # views of styles that are encoded together
_CHANNEL_ORDERS = ((0, 1, 2), (0, 1, 2), (0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0))  # of a view, for more styles


class AdaIN(nn.Module):
    """A frozen encoder, AdaIN, and a decoder that learns.

    A style is the mean and deviation of the channels of every layer. Those of random views of the training styles are
    computed once, before training.

    Args:
        decoder: activations of the deepest layer to images.
        output: of the images.
        folder: of images of styles, read when training begins.
        views: rows of the table of styles.
        encoder: whose activations define content and style.
        layers: of the encoder, with their channels; the last is decoded.
        terms: weights of the loss.
    """

    styles: Tensor

    def __init__(
        self,
        decoder: nn.Module,
        output: Output,
        folder: str,
        views: int,
        encoder: Encoder,
        layers: dict[str, int],
        terms: StyleTerms,
    ):
        super().__init__()
        self.decoder, self.output, self.folder = decoder, output, folder
        self.encoder, self.layers, self.terms = encoder, layers, terms
        self.sizes = [2 * channels for channels in layers.values()]
        self.register_buffer("styles", torch.zeros(views, sum(self.sizes)))

    @property
    def card(self) -> Card:
        return Card(self.output, {"source": self.output.channels}, weights=(self.encoder,))

    # Training

    def stages(self, lr: Weight = 1e-3, reconstruction: Annotated[float, Range(0, 0.9)] = 0.2) -> list[Stage]:
        """The decoder learns to invert the encoder, which is quick; then to paint.

        Args:
            lr: peak learning rate.
            reconstruction: share of the first stage of training.
        """
        losses = (self.reconstruction_loss, self.loss)
        return two_stages(self.decoder, lr, reconstruction, *losses, self.paint, self.measure_styles)

    def measure_styles(self, batches: Any = None, fresh: bool = True) -> None:
        """Fill the table of styles from views of the images in the folder: a function of these images alone."""
        rng = Noise.of_seeds(range(len(self.styles)))
        positions, orders = rng.uniform(3).tolist(), rng.integers(len(_CHANNEL_ORDERS)).tolist()
        prepare_encoder(self.encoder, self.styles)
        files = image_files(self.folder)
        for index, file in enumerate(files):
            image = style_image(file, self.output.channels, "styles")
            rows = range(index, len(self.styles), len(files))
            for few in (rows[low : low + _AT_ONCE] for low in range(0, len(rows), _AT_ONCE)):
                views = torch.cat([self._view(image, positions[row], _CHANNEL_ORDERS[orders[row]]) for row in few])
                self.styles[few] = self.style(views.to(self.styles))

    def _view(self, image: Tensor, position: list[float], order: tuple[int, ...]) -> Tensor:
        """A part of an image of 0.4 to 1 times its shorter side, at the training size."""
        height, width = image.shape[2:]
        side = max(1, round((0.4 + 0.6 * position[0]) * min(height, width)))
        top, left = (round(at * (extent - side)) for at, extent in zip(position[1:], (height, width), strict=True))
        view = image[
            :, list(order[: image.shape[1]]) if image.shape[1] > 1 else [0], top : top + side, left : left + side
        ]
        return F.interpolate(view, self.output.shape, mode="bicubic", antialias=True).clamp(-1, 1)

    def reconstruction_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Mean square error of the decoded activations of the images."""
        x = to_eights(batch["x"])
        with torch.no_grad():
            content = self.content(x)
        return {"loss": F.mse_loss(self.decoder(content).float(), x)}

    def paint(self, batch: Batch) -> Outputs:
        """``style`` (B, statistics): rows of the table, half of them mixed; ``target`` activations and ``painted``."""
        first, second = (self.styles[batch.rng.integers(len(self.styles))] for _ in range(2))
        style = torch.lerp(first, second, batch.rng.uniform(1, low=-1.0).clamp(min=0))
        with torch.no_grad():
            target = self.with_style(self.content(to_eights(batch["x"])), style)
        return {"style": style, "target": target, "painted": clamp_pixels(self.decoder(target).float())}

    def loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Content + style + total variation, each with its weight."""
        painted = outputs["painted"]
        features = activations(self.encoder, painted, self.layers)
        pairs = zip(self.of_layers(statistics(features)), self.of_layers(outputs["style"]), strict=True)
        metrics = {
            "content": relative_error(features[list(self.layers)[-1]], outputs["target"]).mean(),
            "style": torch.stack([relative_error(now, style) for now, style in pairs]).mean(),
            "tv": total_variation(painted).mean(),
        }
        return {"loss": self.terms.total(metrics), **metrics}

    def of_layers(self, style: Tensor) -> tuple[Tensor, ...]:
        """Statistics (B, all) as those of each layer, (B, 2 channels)."""
        return style.split(self.sizes, 1)

    def content(self, images: Tensor) -> Tensor:
        """Activations (B, C, H / stride, W / stride) of the deepest layer."""
        deep = list(self.layers)[-1]
        return activations(self.encoder, images, [deep])[deep]

    def with_style(self, content: Tensor, style: Tensor) -> Tensor:
        """Activations with the deepest layer's mean and deviation of a style (B or 1, statistics)."""
        mean, std = self.of_layers(style)[-1][..., None, None].chunk(2, 1)
        return with_statistics(content, mean, std)

    # Verbs

    def translation_pair(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The images of the data; no truth is known for them."""
        return batch["x"], None

    def features(self, image: Tensor) -> Tensor:
        """The evaluation of the decoder on the activations of images, for its layers."""
        return self.decoder(self.content(to_eights(image)))

    def translate(self, source: Tensor, noise: Noise, strength: Fraction = 1.0, **condition: Any) -> Tensor:
        """Images (B, C, H, W) in random styles of training: the same shape.

        Args:
            strength: 0 reconstructs the image, 1 paints it.
        """
        style = self.styles[Noise(noise.keys).integers(len(self.styles))]  # the same at every call
        return self.stylize(source, style, strength)

    def style(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size to styles (B, statistics); a mean of styles is a style, too."""
        return statistics(activations(self.encoder, image, self.layers))

    def stylize(self, image: Tensor, style: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """Images (B, C, H, W) of any size in a style: the same shape.

        Args:
            style: (B or 1, statistics); by default the mean of the training styles.
            strength: 0 reconstructs the image, 1 paints it.
        """
        style = self.styles.mean(0, keepdim=True) if style is None else style
        content = self.content(padded(image))
        mixed = torch.lerp(content, self.with_style(content, style), strength)
        return cropped(self.decoder(mixed), image.shape[2:]).to(image.dtype).clamp(-1, 1)


def adain(
    shape: Shape,
    channels: Channels,
    styles: Annotated[str, ImageFiles(folder=True)] = "",
    encoder: Encoder = "vgg16",
    layers: Literal[3, 4] = 4,
    width: Count = 32,
    views: Count = 512,
    terms: StyleTerms = StyleTerms(style_weight=10.0),
) -> AdaIN:
    """Any image in any style in one pass: statistics of activations, and a decoder.

    Args:
        shape: (height, width) of the training images in pixels, or one number for squares.
        channels: 1 or 3.
        styles: folder of images of styles, such as paintings; it is needed when training begins, never after.
        encoder: whose activations define content and style: vgg16, vgg19, or small, which ships with reverie.
        layers: of the encoder: 4 decodes relu4_1 of VGG; 3, relu3_1, is faster and keeps more of the image.
        width: channels of the decoder at full resolution; twice as many at half, and so on.
        views: random views of the styles to train on.
    """
    check_opaque(channels, "adain")
    chosen = dict(islice(LAYERS[encoder].items(), layers))
    widths = [width * 2**level for level in reversed(range(layers))]
    decoder = FeatureDecoder(list(chosen.values())[-1], channels, widths)
    return AdaIN(decoder, Output("image", sides(shape), channels), styles, views, encoder, chosen, terms)
