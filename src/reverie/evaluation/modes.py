"""Which classes a model generates and which it misses, by a linear probe on features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError
from reverie.evaluation.estimate import chance_of_at_most, shuffled

ALARM = 0.01  # false-alarm rate of ``ModeCoverage.missing``, over all classes
DECAYS = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the probe, tried in this order


@dataclass(frozen=True)
class Probe:
    """Multinomial logistic regression on standardised features.

    Attributes:
        mean, deviation: (D,) of the training features.
        weight, bias: (K, D) and (K,).
        decay: the chosen penalty, decay / 2 |weight|^2 added to the mean cross-entropy.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor
    decay: float

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Probe:
        """Fit to features (N, D) and labels (N,) in 0 ... classes - 1, by L-BFGS.

        The decay of ``DECAYS`` with the lowest loss on a held-out tenth is fitted again on all.

        Raises:
            UsageError: fewer than ten images, or a label that is no class.
        """
        if len(features) < 10 or len(features) != len(labels):
            raise UsageError("A probe needs at least ten images, and one label for each.")
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise UsageError(f"A probe of {classes} classes needs labels from 0 to {classes - 1}.")
        deviation, mean = torch.std_mean(features.float(), 0)
        deviation = torch.where(deviation > 0, deviation, 1.0)
        x = (features.float() - mean) / deviation
        order = shuffled(len(x), seed)
        held_out, rest = order[: len(x) // 10], order[len(x) // 10 :]

        weight, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
        losses = []
        for decay in DECAYS:  # each starts where the last ended
            weight, bias = regression(x[rest], labels[rest], weight, bias, decay)
            losses.append(float(nn.functional.cross_entropy(x[held_out] @ weight.T + bias, labels[held_out])))
        best = DECAYS[losses.index(min(losses))]
        return cls(
            mean, deviation, *regression(x, labels, torch.zeros_like(weight), torch.zeros_like(bias), best), best
        )

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities (N, K) of features (N, D)."""
        x = (features.float() - self.mean) / self.deviation
        return (x @ self.weight.T + self.bias).softmax(1)

    def predict(self, features: Tensor) -> Tensor:
        """The most probable class (N,) of features (N, D)."""
        return self.probabilities(features).argmax(1)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """The share of features (N, D) whose most probable class is their label (N,)."""
        return float((self.predict(features) == labels).double().mean())


def regression(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Logistic regression: the minimum of mean cross-entropy + decay / 2 |weight|^2, by L-BFGS from a starting point.

    Args:
        x: (N, D); labels: (N,); weight: (K, D); bias: (K,).
    """
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    search = torch.optim.LBFGS([weight, bias], max_iter=100, tolerance_grad=1e-5, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        value = nn.functional.cross_entropy(x @ weight.T + bias, labels) + decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        search.step(loss)
    return weight.detach(), bias.detach()


@dataclass(frozen=True)
class ModeCoverage:
    """The classes of generated images against those of real ones.

    Attributes:
        fake, data: (K,) counts.
        p: (K,) the probability of so few fakes of a class if both sides had the same share of it (Fisher's exact test).
        missing: classes with less than a fifth of their expected number, and a p below ``ALARM`` / K.
        kl: nats of KL(fake || data), half an image added to each class of the data.
        total_variation: half the summed absolute differences of the shares, in [0, 1].
    """

    fake: Tensor
    data: Tensor
    p: Tensor
    missing: list[int]
    kl: float
    total_variation: float


def mode_coverage(fake: Tensor, data: Tensor, classes: int) -> ModeCoverage:
    """Compare a probe's classes of fakes (N,) with its classes of held-out real images (M,).

    The probe classifies both sides, so that its confusions affect both alike. A missing class goes unnoticed if others
    are often classified as it: the probe's accuracy should be at least 80 %.
    """
    n, m = len(fake), len(data)
    if not (n and m):
        raise UsageError("Mode coverage needs generated images and held-out real ones.")
    fakes, reals = (torch.bincount(side.cpu(), minlength=classes) for side in (fake, data))
    if len(fakes) > classes or len(reals) > classes:
        raise UsageError(f"There are {classes} classes; a predicted class is out of range.")
    p = chance_of_at_most(fakes, fakes + reals, n + m - fakes - reals, n)
    missing = (fakes < 0.2 * n * reals / m) & (p < ALARM / classes)
    fake_share, share = fakes.double() / n, reals.double() / m
    smooth = (reals.double() + 0.5) / (m + 0.5 * classes)
    return ModeCoverage(
        fakes,
        reals,
        p,
        missing.nonzero()[:, 0].tolist(),
        float((torch.xlogy(fake_share, fake_share) - torch.xlogy(fake_share, smooth)).sum()),
        float((fake_share - share).abs().sum() / 2),
    )


def stacked_modes(digits: Tensor) -> tuple[int, float]:
    """Stacked MNIST (Metz et al., arXiv:1611.02163): how many of its 1,000 modes, and KL(modes || uniform) in nats.

    Args:
        digits: (N, 3) int in 0 ... 9, the digit of each channel.
    """
    if digits.ndim != 2 or digits.shape[1] != 3 or int(digits.min()) < 0 or int(digits.max()) > 9:
        raise UsageError("Stacked modes need three digits from 0 to 9 for each image.")
    code = digits @ torch.tensor([100, 10, 1], device=digits.device)
    share = torch.bincount(code, minlength=1000).double() / len(code)
    return int((share > 0).sum()), float(torch.xlogy(share, share).sum()) + math.log(1000)
