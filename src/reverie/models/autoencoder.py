"""Autoencoders: h = f(x), x' = g(h), trained to make x' equal x.

Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006.
Vincent et al., "Stacked denoising autoencoders", JMLR 2010.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.nets.convolutional import Decoder, Encoder
from reverie.nets.dense import mlp
from reverie.nets.shapes import Shape, Sides, sides
from reverie.optim.phase import Phase, Stage, adamw


def coder(
    net: str,
    shape: Shape,
    channels: int,
    inputs: int,
    outputs: int,
    width: int,
    depth: int,
    hidden: Sequence[int],
    maps: int,
) -> tuple[nn.Module, nn.Module]:
    """An encoder (B, channels, *shape) -> (B, outputs) and a decoder (B, inputs) -> (B, maps, *shape)."""
    if net == "conv":
        return Encoder(shape, channels, outputs, width, depth), Decoder(shape, maps, inputs, width, depth)
    if net == "dense":
        pixels = math.prod(shape)
        encoder = nn.Sequential(nn.Flatten(), mlp([channels * pixels, *hidden, outputs]))
        decoder = nn.Sequential(mlp([inputs, *reversed(hidden), maps * pixels]), nn.Unflatten(1, (maps, *shape)))
        return encoder, decoder
    raise UsageError(f"net is 'conv' or 'dense', not {net!r}.")


class Autoencoder(nn.Module):
    """A deterministic code and its picture.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        latent: numbers in the code.
        net: "conv", or "dense" (``hidden=()`` makes both halves one linear map, whose subspace is PCA's).
        width: channels of the convolutional network's finest level.
        depth: residual blocks a level.
        hidden: layer sizes of the dense encoder; the decoder mirrors them.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        latent: int = 32,
        net: Literal["conv", "dense"] = "conv",
        width: int = 64,
        depth: int = 1,
        hidden: tuple[int, ...] = (512, 256),
        loss: Literal["mse", "l1", "bce"] = "mse",
    ):
        super().__init__()
        if loss not in ("mse", "l1", "bce"):
            raise UsageError(f"loss is 'mse', 'l1' or 'bce', not {loss!r}.")
        if latent < 1:
            raise UsageError(f"latent must be at least 1, not {latent}.")
        self.shape, self.channels, self.latent_shape, self.kind = sides(shape), channels, (latent,), loss
        self.encoder, self.decoder = coder(net, self.shape, channels, latent, latent, width, depth, hidden, channels)

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape, self.channels),
            latents={"z": Space(self.latent_shape, encode="exact")},
            caution="Note: an autoencoder is not trained to decode N(0, I); poor images are the lesson. A vae is.",
        )

    def stages(self, lr: float = 2e-3, weight_decay: float = 0.0) -> list[Stage]:
        return [Stage([Phase("reconstruct", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Reconstruction loss, mean over pixels."""
        return {"loss": self.distance(self.decoder(self.encoder(batch["x"])).float(), batch["x"])}

    def distance(self, output: Tensor, image: Tensor) -> Tensor:
        """The decoder's raw output (logits for "bce") against the clean picture."""
        if self.kind == "bce":
            return F.binary_cross_entropy_with_logits(output, image.add(1).div(2))
        return F.mse_loss(output, image) if self.kind == "mse" else F.l1_loss(output, image)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to codes (B, latent)."""
        return self.encoder(image).float()

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Codes (B, latent) to pictures (B, C, H, W)."""
        output = self.decoder(latent).float()
        return torch.tanh(output / 2) if self.kind == "bce" else output.clamp(-1, 1)  # 2 sigmoid(x) - 1 = tanh(x / 2)

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """Decode N(0, I). Nothing in training put the codes there: this shows *why* an autoencoder is no generator."""
        return self.decode(noise(*self.latent_shape))


def corrupt(image: Tensor, rng: Noise, corruption: str, strength: float) -> Tensor:
    """x to its corrupted x~, both in [-1, 1].

    Args:
        corruption: "gaussian" adds N(0, strength^2); "masking" blacks out a fraction ``strength`` of the pixels;
            "salt-and-pepper" sets that fraction to white or black, evenly.
    """
    height, width = image.shape[-2:]
    if corruption == "gaussian":
        return (image + strength * rng(*image.shape[1:])).clamp(-1, 1)
    hit = rng.bernoulli(strength, 1, height, width)
    if corruption == "masking":
        return image.masked_fill(hit, -1)
    if corruption == "salt-and-pepper":
        return torch.where(hit, rng.bernoulli(0.5, 1, height, width).to(image.dtype) * 2 - 1, image)
    raise UsageError(f"corruption is 'gaussian', 'masking' or 'salt-and-pepper', not {corruption!r}.")


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that sees corrupted pictures and must return the clean ones.

    Args:
        corruption: "gaussian", "masking" or "salt-and-pepper".
        strength: standard deviation (gaussian, pictures span 2) or fraction of pixels (the others).
        more: as for ``Autoencoder``.
    """

    tasks = ("denoise",)

    def __init__(
        self,
        shape: Sides,
        channels: int,
        corruption: Literal["gaussian", "masking", "salt-and-pepper"] = "gaussian",
        strength: float = 0.5,
        latent: int = 64,
        **more: Any,
    ):
        super().__init__(shape, channels, latent, **more)
        if corruption != "gaussian" and not 0 <= strength <= 1:
            raise UsageError(f"strength is a fraction of the pixels, from 0 to 1, not {strength}.")
        self.corruption, self.strength = corruption, strength
        self.corrupt(torch.zeros(1, channels, 1, 1), Noise.of_seeds([0]))  # an unknown corruption fails here, not later

    def corrupt(self, image: Tensor, rng: Noise) -> Tensor:
        """The corruption that this model was trained to undo."""
        return corrupt(image, rng, self.corruption, self.strength)

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Distance from the reconstruction of the corrupted picture to the clean one, mean over pixels."""
        corrupted = self.corrupt(batch["x"], batch.rng)
        return {"loss": self.distance(self.decoder(self.encoder(corrupted)).float(), batch["x"])}

    def restore(self, image: Tensor, task: str = "denoise", **condition: Any) -> Tensor:
        """A corrupted picture to the clean one that the model believes in: (B, C, H, W) to (B, C, H, W)."""
        if task not in self.tasks:
            raise UsageError(f"This model restores {', '.join(self.tasks)}; not {task!r}.")
        return self.decode(self.encode(image))
