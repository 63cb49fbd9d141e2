"""The variational autoencoder: an encoder to a distribution, a decoder from N(0, I).

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, arXiv:1312.6114.
Beta: Higgins et al., "beta-VAE", ICLR 2017. Free bits: Kingma et al., arXiv:1606.04934.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.models.autoencoder import coder
from reverie.models.conditioning import label_classes
from reverie.nets.shapes import Sides, sides
from reverie.nets.unet import embed_label
from reverie.optim.phase import Phase, Stage, adamw

_LOG_2PI = math.log(2 * math.pi)
_EMBEDDING = 64
_SAMPLES = 32  # of the importance-weighted bound, where it is asked for
_NULL_RATE = 0.1  # how often training hides the label, so that the null condition means "any class"


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each latent, in nats, same shape as its arguments."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def gaussian_nll(x: Tensor, mean: Tensor, log_var: Tensor | float) -> Tensor:
    """-log N(x; mean, exp(log_var)) of each element, in nats."""
    log_var = torch.as_tensor(log_var, dtype=mean.dtype, device=mean.device)
    return 0.5 * ((x - mean).square() * (-log_var).exp() + log_var + _LOG_2PI)


class VAE(nn.Module):
    """q(z|x) = N(mean, exp(log_var)), p(z) = N(0, I), and one of three p(x|z).

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data.
        latent: dimension of z.
        decoder: "bernoulli" (pixels as probabilities), "gaussian" (variance ``sigma``^2), "learned" (a variance for
            every pixel, from the decoder). The two Gaussians model 8-bit pictures with uniform dequantisation.
        sigma: standard deviation of the "gaussian" decoder, on pictures that span 2.
        beta: weight of the KL term in the loss (1 = the evidence lower bound).
        kl_warmup: fraction of training over which beta rises from 0.
        free_bits: nats per latent and picture below which the KL term is not pressed (clamped for each picture, not for
            the batch's mean as in the paper, so that the loss does not depend on how a batch is split).
        conditional: "none", or "label" to model p(x | label).
        net: "conv" or "dense" networks.
        width: channels of the convolutional networks' finest level.
        depth: residual blocks a level.
        hidden: layer sizes of the dense encoder; the decoder mirrors them.
    """

    def __init__(
        self,
        shape: Sides,
        channels: int,
        classes: int = 0,
        latent: int = 32,
        decoder: Literal["bernoulli", "gaussian", "learned"] = "bernoulli",
        sigma: float = 0.1,
        beta: float = 1.0,
        kl_warmup: float = 0.05,
        free_bits: float = 0.0,
        conditional: Literal["none", "label"] = "none",
        net: Literal["conv", "dense"] = "conv",
        width: int = 64,
        depth: int = 1,
        hidden: tuple[int, ...] = (512, 256),
    ):
        super().__init__()
        if decoder not in ("bernoulli", "gaussian", "learned"):
            raise UsageError(f"decoder is 'bernoulli', 'gaussian' or 'learned', not {decoder!r}.")
        if latent < 1 or beta < 0 or sigma <= 0 or not 0 <= kl_warmup <= 1 or free_bits < 0:
            raise UsageError("latent >= 1, beta >= 0, sigma > 0, 0 <= kl_warmup <= 1 and free_bits >= 0 are needed.")
        self.shape, self.channels, self.latent_shape = sides(shape), channels, (latent,)
        self.kind, self.sigma, self.beta, self.kl_warmup, self.free_bits = decoder, sigma, beta, kl_warmup, free_bits
        self.classes = label_classes(conditional, classes)
        extra = _EMBEDDING if self.classes else 0
        maps = 2 * channels if decoder == "learned" else channels
        self.encoder, self.decoder = coder(
            net, self.shape, channels, latent + extra, 2 * latent, width, depth, hidden, maps
        )
        if self.classes:
            self.embedding = nn.Embedding(self.classes + 1, _EMBEDDING)  # the last row is the null condition
            self.to_statistics = nn.Linear(_EMBEDDING, 2 * latent)

    @property
    def card(self) -> Card:
        # a Bernoulli decoder is a model of binary images, grey read as a probability
        of: Any = ("binary", False) if self.kind == "bernoulli" else ("8-bit", True)
        importance: Any = {"suffix": f"iw{_SAMPLES}", "evaluations": _SAMPLES, "options": {"samples": _SAMPLES}}
        conditions = {"label": self.classes} if self.classes else {}
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions=conditions,
            columns=conditions.keys(),
            latents={"z": Space(self.latent_shape, "normal", "mean")},
            likelihoods=(Likelihood("elbo", "bound", *of), Likelihood("elbo", "bound", *of, **importance)),
        )

    # Learning

    def stages(self, lr: float = 2e-3, weight_decay: float = 0.0) -> list[Stage]:
        return [Stage([Phase("elbo", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """(reconstruction + beta KL) per dimension; ``nll``, ``kl`` and ``elbo`` in nats per image."""
        label = batch.get("label")
        if self.classes and label is not None:
            label = label.masked_fill(batch.rng.bernoulli(_NULL_RATE), -1)
        nll, kl = self.terms(batch["x"], batch.rng, label)
        beta = self.beta * (batch.progress / self.kl_warmup).clamp(max=1) if self.kl_warmup else self.beta
        pressed = kl.clamp(min=self.free_bits).sum(1) if self.free_bits else kl.sum(1)
        dimensions = batch["x"][0].numel()
        loss = (nll + beta * pressed).mean() / dimensions
        return {"loss": loss, "nll": nll.mean(), "kl": kl.sum(1).mean(), "elbo": -(nll + kl.sum(1)).mean()}

    def terms(self, image: Tensor, rng: Noise, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One-sample estimate of E_q[-log p(x|z)], nats per image (B,), and the KL of each latent (B, latent)."""
        mean, log_var = self.posterior(image, label)
        z = mean + (log_var / 2).exp() * rng(*self.latent_shape).to(mean)
        return self.nll(image, self.output(z, label), rng), kl_to_standard_normal(mean, log_var)

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        """-log p(x|z) from the decoder's raw output, nats per image (B,)."""
        if self.kind == "bernoulli":
            nats = F.binary_cross_entropy_with_logits(output, image.add(1).div(2), reduction="none")
            return nats.flatten(1).sum(1)
        # P(8-bit x) >= exp E_u log p(x + u), u uniform over the pixel's bin of width 1/127.5 (Theis et al. 2016)
        x = image + rng.uniform(*image.shape[1:], low=-0.5, high=0.5).to(image) / 127.5
        if self.kind == "gaussian":
            nats = gaussian_nll(x, output, 2 * math.log(self.sigma))
        else:
            mean, raw = output.chunk(2, 1)
            nats = gaussian_nll(x, mean, 5 * torch.tanh(raw / 5) - 4.5)  # sigma from 0.009 (one grey level) to 1.3
        return (nats + math.log(127.5)).flatten(1).sum(1)

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

    def output(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """The decoder's raw output: logits, a mean, or a mean and a raw log-variance."""
        if self.classes:
            z = torch.cat([z, self.embed(label, z).to(z.dtype)], 1)
        return self.decoder(z).to(z.dtype)

    def elbo(self, batch: Batch, samples: int = 1) -> Tensor:
        """Evidence lower bound, nats per image (B,), of 8-bit images or binary ones (see ``card``).

        Args:
            samples: 1 is the one-sample estimate with the KL term in closed form; more give the importance-weighted
                bound (Burda et al., arXiv:1509.00519), which rises towards log p(x) with their number.
        """
        image, rng, label = batch["x"], batch.rng, batch.get("label")
        if samples == 1:
            nll, kl = self.terms(image, rng, label)
            return -(nll + kl.sum(1))
        mean, log_var = self.posterior(image, label)
        bound = torch.full((len(image),), -math.inf, dtype=torch.float64, device=image.device)
        for _ in range(samples):  # a fresh draw of the dequantisation in each: still a bound, and a tighter one
            noise = rng(*self.latent_shape).to(mean)
            z = mean + (log_var / 2).exp() * noise
            log_ratio = 0.5 * (noise.square() + log_var - z.square()).sum(1)  # log p(z) - log q(z|x)
            weight = log_ratio - self.nll(image, self.output(z, label), rng)
            bound = torch.logaddexp(bound, weight.double())
        return bound - math.log(samples)

    def encode(self, image: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """(B, C, H, W) to the posterior's mean (B, latent)."""
        return self.posterior(image, label)[0]

    def decode(self, latent: Tensor, label: Tensor | None = None, **condition: Any) -> Tensor:
        """Latents (B, latent) to the mean picture (B, C, H, W)."""
        output = self.output(latent, label)
        if self.kind == "bernoulli":
            return torch.tanh(output / 2)  # 2 sigmoid(logit) - 1
        return (output.chunk(2, 1)[0] if self.kind == "learned" else output).clamp(-1, 1)

    def sample(self, noise: Noise, label: Tensor | None = None, **condition: Any) -> Tensor:
        """z of N(0, I), decoded to the mean picture (B, C, H, W).

        Raises:
            UsageError: a label that the model does not know.
        """
        if label is not None and self.classes and int(label.max()) >= self.classes:
            raise UsageError(f"Labels run from 0 to {self.classes - 1}; {int(label.max())} was asked for.")
        return self.decode(noise(*self.latent_shape), label)
