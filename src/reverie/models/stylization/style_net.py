"""A feed-forward network that paints any image in one style, in one pass.

Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016,
arXiv:1603.08155. Instance normalisation: Ulyanov et al., arXiv:1607.08022. Stability under motion: Gupta et al., ICCV
2017, arXiv:1705.02092, here without films. Deviations are listed in docs/systems/stylization.md.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, ImageFiles, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.noise import Noise
from reverie.models.stylization.encoders import (
    LAYERS,
    Encoder,
    StyleTerms,
    activations,
    prepare_encoder,
    style_image,
    two_stages,
)
from reverie.nets.dcgan import clamp_pixels
from reverie.nets.perceptual import content_loss, gram, style_loss, total_variation
from reverie.nets.shapes import check_opaque, sides
from reverie.nets.stylization import StyleNet
from reverie.optim.phase import Metrics, Outputs, Stage

_SHIFT, _FLICKER = 8.0, 0.05  # largest motion in pixels, and noise, of the temporal loss


class StylePainter(nn.Module):
    """Paints in one style.

    Args:
        net: images (B, C, H, W) to images of the same size.
        output: of the images.
        style: file of an image of the style, read when training begins.
        style_size: pixels of its shorter side.
        encoder: whose activations define content and style.
        terms: weights of the loss.
        temporal_weight: of the temporal loss.
    """

    def __init__(
        self,
        net: nn.Module,
        output: Output,
        style: str,
        style_size: int,
        encoder: Encoder,
        terms: StyleTerms,
        temporal_weight: float,
    ):
        super().__init__()
        self.net, self.output, self.style, self.style_size = net, output, style, style_size
        self.encoder, self.terms, self.temporal_weight = encoder, terms, temporal_weight
        self.layers = LAYERS[encoder]
        for index, channels in enumerate(self.layers.values()):
            self.register_buffer(f"gram{index}", torch.zeros(1, channels, channels))

    @property
    def card(self) -> Card:
        return Card(self.output, {"source": self.output.channels}, weights=(self.encoder,))

    @property
    def grams(self) -> dict[str, Tensor]:
        """Gram matrices (1, C, C) of the style, by layer."""
        return {layer: self.get_buffer(f"gram{index}") for index, layer in enumerate(self.layers)}

    # Training

    def stages(self, lr: Weight = 2e-3, reconstruction: Annotated[float, Range(0, 0.9)] = 0.05) -> list[Stage]:
        """The network learns to return its image, which needs no encoder and is quick; then to paint.

        Args:
            lr: peak learning rate.
            reconstruction: share of the first stage of training.
        """
        losses = (self.reconstruction_loss, self.loss)
        return two_stages(self.net, lr, reconstruction, *losses, self.paint, self.measure_style)

    def reconstruction_loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Mean square error of the images."""
        return {"loss": F.mse_loss(self.net(batch["x"]).float(), batch["x"])}

    def measure_style(self, batches: Any = None, fresh: bool = True) -> None:
        """Fill the Gram matrices from the file of the style."""
        like = self.get_buffer("gram0")
        prepare_encoder(self.encoder, like)
        image = style_image(self.style, self.output.channels, "style", self.style_size).to(like)
        for layer, features in activations(self.encoder, image, self.layers).items():
            self.grams[layer].copy_(gram(features))

    def paint(self, batch: Batch) -> Outputs:
        """``painted``: the images of a batch in the style, (B, C, H, W)."""
        return {"painted": clamp_pixels(self.net(batch["x"]).float())}

    def loss(self, batch: Batch, outputs: Outputs) -> Metrics:
        """Content + style + total variation + temporal loss, each with its weight."""
        x, painted = batch["x"], outputs["painted"]
        with torch.no_grad():
            content = activations(self.encoder, x, list(self.layers)[2:3])
        features = activations(self.encoder, painted, self.layers)
        metrics = {
            "content": content_loss(features, content).mean(),
            "style": style_loss(features, self.grams).mean(),
            "tv": total_variation(painted).mean(),
        }
        loss = self.terms.total(metrics)
        if self.temporal_weight:
            metrics["temporal"] = self.temporal_loss(x, painted, batch.rng)
            loss = loss + self.temporal_weight * metrics["temporal"]
        return {"loss": loss, **metrics}

    def temporal_loss(self, x: Tensor, painted: Tensor, rng: Noise) -> Tensor:
        """Mean square difference of a moved result and the result of the moved, noisy image."""
        motion = rng.uniform(2, low=-_SHIFT, high=_SHIFT) * 2 / x.new_tensor(x.shape[:1:-1])  # (B, 2), in half sides
        turn = torch.eye(2, device=x.device).expand(len(x), 2, 2)
        grid = F.affine_grid(torch.cat([turn, motion[..., None]], 2), list(x.shape), align_corners=False)
        moved, expected = (
            F.grid_sample(image, grid, padding_mode="border", align_corners=False) for image in (x, painted)
        )
        noisy = moved + _FLICKER * rng(*x.shape[1:])
        return F.mse_loss(clamp_pixels(self.net(noisy).float()), expected)

    # Verbs

    def translation_pair(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The images of the data; no truth is known for them."""
        return batch["x"], None

    def features(self, image: Tensor) -> Tensor:
        """The evaluation of the network on images, for its layers."""
        return self.net(image)

    def translate(self, source: Tensor, noise: Noise | None = None, **condition: Any) -> Tensor:
        """Images (B, C, H, W) in the style: the same shape."""
        return self.stylize(source)

    def stylize(self, image: Tensor, style: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """Images (B, C, H, W) of any size in the style: the same shape."""
        return self.net(image).to(image.dtype).clamp(-1, 1)


def style_net(
    shape: Shape,
    channels: Channels,
    style: Annotated[str, ImageFiles()] = "",
    style_size: Annotated[int, Range(16, 2048)] = 256,
    encoder: Encoder = "vgg16",
    width: Count = 32,
    depth: Annotated[int, Range(0)] = 3,
    temporal_weight: Weight = 0.0,
    terms: StyleTerms = StyleTerms(),
) -> StylePainter:
    """A feed-forward network that paints any image in one style.

    Args:
        shape: (height, width) of the training images in pixels, or one number for squares.
        channels: 1 or 3.
        style: image file of the style; it is needed when training begins, never after.
        style_size: pixels of its shorter side: more make larger strokes.
        encoder: whose activations define content and style: vgg16, vgg19, or small, which ships with reverie.
        width: channels at a quarter of the resolution; twice as many at an eighth.
        depth: residual blocks at an eighth.
        temporal_weight: of the change of the result, mean square, under a small motion and noise of the image: above 0
            for films.
    """
    check_opaque(channels, "style-net")
    net = StyleNet(channels, width, depth)
    return StylePainter(
        net, Output("image", sides(shape), channels), style, style_size, encoder, terms, temporal_weight
    )
