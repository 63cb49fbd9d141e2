"""A mixture of logistic distributions, rounded to levels, whose colours depend on one another.

Salimans et al., "PixelCNN++", arXiv:1701.05517, sections 2.1 and 2.2. The probability of a level is a difference of
distribution functions at the edges of its bin; the outermost levels have the tails. All channels of a pixel come from
the same component of the mixture, and the mean of green is linear in red, that of blue in red and green.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.noise import Noise
from reverie.probability.discrete import ByChannel, Categorical, Distribution, Of, levels_of, precise, values_of
from reverie.probability.sequential import Cumulative

_LEAST = -7.0  # log of the smallest scale: a component may hold one of 256 levels with near certainty


class LogisticMixture(nn.Module):
    """p(levels) = sum over k of w_k prod over channels of p(level; mean_k, scale_k).

    Args:
        components: K.
        channels: of a pixel.
        levels: of a value.
    """

    def __init__(self, components: int = 10, channels: int = 1, levels: int = 256):
        super().__init__()
        self.components, self.channels, self.levels = components, channels, levels
        self.pairs = channels * (channels - 1) // 2
        self.outputs = components * (1 + 2 * channels + self.pairs)
        self.of: Of = "8-bit"
        # components start spread over the levels, not on one another
        start = torch.linspace(-1, 1, components + 2)[1:-1].expand(channels, components)
        self.mean = nn.Parameter(start.clone())
        self.log_scale = nn.Parameter(torch.full((channels, components), math.log(1 / components)))

    def levels_of(self, x: Tensor, rng: Noise | None = None) -> Tensor:
        """Levels int64 of values in [-1, 1]."""
        return levels_of(x, self.levels)

    def values(self, levels: Tensor) -> Tensor:
        """Values in [-1, 1], float32."""
        return values_of(levels, self.levels)

    def log_prob(self, levels: Tensor, params: Tensor) -> Tensor:
        """log p of levels (B, C, *S) given parameters (B, outputs, *S): nats (B,)."""
        weights, means, log_scales, slopes = self._parts(precise(params).flatten(2))
        levels = levels.flatten(2)
        x = values_of(levels, self.levels, means.dtype)
        total = weights.log_softmax(1)
        for channel in range(self.channels):
            mean = self._mean(channel, means, slopes, x)
            total = total + self._log_bin(x[:, channel, None], levels[:, channel, None], mean, log_scales[:, channel])
        return total.logsumexp(1).sum(1)

    def conditionals(self, params: Tensor) -> ByChannel:
        """The distribution of each channel in turn, of parameters (B, outputs, n), within 1e-15."""
        weights, means, log_scales, slopes = self._parts(precise(params))
        x = means.new_zeros(len(means), self.channels, means.shape[3])
        for channel in range(self.channels):
            mean, log_scale = self._mean(channel, means, slopes, x), log_scales[:, channel]
            level_mean, per_level = (mean + 1) * (self.levels - 1) / 2, (-log_scale).exp() * 2 / (self.levels - 1)
            below = partial(_below, weights.softmax(1).mT, level_mean.mT, per_level.mT)
            level = yield Cumulative(self.levels, below, means.device)
            x[:, channel] = values_of(level, self.levels, x.dtype)
            weights = weights + self._log_bin(x[:, channel, None], level[:, None], mean, log_scale)

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the weights (B, K, n); means and log-scales (B, C, K, n); slopes (B, pairs, K, n)."""
        k, c = self.components, self.channels
        weights, means, log_scales, slopes = params.split([k, c * k, c * k, self.pairs * k], 1)
        means = means.unflatten(1, (c, k)) + self.mean.to(params.dtype)[..., None]
        log_scales = log_scales.unflatten(1, (c, k)) + self.log_scale.to(params.dtype)[..., None]
        return weights, means, log_scales.clamp(min=_LEAST), torch.tanh(slopes.unflatten(1, (self.pairs, k)))

    def _mean(self, channel: int, means: Tensor, slopes: Tensor, x: Tensor) -> Tensor:
        """Means (B, K, n) of a channel, given the values x (B, C, n) of those before it."""
        first = channel * (channel - 1) // 2
        earlier: Any = sum(slopes[:, first + other] * x[:, other, None] for other in range(channel))
        return means[:, channel] + earlier

    def _log_bin(self, x: Tensor, level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """log of the probability (B, K, n) of a level with value x, both (B, 1, n)."""
        half, per_scale = 1 / (self.levels - 1), (-log_scale).exp()
        first, last = level == 0, level == self.levels - 1
        low = ((x - half - mean) * per_scale).masked_fill(first, -math.inf)
        high = ((x + half - mean) * per_scale).masked_fill(last, math.inf)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))
        between = torch.log(-torch.expm1(-2 * half * per_scale)).masked_fill(first | last, 0.0)
        return F.logsigmoid(high) + F.logsigmoid(-low) + between


def _below(weights: Tensor, means: Tensor, per_scale: Tensor, levels: Tensor) -> Tensor:
    """Probabilities (B, n, m) of less than levels (B, n, m) >= 1, by parameters (B, n, K) in units of a level."""
    x = (levels[:, :, None] - (means + 0.5)[..., None]).mul_(per_scale[..., None])  # (B, n, K, m)
    return x.sigmoid_().mul_(weights[..., None]).sum(2)


def distribution_of(likelihood: str, channels: int, components: int = 0) -> Distribution:
    """The distribution of a pixel: "mixture" (of logistics), "categorical" (256 levels) or "bernoulli" (binary)."""
    if likelihood == "mixture":
        return LogisticMixture(components, channels)
    return Categorical(2 if likelihood == "bernoulli" else 256, channels)
