"""A variational autoencoder (Kingma and Welling, ICLR 2014, arXiv:1312.6114) of images that are not square."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie import Card, Noise, Phase, Stage
from reverie.core.annotations import Channels, Classes, Shape
from reverie.core.batch import Batch
from reverie.core.card import Likelihood, Output, Space
from reverie.optim.phase import adamw


class WideVAE(nn.Module):
    """Grey values are read as probabilities of a 1.

    Args:
        shape: (H, W), multiples of 4.
        channels: of the images.
        latent: dimension of z.
        width: channels of the finest level.
    """

    def __init__(self, shape: Shape, channels: Channels, classes: Classes = 0, latent: int = 16, width: int = 32):
        super().__init__()
        coarse = (2 * width, shape[0] // 4, shape[1] // 4)
        features = coarse[0] * coarse[1] * coarse[2]
        self.shape, self.channels, self.latent_shape = tuple(shape), channels, (latent,)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(features, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, features),
            nn.Unflatten(1, coarse),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
        )

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape, self.channels),
            latents={"z": Space(self.latent_shape, "normal", "mean")},
            likelihoods=(Likelihood("elbo", "bound", "binary"),),
        )

    def stages(self, lr: float = 2e-3) -> list[Stage]:
        return [Stage([Phase("elbo", adamw(self.parameters(), lr), self.loss)])]

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """-ELBO per pixel."""
        nll, kl = self.terms(batch)
        return {"loss": (nll + kl).mean() / batch["x"][0].numel(), "nll": nll.mean(), "kl": kl.mean()}

    def terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A draw of -log p(x|z), and KL(q(z|x) || p(z)), nats (B,)."""
        x = batch["x"]
        mean, log_var = self.posterior(x)
        z = mean + (log_var / 2).exp() * batch.rng(*self.latent_shape).to(mean)
        nll = F.binary_cross_entropy_with_logits(self.decoder(z).to(x), (x + 1) / 2, reduction="none")
        kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var)
        return nll.flatten(1).sum(1), kl.sum(1)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.encoder(image).to(image).chunk(2, 1)
        return mean, log_var.clamp(-14, 8)

    # Verbs

    def elbo(self, batch: Batch) -> Tensor:
        """A bound of the log-probability of binary images, nats (B,)."""
        nll, kl = self.terms(batch)
        return -(nll + kl)

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to the posterior's mean (B, latent)."""
        return self.posterior(image)[0]

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """z (B, latent) to mean images (B, C, H, W)."""
        return torch.tanh(self.decoder(latent).to(latent) / 2)  # 2 sigmoid(logit) - 1

    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        return self.decode(noise(*self.latent_shape))
