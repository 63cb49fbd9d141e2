"""Stacked autoencoders: dense layers that are trained one by one, then together.

Bengio, Lamblin, Popovici and Larochelle, "Greedy layer-wise training of deep networks", NeurIPS 2006. Each layer may be
a denoiser: Vincent et al., "Stacked denoising autoencoders", JMLR 2010. Fine-tuning of the whole: Hinton and
Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 2006.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Count, Fraction, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card
from reverie.core.noise import Noise
from reverie.models.autoencoders.autoencoder import NETWORKS, Autoencoder, Networks, autoencoder, inner
from reverie.optim.phase import Phase, Stage, adamw


class StackedAutoencoder(nn.Module):
    """Layer k is first trained to restore the activations of layer k - 1, in a stage of its own.

    Args:
        autoencoder: of ``Networks`` "dense": linear layers with SiLU in between, mirrored in the decoder.
        corruption_level: fraction of a layer's inputs that masking noise hides in its stage.
    """

    def __init__(self, autoencoder: Autoencoder, corruption_level: float = 0.0):
        super().__init__()
        self.autoencoder, self.corruption_level = autoencoder, corruption_level

    @property
    def card(self) -> Card:
        return replace(self.autoencoder.card, networks=NETWORKS)

    @property
    def halves(self) -> tuple[nn.Sequential, nn.Sequential]:
        """The layers of the encoder and of the decoder, each a linear map, with its activation except for the last."""
        encoder, decoder = self.autoencoder.encoder, self.autoencoder.decoder
        return encoder[1], decoder[0]  # type: ignore[index]

    @property
    def depth(self) -> int:
        """Layers of the encoder."""
        return (len(self.halves[0]) + 1) // 2

    def layer(self, level: int) -> tuple[nn.Sequential, nn.Sequential]:
        """A layer of the encoder with its activation, and the layer of the decoder that mirrors it."""
        encoder, decoder = self.halves
        mirrored = self.depth - 1 - level
        first, second = (slice(2 * index, 2 * index + 2) for index in (level, mirrored))
        return encoder[first], decoder[second]  # type: ignore[return-value]

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        """A stage for each layer, from the image upwards, and as many steps as all of these for the whole."""
        stages = []
        for level in range(self.depth):
            optimizer = adamw((p for half in self.layer(level) for p in half.parameters()), lr, weight_decay)
            stages.append(Stage([Phase("layer", optimizer, partial(self.layer_loss, level))], f"layer-{level + 1}"))
        everything = Phase("reconstruct", adamw(self.parameters(), lr, weight_decay), self.loss)
        return [*stages, Stage([everything], "fine-tuning", share=self.depth)]

    def layer_loss(self, level: int, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Distance from what a layer and its mirror restore of its masked inputs to the inputs, mean over units."""
        encode, decode = self.layer(level)
        with torch.no_grad():
            below = self.halves[0][: 2 * level](batch["x"].flatten(1)).float()
        output = decode(encode(self.masked(below, batch.rng, -1.0 if level == 0 else 0.0))).float()
        return {"loss": F.mse_loss(output, below) if level else self.autoencoder.error(output, below)}

    def masked(self, x: Tensor, rng: Noise, value: float) -> Tensor:
        """Values (B, units) of which masking noise sets a fraction to ``value``: black of pixels, 0 of activations."""
        return x.masked_fill(rng.bernoulli(self.corruption_level, x.shape[1]), value) if self.corruption_level else x

    loss = inner(Autoencoder.loss)

    # Verbs

    encode, features = inner(Autoencoder.encode), inner(Autoencoder.features)
    decode, sample = inner(Autoencoder.decode), inner(Autoencoder.sample)


def stacked_autoencoder(
    shape: Shape,
    channels: Channels,
    latent: Count = 32,
    hidden: Annotated[tuple[int, ...], Range(1)] = (512, 256),
    corruption_level: Fraction = 0.25,
    loss: Literal["mse", "l1", "bce"] = "mse",
) -> StackedAutoencoder:
    """Dense layers that are trained one by one, each to restore the activations of the layer below, then together.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        latent: numbers in a latent.
        hidden: units of the encoder's layers between image and latent; the decoder mirrors them.
        corruption_level: fraction of a layer's inputs that masking noise hides while it is trained alone (pixels become
            black, activations 0); 0 for none.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with pixels as probabilities.
    """
    inner = autoencoder(shape, channels, latent, loss, Networks("dense", hidden=hidden))
    return StackedAutoencoder(inner, corruption_level)
