"""TarFlow: a normalizing flow of causal transformers over patches, trained on images with Gaussian noise.

Zhai et al., "Normalizing flows are capable generative models", ICML 2025, arXiv:2412.06329. A sample of the density of
noisy images is cleaned by one step along its score. Deviations are listed in docs/systems/tarflow.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.models.flows.base import NormalizingFlow
from reverie.nets import shapes
from reverie.nets.transformer import heads_of
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.autoregression import PatchAutoregression, PatchFlow
from reverie.probability.conditioning import check_label, drop_label, label_classes, random_label
from reverie.probability.dequantisation import UniformDequantiser


class GaussianNoise(nn.Module):
    """Images plus N(0, sigma^2): the density is that of noisy images, no bound of the probability of 8-bit levels."""

    variational = False

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, image: Tensor, label: Tensor | None, rng: Noise) -> tuple[Tensor, Tensor]:
        noisy = image + self.sigma * rng(*image.shape[1:]).to(image)
        return noisy, image.new_zeros(len(image))


class TarFlow(nn.Module):
    """A flow of noisy images whose samples are guided and cleaned.

    Args:
        flow: of a ``PatchFlow``; its dequantiser is a ``GaussianNoise``, or with sigma 0 uniform.
        sigma: of the noise.
    """

    def __init__(self, flow: NormalizingFlow, sigma: float):
        super().__init__()
        self.flow, self.sigma, self.classes = flow, sigma, flow.classes

    @property
    def card(self) -> Card:
        card = replace(self.flow.card, networks=tuple(f"flow.transform.steps.{i}" for i in range(self.depth)))
        if not self.sigma:
            return card
        return replace(card, likelihoods=(Likelihood("log_prob", "exact", "density", suffix="noisy"),))

    @property
    def depth(self) -> int:
        """Steps of the flow."""
        return len(self.flow.transform.steps)  # type: ignore[arg-type]

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        return [Stage([Phase("nll", Muon(self, lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: object = None) -> dict[str, Tensor]:
        """-log p of noisy images in nats per dimension; with sigma 0 the bound of 8-bit ones in bits per dimension."""
        if not self.sigma:
            return self.flow.loss(batch)
        label = drop_label(batch.get("label"), batch.rng) if self.classes else None
        x, _ = self.flow.dequantiser(batch["x"], label, batch.rng)
        return {"loss": -self.flow.log_density(x, label).mean() / self.flow.dimensions}

    # Verbs

    def log_prob(self, batch: Batch, samples: Count = 1) -> Tensor:
        """log p of noisy images, exact, nats (B,); with sigma 0 a lower bound of log P of 8-bit images.

        Args:
            samples: of the dequantisation noise: see ``NormalizingFlow.log_prob``.
        """
        return self.flow.log_prob(batch, samples)

    def encode(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to z (B, D), exactly."""
        return self.flow.encode(image, label)

    def features(self, image: Tensor) -> Tensor:
        """As ``encode``: the layers are those of the transformers."""
        return self.flow.encode(image)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, D) to images (B, C, H, W) in [-1, 1], the inverse of ``encode``: not cleaned."""
        return self.flow.decode(latent, label)

    def latent(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """z (B, D) of N(0, I)."""
        return self.flow.latent(noise)

    def sample(
        self,
        noise: Noise,
        label: Tensor | None = None,
        guidance: Weight = 1.0,
        temperature: Weight = 0.9,
        denoise: bool = True,
    ) -> Tensor:
        """Images (B, C, H, W); no label is a random one.

        Args:
            guidance: how far shifts and log-scales are extrapolated from those of any class to those of the label, in
                full at the last patch of each step; 1: not.
            temperature: standard deviation of z; below 1 the images are more typical and less varied. At 1 samples are
                those of the density; likelihoods are always of 1.
            denoise: remove the noise that the flow was trained with, by one step along the score.
        """
        check_label(label, self.classes)
        if guidance != 1 and not self.classes:
            train = argument("conditional", "label")
            raise UsageError(f"Guidance strengthens a class, and this model has none. Train with {train}.")
        z = self.latent(noise) * temperature
        label = random_label(noise, label, self.classes)
        x = self.flow.transform.inverse(z, label, guidance)  # type: ignore[operator]
        return (self.denoised(x, label) if denoise else x).clamp(-1, 1)

    def denoised(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """E[clean | x] = x + sigma^2 grad log p(x) of noisy images (B, C, H, W) (Tweedie's formula)."""
        if not self.sigma:
            return x
        with torch.enable_grad(), torch.inference_mode(False):
            leaf = x.detach().clone().requires_grad_(True)
            (score,) = torch.autograd.grad(self.flow.log_density(leaf, label).sum(), leaf)
        return x + self.sigma**2 * score


def tarflow(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    patch_size: Count = 4,
    width: Count = 128,
    depths: Annotated[tuple[int, ...], Range(1)] = (1, 1, 1, 5),
    sigma: Weight = 0.1,
    conditional: Literal["none", "label"] = "none",
) -> TarFlow:
    """A flow whose every step is a causal transformer over patches.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        patch_size: side in pixels of the squares that are one token.
        width: channels of a token.
        depths: blocks of the transformer of each step of the flow, from the image to z; the steps go from the first
            patch to the last and back in turns. Most of the network belongs into the last, which is sampled first (Gu
            et al., "STARFlow", arXiv:2506.06276).
        sigma: standard deviation of the noise in training, of images in [-1, 1]; 0: uniform noise over the bins of
            8-bit levels, whose likelihood is a bound.
        conditional: "label": the transformers get the class.
    """
    size, labels = shapes.sides(shape), label_classes(conditional, classes)
    if not depths:
        raise UsageError(f"{argument('depths')} needs at least one step's blocks.")
    if not shapes.divides(patch_size, size):
        fits = ", ".join(str(side) for side in range(1, min(size) + 1) if shapes.divides(side, size))
        raise UsageError(
            f"{argument('patch_size', patch_size)} does not divide {shapes.named(size)}. Here it can be {fits}."
        )

    def step(index: int) -> PatchAutoregression:
        odd, depth = index % 2, depths[index]
        offset = odd * patch_size // 2  # so that every border of patches is inside a patch of the next step
        return PatchAutoregression(
            (channels, *size), patch_size, width, depth, heads_of(width), labels, bool(odd), offset
        )

    noise = GaussianNoise(sigma) if sigma else UniformDequantiser()
    output = Output("image", size, channels)
    transform = PatchFlow([step(index) for index in range(len(depths))], (channels, *size))
    return TarFlow(NormalizingFlow(transform, output, noise, labels), sigma)
