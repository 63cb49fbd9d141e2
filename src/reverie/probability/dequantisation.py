"""Dequantisation: continuous noise within the bins of 8-bit levels, so that a density can bound their probabilities.

For noise of any distribution q(x | k) within the bin of level k, log P(k) >= E_q[log p(x) - log q(x | k)] (Jensen).
Uniform noise: Theis et al., arXiv:1511.01844. A learned q, "variational dequantisation": Ho et al., "Flow++",
arXiv:1902.00275.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.noise import Noise
from reverie.probability.likelihoods import dequantise, log_bins


class Dequantiser(Protocol):
    """Images with 8-bit levels in [-1, 1] (B, C, H, W) to x, within half a bin (1 / 255 of the range), and log q (B,).

    Attributes:
        variational: whether q is learned.
    """

    variational: bool

    def __call__(self, image: Tensor, label: Tensor | None, rng: Noise) -> tuple[Tensor, Tensor]:
        """x ~ q(x | image), of the shape of ``image``, and log q(x | image) in nats (B,)."""


class UniformDequantiser(nn.Module):
    """Uniform noise over each bin."""

    variational = False

    def forward(self, image: Tensor, label: Tensor | None, rng: Noise) -> tuple[Tensor, Tensor]:
        return dequantise(image, rng), image.new_full((len(image),), log_bins(image))


class VariationalDequantiser(nn.Module):
    """u = sigmoid(flow(e | image)) with e ~ N(0, I), and x = image + (u - 1/2) / 127.5.

    Args:
        flow: (e (B, C, H, W), image, label) to (v (B, C, H, W), log |dv / de| (B,)), invertible in e.
    """

    variational = True

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, image: Tensor, label: Tensor | None, rng: Noise) -> tuple[Tensor, Tensor]:
        e = rng(*image.shape[1:]).to(image)
        v, log_det = self.flow(e, image, label)
        log_det = log_det + (F.logsigmoid(v) + F.logsigmoid(-v)).flatten(1).sum(1)
        return image + (torch.sigmoid(v) - 0.5) / 127.5, normal_log_prob(e) - log_det + log_bins(image)


def normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of rows (B, ...), nats (B,)."""
    z = z.flatten(1)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))
