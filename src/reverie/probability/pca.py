"""Principal component analysis: the directions of largest variance.

Pearson, "On lines and planes of closest fit to systems of points in space", Philosophical Magazine 1901.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 2048  # sides of a matrix of products, whose eigenvectors take a few seconds
_VALUES = 1 << 26  # of centred rows in float64: half a gigabyte


@dataclass(frozen=True)
class PCA:
    """The first principal components of some rows, in float64.

    Attributes:
        mean: (D,) of the rows.
        axes: (D, K) orthonormal columns, by falling variance; the largest entry of each is positive.
        share: fraction of the variance along each (K,).
    """

    mean: Tensor
    axes: Tensor
    share: Tensor

    @classmethod
    def fit(cls, x: Tensor, count: int) -> PCA:
        """Of rows x (N, D), exact: from the eigenvectors of the smaller of X'X and XX'.

        Of more than 2,048 columns at most 2,048 rows are used, evenly spaced, and fewer of very many columns.

        Args:
            count: K; at most the smaller of N and D.
        """
        width = x.shape[1]
        if width > _MOST and len(x) > (most := max(count, min(_MOST, _VALUES // width))):
            x = x[torch.linspace(0, len(x) - 1, most).long()]
        mean = x.double().mean(0)
        centred = x.double() - mean
        wide = len(x) < width
        values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
        values, vectors = values.flip(0)[:count].clamp(min=0), vectors.flip(1)[:, :count]
        axes = torch.nn.functional.normalize(centred.T @ vectors, dim=0) if wide else vectors
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        return cls(mean, axes * largest.sign(), values / centred.square().sum().clamp(min=1e-300))

    def __call__(self, x: Tensor) -> Tensor:
        """The components (N, K) of rows (N, D), in their type."""
        return x @ self.axes.to(x) - (self.mean @ self.axes).to(x)
