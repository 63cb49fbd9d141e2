"""Mean and covariance of a stream of features, in float64 and in constant memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 4096  # features converted to float64 at a time


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian fitted to features: all that a Frechet distance needs of them.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64, unbiased.
    """

    mean: Tensor
    covariance: Tensor


@dataclass
class Moments:
    """Count, mean and summed outer products of the deviations of a stream of features.

    Attributes:
        count: number of features.
        mean: (D,) float64.
        scatter: (D, D) float64, the sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of a batch (N, D)."""
        mean = torch.stack([rows.double().sum(0) for rows in features.split(_ROWS)]).sum(0) / len(features)
        scatter = mean.new_zeros(len(mean), len(mean))
        for rows in features.split(_ROWS):
            centred = rows.double() - mean
            scatter.addmm_(centred.T, centred)
        return cls(len(features), mean, scatter)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both streams together (Chan, Golub and LeVeque 1983): batches and ranks merge in any order."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = torch.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def __sub__(self, part: Moments) -> Moments:
        """The moments of a stream without a part: (a + b) - b is a. Raises ValueError if nothing remains."""
        count = self.count - part.count
        if count < 1:
            raise ValueError("moments of a stream without all its features are undefined")
        delta = part.mean - self.mean
        between = torch.outer(delta, delta) * (self.count * part.count / count)
        mean = self.mean - delta * (part.count / count)
        return Moments(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> Tensor:
        """The unbiased covariance (D, D); needs two features."""
        if self.count < 2:
            raise ValueError("a covariance needs at least two features")
        return self.scatter / (self.count - 1)
