"""Autoencoders: h = f(x), x' = g(h), trained to make x' equal x.

Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.noise import Noise
from reverie.models.autoencoders.perceptual import feature_error
from reverie.nets import shapes
from reverie.nets.convolutional import Decoder, Encoder
from reverie.nets.dense import mlp
from reverie.optim.phase import Phase, Stage, adamw

Loss = Literal["mse", "l1", "bce", "perceptual"]


@dataclass(frozen=True)
class Networks:
    """Encoder and decoder.

    Attributes:
        net: "conv", or "dense" (``hidden=()`` makes both halves one linear map, whose subspace is PCA's).
        width: channels of the convolutional networks' finest level.
        depth: residual blocks a level.
        hidden: layer sizes of the dense encoder; the decoder mirrors them.
    """

    net: Literal["conv", "dense"] = "conv"
    width: Count = 64
    depth: Annotated[int, Range(0)] = 1
    hidden: Annotated[tuple[int, ...], Range(1)] = (512, 256)

    def encoder(self, shape: shapes.Shape, channels: int, outputs: int) -> nn.Module:
        """(B, channels, *shape) to (B, outputs)."""
        if self.net == "conv":
            return Encoder(shape, channels, outputs, self.width, self.depth)
        return nn.Sequential(nn.Flatten(), mlp([channels * math.prod(shape), *self.hidden, outputs]))

    def decoder(self, shape: shapes.Shape, channels: int, inputs: int) -> nn.Module:
        """(B, inputs) to (B, channels, *shape)."""
        if self.net == "conv":
            return Decoder(shape, channels, inputs, self.width, self.depth)
        sizes = [inputs, *reversed(self.hidden), channels * math.prod(shape)]
        return nn.Sequential(mlp(sizes), nn.Unflatten(1, (channels, *shape)))


class Autoencoder(nn.Module):
    """A deterministic latent and its image.

    Args:
        encoder: images (B, C, H, W) to latents (B, latent).
        decoder: latents to images.
        output: what it makes.
        latent: numbers in a latent.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities,
            "perceptual" relative error of VGG-16's activations.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, output: Output, latent: int, loss: Loss = "mse"):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.output, self.latent_size, self.kind = output, latent, loss

    @property
    def card(self) -> Card:
        return Card(
            output=self.output,
            latents={"z": Space((self.latent_size,), encode="exact")},
            weights=("vgg16",) if self.kind == "perceptual" else (),
            caution="Note: an autoencoder is not trained to decode N(0, I); poor samples are the lesson. A vae is.",
        )

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        return [Stage([Phase("reconstruct", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Reconstruction loss, mean over pixels."""
        return {"loss": self.reconstruction_loss(batch["x"], batch["x"])}

    def reconstruction_loss(self, image: Tensor, target: Tensor) -> Tensor:
        """How far the reconstruction of an image is from a target, mean over pixels."""
        return self.error(self.decoder(self.encoder(image)).float(), target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """How far the image of a decoder's output is from a target, mean over pixels."""
        if self.kind == "perceptual":
            return feature_error(torch.tanh(output / 2), target).mean()
        if self.kind == "bce":
            return F.binary_cross_entropy_with_logits(output, target.add(1).div(2))
        return F.mse_loss(output, target) if self.kind == "mse" else F.l1_loss(output, target)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to latents (B, latent)."""
        return self.encoder(image).float()

    def features(self, image: Tensor) -> Tensor:
        """The encoder's output (B, latent)."""
        return self.encoder(image)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, latent) to images (B, C, H, W)."""
        output = self.decoder(latent).float()
        bounded = self.kind in ("bce", "perceptual")
        return torch.tanh(output / 2) if bounded else output.clamp(-1, 1)  # 2 sigmoid(x) - 1 = tanh(x / 2)

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """Decode N(0, I). Nothing in training put the latents there: this is why an autoencoder is no generator."""
        return self.decode(noise(self.latent_size))


NETWORKS = ("autoencoder.encoder", "autoencoder.decoder")  # of a model around an ``Autoencoder``, for its card


def inner(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of ``Autoencoder`` as the method of a model whose attribute ``autoencoder`` is one."""

    @functools.wraps(method)
    def outer(model: Any, *arguments: Any, **options: Any) -> Any:
        return method(model.autoencoder, *arguments, **options)

    return outer


def autoencoder(
    shape: Shape, channels: Channels, latent: Count = 32, loss: Loss = "mse", networks: Networks = Networks()
) -> Autoencoder:
    """A deterministic latent and its image.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        latent: numbers in a latent.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities,
            "perceptual" relative error of VGG-16's activations.
    """
    size = shapes.sides(shape)
    encoder, decoder = networks.encoder(size, channels, latent), networks.decoder(size, channels, latent)
    return Autoencoder(encoder, decoder, Output("image", size, channels), latent, loss)
