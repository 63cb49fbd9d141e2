"""The variational autoencoder: an encoder to a distribution, a decoder from N(0, I).

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, arXiv:1312.6114.
Beta: Higgins et al., "beta-VAE", ICLR 2017. Free bits: Kingma et al., arXiv:1606.04934.
Perceptual loss: Hou et al., "Deep feature consistent variational autoencoder", WACV 2017, arXiv:1610.00291.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Fraction, Positive, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output, Space
from reverie.core.card import Likelihood as LikelihoodMethod
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.models.autoencoders.autoencoder import Networks
from reverie.models.autoencoders.perceptual import feature_error
from reverie.nets import shapes
from reverie.nets.unet import embed_label
from reverie.optim.phase import Phase, Stage, adamw
from reverie.probability.conditioning import check_label, drop_label, label_classes
from reverie.probability.likelihoods import LIKELIHOODS, Likelihood, LikelihoodName, kl_to_standard_normal

_EMBEDDING = 64
_SAMPLES = 32  # of the importance-weighted bound, where it is asked for


@dataclass(frozen=True)
class Bound:
    """The terms of the loss.

    Attributes:
        beta: weight of the KL term (1 = the evidence lower bound).
        kl_warmup: fraction of training over which beta rises from 0.
        free_bits: nats per latent and image below which the KL term has no gradient (clamped for each image, not for
            the batch's mean as in the paper, so that the loss does not depend on how a batch is split).
    """

    beta: Weight = 1.0
    kl_warmup: Fraction = 0.05
    free_bits: Weight = 0.0

    def loss(self, error: Tensor, kl: Tensor, progress: Tensor) -> Tensor:
        """Reconstruction error (B,) + beta KL, KL (B, latent) of each latent, in nats."""
        beta = self.beta * (progress / self.kl_warmup).clamp(max=1) if self.kl_warmup else self.beta
        clamped = kl.clamp(min=self.free_bits).sum(1) if self.free_bits else kl.sum(1)
        return error + beta * clamped


@dataclass(frozen=True)
class PerceptualLoss:
    """Differences of a pretrained network's activations in place of -log p(x|z); it is no likelihood.

    Attributes:
        weight: of the relative error of the activations, see ``feature_error``.
    """

    weight: float
    outputs: ClassVar[int] = 1

    def error(self, image: Tensor, output: Tensor) -> Tensor:
        """The weighted error of the image of a decoder's output (B,)."""
        return self.weight * feature_error(self.mean(output), image)

    def mean(self, output: Tensor) -> Tensor:
        """The image of a decoder's output, both (B, C, H, W)."""
        return torch.tanh(output / 2)


class VAE(nn.Module):
    """q(z|x) = N(mean, exp(log_var)), p(z) = N(0, I), and p(x|z) of the decoder's output.

    Args:
        encoder: images (B, C, H, W) to mean and log-variance (B, 2 latent).
        decoder: latents, with the class embedding where there is one, to the likelihood's parameters.
        likelihood: p(x | output), or a perceptual loss in its place: the model then has no ``elbo``.
        output: what it makes.
        latent: dimension of z.
        classes: number of classes that it is conditioned on; 0 for none.
        bound: weights of the loss.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood | PerceptualLoss,
        output: Output,
        latent: int,
        classes: int = 0,
        bound: Bound = Bound(),
    ):
        super().__init__()
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.output, self.latent_size, self.classes, self.bound = output, latent, classes, bound
        self.without = ("elbo",) if isinstance(likelihood, PerceptualLoss) else ()
        if classes:
            self.embedding = nn.Embedding(classes + 1, _EMBEDDING)  # the last row is the null condition
            self.to_statistics = nn.Linear(_EMBEDDING, 2 * latent)

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {}
        card = Card(
            output=self.output,
            conditions=conditions,
            columns=conditions.keys(),
            latents={"z": Space((self.latent_size,), "normal", "mean")},
        )
        if isinstance(self.likelihood, PerceptualLoss):
            return replace(card, weights=("vgg16",))
        kind = (self.likelihood.of, self.likelihood.dequantised)
        importance: Any = {"suffix": f"iw{_SAMPLES}", "evaluations": _SAMPLES, "options": {"samples": _SAMPLES}}
        methods = (LikelihoodMethod("elbo", "bound", *kind), LikelihoodMethod("elbo", "bound", *kind, **importance))
        return replace(card, likelihoods=methods)

    # Training

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        return [Stage([Phase("elbo", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """(error + beta KL) per dimension; ``kl`` in nats per image, with a likelihood also ``nll`` and ``elbo``."""
        label = drop_label(batch.get("label"), batch.rng) if self.classes else batch.get("label")
        error, kl = self.terms(batch["x"], batch.rng, label)
        loss = self.bound.loss(error, kl, batch.progress).mean() / batch["x"][0].numel()
        if isinstance(self.likelihood, PerceptualLoss):
            return {"loss": loss, "perceptual": error.mean() / self.likelihood.weight, "kl": kl.sum(1).mean()}
        return {"loss": loss, "nll": error.mean(), "kl": kl.sum(1).mean(), "elbo": -(error + kl.sum(1)).mean()}

    def terms(self, image: Tensor, rng: Noise, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The error of a reconstruction (B,) and the KL of each latent (B, latent), both in nats.

        The error is a one-sample estimate of E_q[-log p(x|z)], or a perceptual loss.
        """
        mean, log_var = self.posterior(image, label)
        z = mean + (log_var / 2).exp() * rng(self.latent_size).to(mean)
        output, kl = self.decoded(z, label), kl_to_standard_normal(mean, log_var)
        if isinstance(self.likelihood, PerceptualLoss):
            return self.likelihood.error(image, output), kl
        return self.likelihood.nll(image, output, rng), kl

    # Verbs

    def posterior(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, latent)."""
        statistics = self.encoder(image).to(image.dtype)
        if self.classes:
            statistics = statistics + self.to_statistics(self.embed(label, image)).to(image.dtype)
        mean, log_var = statistics.chunk(2, 1)
        return mean, log_var.clamp(-14, 8)

    def embed(self, label: Tensor | None, like: Tensor) -> Tensor:
        """(B, embedding); -1 or no label at all is the null condition."""
        return embed_label(self.embedding, label, len(like))

    def decoded(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z) (B, outputs C, H, W)."""
        if self.classes:
            z = torch.cat([z, self.embed(label, z).to(z.dtype)], 1)
        return self.decoder(z).to(z.dtype)

    def elbo(self, batch: Batch, samples: int = 1) -> Tensor:
        """Evidence lower bound, nats per image (B,), of 8-bit images or binary ones (see ``card``).

        Args:
            samples: 1 is the one-sample estimate with the KL term in closed form; more give the importance-weighted
                bound (Burda et al., arXiv:1509.00519), which rises towards log p(x) with their number.

        Raises:
            UsageError: the loss is perceptual.
        """
        if isinstance(self.likelihood, PerceptualLoss):
            raise UsageError("This VAE was trained with a perceptual loss: it models no p(x|z), and has no bound.")
        image, rng, label = batch["x"], batch.rng, batch.get("label")
        if samples == 1:
            nll, kl = self.terms(image, rng, label)
            return -(nll + kl.sum(1))
        mean, log_var = self.posterior(image, label)
        bound = torch.full((len(image),), -math.inf, dtype=torch.float64, device=image.device)
        for _ in range(samples):  # a fresh draw of the dequantisation in each: still a bound, and a tighter one
            noise = rng(self.latent_size).to(mean)
            z = mean + (log_var / 2).exp() * noise
            log_ratio = 0.5 * (noise.square() + log_var - z.square()).sum(1)  # log p(z) - log q(z|x)
            weight = log_ratio - self.likelihood.nll(image, self.decoded(z, label), rng)
            bound = torch.logaddexp(bound, weight.double())
        return bound - math.log(samples)

    def encode(self, image: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """(B, C, H, W) to the posterior's mean (B, latent)."""
        return self.posterior(image, label)[0]

    def features(self, image: Tensor) -> Tensor:
        """The encoder's output (B, 2 latent)."""
        return self.encoder(image)

    def decode(self, latent: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """Latents (B, latent) to the mean image (B, C, H, W)."""
        return self.likelihood.mean(self.decoded(latent, label))

    def latent(self, noise: Noise, **condition: Any) -> Tensor:
        """z (B, latent) of the images that ``sample`` makes."""
        return noise(self.latent_size)

    def sample(self, noise: Noise, label: Tensor | None = None, **condition: Any) -> Tensor:
        """z of N(0, I), decoded to the mean image (B, C, H, W).

        Raises:
            UsageError: a label that the model does not know.
        """
        check_label(label, self.classes)
        return self.decode(self.latent(noise), label)


def vae(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    latent: Count = 32,
    likelihood: LikelihoodName = "bernoulli",
    sigma: Positive = 0.1,
    loss: Literal["likelihood", "perceptual"] = "likelihood",
    perceptual_weight: Positive = 1500.0,
    conditional: Literal["none", "label"] = "none",
    bound: Bound = Bound(),
    networks: Networks = Networks(),
) -> VAE:
    """An encoder to N(mean, exp(log_var)), a prior N(0, I), and a decoder to one of five p(x|z).

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data.
        latent: dimension of z.
        likelihood: p(x|z): "bernoulli" (pixels as probabilities), "gaussian" (standard deviation ``sigma``), "learned"
            (a variance for every pixel), "logistic" (discretised to 8 bits) or "categorical" (256 levels). The two
            Gaussians model 8-bit images with uniform dequantisation.
        sigma: standard deviation of the "gaussian" likelihood, on images that span 2.
        loss: "likelihood" (-log p(x|z)), or "perceptual" (differences of VGG-16's activations; downloaded once), which
            gives sharper images and models no likelihood.
        perceptual_weight: of that loss beside the KL term; more keeps more of the image, and leaves N(0, I) emptier.
        conditional: "none", or "label" to model p(x | label).
    """
    size, count = shapes.sides(shape), label_classes(conditional, classes)
    if loss == "perceptual" and likelihood != "bernoulli":
        raise UsageError(f"{argument('loss', loss)} models no likelihood; omit {argument('likelihood')}.")
    of_output = PerceptualLoss(perceptual_weight) if loss == "perceptual" else LIKELIHOODS[likelihood](sigma)
    encoder = networks.encoder(size, channels, 2 * latent)
    decoder = networks.decoder(size, of_output.outputs * channels, latent + (_EMBEDDING if count else 0))
    return VAE(encoder, decoder, of_output, Output("image", size, channels), latent, count, bound)
