"""Prediction types and loss weightings.

A prediction type is a linear change of variables between the network's output F and x0. A weighting is a function of
the noise level, defined for the error of x0; the weight of F's error follows from the change of variables, so a
weighting is independent of the prediction type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_Of = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """F = (p x0 + q e), and x0 = (u x + v F), all of (alpha, sigma), each (B, 1, 1, 1).

    Attributes:
        target: weights (p, q) of x0 and of the noise e in the network's target.
        c_skip, c_out: weights (u, v) of x and of F in the estimate of x0.
        c_in: factor on the network's input.
    """

    target: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    c_skip: _Of
    c_out: _Of
    c_in: _Of


def _ones(alpha: Tensor, sigma: Tensor) -> Tensor:
    return torch.ones_like(sigma)


def edm(data: float = 0.5) -> Prediction:
    """The preconditioned network of Karras et al., arXiv:2206.00364, table 1.

    Args:
        data: standard deviation of the data.
    """

    def total(alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha**2 * data**2 + sigma**2).sqrt()

    def c_skip(alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * data**2 / total(alpha, sigma) ** 2

    def c_out(alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma * data / total(alpha, sigma)

    def target(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        u, v = c_skip(alpha, sigma), c_out(alpha, sigma)
        return (1 - u * alpha) / v, -u * sigma / v

    return Prediction(target, c_skip, c_out, lambda a, s: 1 / total(a, s))


PREDICTIONS: dict[str, Prediction] = {
    # Ho et al., arXiv:2006.11239
    "noise": Prediction(lambda a, s: (0 * a, _ones(a, s)), lambda a, s: 1 / a, lambda a, s: -s / a, _ones),
    "x0": Prediction(lambda a, s: (_ones(a, s), 0 * a), lambda a, s: 0 * a, _ones, _ones),
    # Salimans and Ho, arXiv:2202.00512: v = alpha e - sigma x0
    "v": Prediction(lambda a, s: (-s, a), lambda a, s: a / (a**2 + s**2), lambda a, s: -s / (a**2 + s**2), _ones),
    # Lipman et al., arXiv:2210.02747, with time running towards noise: velocity = e - x0
    "velocity": Prediction(
        lambda a, s: (-_ones(a, s), _ones(a, s)), lambda a, s: 1 / (a + s), lambda a, s: -s / (a + s), _ones
    ),
    "edm": edm(),
}

# Weights of the squared error of x0 as functions of k = sigma / alpha; SNR = 1 / k^2
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "simple": lambda k: k**-2,  # |e - e'|^2, Ho et al., equation 14
    "x0": lambda k: torch.ones_like(k),
    "v": lambda k: 1 + k**-2,  # |v - v'|^2, Salimans and Ho, appendix D
    "velocity": lambda k: (1 + 1 / k) ** 2,  # |velocity - velocity'|^2
    "min-snr": lambda k: (k**-2).clamp(max=5.0),  # gamma = 5, Hang et al., arXiv:2303.09556
    "edm": lambda k: (k**2 + 0.25) / (0.5 * k) ** 2,  # Karras et al., table 1, with data of standard deviation 0.5
}


def weigh(prediction: Prediction, weighting: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The weight of |F - target|^2 that equals WEIGHTINGS[weighting] of |x0 - x0'|^2, in alpha's shape."""
    return WEIGHTINGS[weighting](sigma / alpha) * prediction.c_out(alpha, sigma) ** 2
