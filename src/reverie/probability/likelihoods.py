"""Likelihoods of decoders: -log p(x | output), and the expected image.

Images are 8-bit levels in [-1, 1], k / 127.5 - 1. A continuous density is evaluated on dequantised images, with uniform
noise over the level's bin: a bound of the probability of the level (Theis et al., arXiv:1511.01844).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.noise import Noise

LEVELS = 256
LOG_2PI = math.log(2 * math.pi)
DEQUANTISED_STD = 1 / (127.5 * math.sqrt(12))  # standard deviation of u / 127.5 with u uniform on [-1/2, 1/2)


def dequantise(image: Tensor, rng: Noise) -> Tensor:
    """8-bit levels in [-1, 1] (B, ...) plus uniform noise over a level's bin of width 1 / 127.5."""
    return image + rng.uniform(*image.shape[1:], low=-0.5, high=0.5).to(image) / 127.5


def log_bins(image: Tensor) -> float:
    """Log-density of dequantised values minus log-probability of the levels, nats per row."""
    return image[0].numel() * math.log(127.5)


def bits_per_dim(nats: float, dimensions: int) -> float:
    """Nats per image with this number of dimensions, in bits per dimension."""
    return nats / dimensions / math.log(2)


def kl_to_standard_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) of each latent, in nats, same shape as its arguments."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)


def gaussian_nll(x: Tensor, mean: Tensor, log_var: Tensor | float) -> Tensor:
    """-log N(x; mean, exp(log_var)) of each element, in nats."""
    log_var = torch.as_tensor(log_var, dtype=mean.dtype, device=mean.device)
    return 0.5 * ((x - mean).square() * (-log_var).exp() + log_var + LOG_2PI)


def _edges(image: Tensor, mean: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Standardised edges of each level's bin; the outermost edges are infinite."""
    half = 1 / (LEVELS - 1)
    low = ((image - half - mean) / scale).masked_fill(image < -1 + half, -math.inf)
    high = ((image + half - mean) / scale).masked_fill(image > 1 - half, math.inf)
    return low, high


def discretised_gaussian(image: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """log P(image) of N(mean, std^2) rounded to the nearest of 256 levels in [-1, 1], nats per image (B,).

    Ho et al., arXiv:2006.11239, equation 13. The outermost levels include the tails.
    """
    low, high = _edges(image, mean, std)
    upper = low + high > 0  # the distribution function is near 1: use the difference in the other tail
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return (above + torch.log(-torch.expm1(below - above))).flatten(1).sum(1)


def discretised_logistic(image: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """The same for a logistic distribution, nats per image (B,) (Kingma et al., arXiv:1606.04934, section 6.2)."""
    low, high = _edges(image, mean, scale)
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
    log_p = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))
    return log_p.flatten(1).sum(1)


class Likelihood(Protocol):
    """p(x | output) of a decoder.

    Attributes:
        outputs: decoder outputs per value of the image.
        of: its sample space: "binary" images (grey values are probabilities) or "8-bit" levels.
        dequantised: whether it is a density of dequantised images.
    """

    outputs: ClassVar[int]
    of: ClassVar[Literal["binary", "8-bit"]]
    dequantised: ClassVar[bool]

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        """-log p(image | output), nats per image (B,)."""

    def mean(self, output: Tensor) -> Tensor:
        """The expected image (B, C, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class Bernoulli:
    """Logits of a binary image; grey values of the data are probabilities."""

    outputs: ClassVar[int] = 1
    of: ClassVar[Literal["binary", "8-bit"]] = "binary"
    dequantised: ClassVar[bool] = False

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        nats = F.binary_cross_entropy_with_logits(output, image.add(1).div(2), reduction="none")
        return nats.flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return torch.tanh(output / 2)  # 2 sigmoid(logit) - 1


@dataclass(frozen=True)
class Gaussian:
    """The mean of a Gaussian of fixed standard deviation ``sigma``, on dequantised images in [-1, 1]."""

    sigma: float
    outputs: ClassVar[int] = 1
    of: ClassVar[Literal["binary", "8-bit"]] = "8-bit"
    dequantised: ClassVar[bool] = True

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        nats = gaussian_nll(dequantise(image, rng), output, 2 * math.log(self.sigma))
        return (nats + math.log(127.5)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.clamp(-1, 1)


@dataclass(frozen=True)
class LearnedGaussian:
    """Mean and variance of every value, on dequantised images; sigma from 0.009 (one level) to 1.3."""

    outputs: ClassVar[int] = 2
    of: ClassVar[Literal["binary", "8-bit"]] = "8-bit"
    dequantised: ClassVar[bool] = True

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        mean, raw = output.chunk(2, 1)
        nats = gaussian_nll(dequantise(image, rng), mean, 5 * torch.tanh(raw / 5) - 4.5)
        return (nats + math.log(127.5)).flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.chunk(2, 1)[0].clamp(-1, 1)


@dataclass(frozen=True)
class DiscretisedLogistic:
    """Mean and scale of a logistic distribution, rounded to 256 levels: an exact probability; scale 1/255 to 0.6."""

    outputs: ClassVar[int] = 2
    of: ClassVar[Literal["binary", "8-bit"]] = "8-bit"
    dequantised: ClassVar[bool] = False

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        mean, raw = output.float().chunk(2, 1)
        return -discretised_logistic(image, mean, (2.5 * torch.tanh(raw / 2.5) - 3.0).exp())

    def mean(self, output: Tensor) -> Tensor:
        return output.chunk(2, 1)[0].clamp(-1, 1)


@dataclass(frozen=True)
class Categorical:
    """256 logits per value, one per level: an exact probability."""

    outputs: ClassVar[int] = LEVELS
    of: ClassVar[Literal["binary", "8-bit"]] = "8-bit"
    dequantised: ClassVar[bool] = False

    def nll(self, image: Tensor, output: Tensor, rng: Noise) -> Tensor:
        level = image.add(1).mul(127.5).round().long()  # (B, C, H, W)
        logits = output.float().unflatten(1, (LEVELS, -1))  # (B, 256, C, H, W)
        return F.cross_entropy(logits, level, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        levels = torch.linspace(-1, 1, LEVELS, device=output.device)
        return torch.einsum("blchw,l->bchw", output.float().unflatten(1, (LEVELS, -1)).softmax(1), levels)


LikelihoodName = Literal["bernoulli", "gaussian", "learned", "logistic", "categorical"]
LIKELIHOODS: dict[str, Callable[[float], Likelihood]] = {  # functions of sigma, which only "gaussian" uses
    "bernoulli": lambda sigma: Bernoulli(),
    "gaussian": Gaussian,
    "learned": lambda sigma: LearnedGaussian(),
    "logistic": lambda sigma: DiscretisedLogistic(),
    "categorical": lambda sigma: Categorical(),
}
