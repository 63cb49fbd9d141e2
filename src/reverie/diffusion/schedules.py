"""Noise schedules: (alpha, sigma), the scales of image and noise, as functions of time t.

x = alpha x0 + sigma e with e of N(0, I), t = 0 is data and t = 1 is noise. Schedules differ in their *scaling*
(variance-preserving: alpha^2 + sigma^2 = 1; variance-exploding: alpha = 1; rectified flow: alpha + sigma = 1), in the
distribution of times in training, and in c_noise, the network's time input. All share the coordinate sigma / alpha.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from reverie.core.noise import Noise

AlphaSigma = tuple[float, float]


class Schedule(Protocol):
    """The interface of schedules for denoisers and time grids.

    Attributes:
        first: the smallest time of training and sampling, at least 0.
    """

    first: float

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma at times t, in t's shape."""

    def t_from_ratio(self, ratio: Tensor) -> Tensor:
        """The time at which sigma / alpha is ``ratio``, in its shape; inf is pure noise."""

    def c_noise(self, t: Tensor) -> Tensor:
        """The network's time input at time t, with a range of at least a few hundred."""

    def sample_t(self, rng: Noise) -> Tensor:
        """Random times (B,) for a training step."""


def _double(x: Tensor) -> Tensor:
    """x in float64, if the device supports it."""
    return x if x.device.type == "mps" else x.double()


class _Table:
    """A variance-preserving chain of T steps; step i = 1 ... T is time i / T, with linear log(sigma/alpha) in between.

    Attributes:
        steps: T.
        betas: (T,) float64, the variance added by each step.
        alphas_bar: (T,) float64, the product of 1 - beta: alpha^2 after each step.
    """

    def __init__(self, betas: Tensor):
        self.betas, self.steps = betas, len(betas)
        self.alphas_bar = (1 - betas).cumprod(0)
        self.first = 1 / self.steps
        self._log_ratio = 0.5 * ((1 - self.alphas_bar).log() - self.alphas_bar.log())

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        position = (_double(t) * self.steps - 1).clamp(0, self.steps - 1)
        low = position.floor().long().clamp(max=self.steps - 2)
        table = self._log_ratio.to(position)
        log_ratio = torch.lerp(table[low], table[low + 1], position - low)
        return torch.sigmoid(-2 * log_ratio).sqrt().to(t), torch.sigmoid(2 * log_ratio).sqrt().to(t)

    def t_from_ratio(self, ratio: Tensor) -> Tensor:
        log_ratio = _double(ratio).log()
        table = self._log_ratio.to(log_ratio)
        high = torch.searchsorted(table, log_ratio.contiguous()).clamp(1, self.steps - 1)
        part = (log_ratio - table[high - 1]) / (table[high] - table[high - 1])
        return ((high + part.clamp(0, 1)) / self.steps).to(ratio)

    def c_noise(self, t: Tensor) -> Tensor:
        return t * self.steps - 1  # 0 ... T - 1, as in the papers and other libraries

    def sample_t(self, rng: Noise) -> Tensor:
        return (rng.integers(self.steps) + 1).float() / self.steps


class Linear(_Table):
    """Ho et al., arXiv:2006.11239, section 4: beta rises linearly, from 1e-4 to 0.02 for T = 1000.

    For other T the ends are scaled by 1000 / T, so that the total noise is the same.

    Args:
        steps: T.
        ends: other first and last beta.
    """

    def __init__(self, steps: int = 1000, ends: tuple[float, float] | None = None):
        scale = 1000 / steps
        first, last = ends or (1e-4 * scale, min(0.02 * scale, 0.999))
        super().__init__(torch.linspace(first, last, steps, dtype=torch.float64))


class Cosine(_Table):
    """Nichol and Dhariwal, arXiv:2102.09672, equation 17: alpha^2 falls like cos^2; beta is capped at 0.999."""

    def __init__(self, steps: int = 1000, offset: float = 0.008):
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        squared = ((t + offset) / (1 + offset) * math.pi / 2).cos() ** 2
        super().__init__((1 - squared[1:] / squared[:-1]).clamp(max=0.999))


class Karras:
    """Karras et al., arXiv:2206.00364: alpha = 1, sigma from ``low`` to ``high`` with rho = 7, log-normal in training.

    Args:
        low, high: sigma at the ends, for images in [-1, 1].
        mean, std: of log sigma in training.
    """

    def __init__(self, low: float = 0.002, high: float = 80.0, mean: float = -1.2, std: float = 1.2):
        self.low, self.high, self.mean, self.std = low, high, mean, std
        self.first, self.rho = 0.0, 7.0

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        ends = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return torch.ones_like(t), (ends[0] + t * (ends[1] - ends[0])) ** self.rho

    def t_from_ratio(self, ratio: Tensor) -> Tensor:
        ends = self.low ** (1 / self.rho), self.high ** (1 / self.rho)
        return (ratio ** (1 / self.rho) - ends[0]) / (ends[1] - ends[0])

    def c_noise(self, t: Tensor) -> Tensor:
        return 250 * self.alpha_sigma(t)[1].log()  # c_noise = ln(sigma) / 4, in thousandths

    def sample_t(self, rng: Noise) -> Tensor:
        return self.t_from_ratio((rng(1)[:, 0] * self.std + self.mean).exp())


class RectifiedFlow:
    """Rectified flow (Liu et al., arXiv:2209.03003; Lipman et al., arXiv:2210.02747): alpha = 1 - t, sigma = t.

    Args:
        mean, std: of the logit of t in training (Esser et al., arXiv:2403.03206); std 0: t is uniform.
    """

    first = 1e-3

    def __init__(self, mean: float = 0.0, std: float = 1.0):
        self.mean, self.std = mean, std

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def t_from_ratio(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + 1 / ratio)  # 1 at ratio = inf

    def c_noise(self, t: Tensor) -> Tensor:
        return 1000 * t

    def sample_t(self, rng: Noise) -> Tensor:
        if not self.std:
            return rng.uniform(1, low=1e-5)[:, 0]
        return torch.sigmoid(rng(1)[:, 0] * self.std + self.mean)
