"""Denoising autoencoders: the input is corrupted, the target is the clean image.

Vincent et al., "Stacked denoising autoencoders", JMLR 2010.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.models.autoencoders.autoencoder import NETWORKS, Autoencoder, Loss, Networks, autoencoder, inner
from reverie.optim.phase import Phase, Stage, adamw

Corruption = Literal["gaussian", "masking", "salt-and-pepper"]


def corrupt(image: Tensor, rng: Noise, corruption: Corruption, level: float) -> Tensor:
    """x to its corrupted x~, both in [-1, 1].

    Args:
        corruption: "gaussian" adds N(0, level^2); "masking" blacks out a fraction ``level`` of the pixels;
            "salt-and-pepper" sets that fraction to white or black, evenly.
    """
    height, width = image.shape[-2:]
    if corruption == "gaussian":
        return (image + level * rng(*image.shape[1:])).clamp(-1, 1)
    hit = rng.bernoulli(level, 1, height, width)
    if corruption == "masking":
        return image.masked_fill(hit, -1)
    return torch.where(hit, rng.bernoulli(0.5, 1, height, width).to(image.dtype) * 2 - 1, image)


class DenoisingAutoencoder(nn.Module):
    """An autoencoder trained to map corrupted images to clean ones.

    Args:
        autoencoder: encodes and decodes.
        corruption: of its input, see ``corrupt``.
        level: how strong that is.
    """

    def __init__(self, autoencoder: Autoencoder, corruption: Corruption, level: float):
        super().__init__()
        self.autoencoder, self.corruption, self.level = autoencoder, corruption, level

    @property
    def card(self) -> Card:
        return replace(self.autoencoder.card, networks=NETWORKS, restores=("denoise",))

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        return [Stage([Phase("denoise", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Distance from the reconstruction of the corrupted image to the clean one, mean over pixels."""
        return {"loss": self.autoencoder.reconstruction_loss(self.corrupt(batch["x"], batch.rng), batch["x"])}

    def corrupt(self, image: Tensor, rng: Noise) -> Tensor:
        """The corruption that this model was trained to undo."""
        return corrupt(image, rng, self.corruption, self.level)

    encode, features = inner(Autoencoder.encode), inner(Autoencoder.features)
    decode, sample = inner(Autoencoder.decode), inner(Autoencoder.sample)


def denoising_autoencoder(
    shape: Shape,
    channels: Channels,
    corruption: Corruption = "gaussian",
    corruption_level: Weight = 0.5,
    latent: Count = 64,
    loss: Loss = "mse",
    networks: Networks = Networks(),
) -> DenoisingAutoencoder:
    """An autoencoder trained to map corrupted images to clean ones.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        corruption: "gaussian" noise, "masking" (black pixels) or "salt-and-pepper" (black and white ones).
        corruption_level: standard deviation of the noise (images span 2), or fraction of the pixels.
        latent: numbers in a latent.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities,
            "perceptual" relative error of VGG-16's activations.
    """
    if corruption != "gaussian" and corruption_level > 1:
        name = argument("corruption_level")
        raise UsageError(f"{name} is a fraction of the pixels, from 0 to 1, not {corruption_level}.")
    inner = autoencoder(shape, channels, latent, loss, networks)
    return DenoisingAutoencoder(inner, corruption, corruption_level)
