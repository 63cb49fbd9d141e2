"""How well codes tell classes apart: nearest neighbours, a linear probe, the scatter of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.evaluation.estimate import Estimate, shuffled_groups
from reverie.evaluation.modes import Probe
from reverie.evaluation.neighbours import Progress, nearest

_GROUPS = 20  # of the jackknife


def knn_predict(codes: Tensor, base: Tensor, labels: Tensor, k: int, progress: Progress | None = None) -> Tensor:
    """The class (N,) of most of the k nearest of ``base`` (M, D) to codes (N, D), by Euclidean distance.

    Cover and Hart, "Nearest neighbor pattern classification", 1967. Where classes have equally many of the k, it is
    that of the nearest neighbour among them.

    Args:
        labels: (M,) of the base.
    Raises:
        UsageError: fewer than k rows in the base.
    """
    _, index = nearest(codes, base, k, progress=progress)
    votes = torch.zeros(len(codes), int(labels.max()) + 1)
    of_neighbours = labels[index]  # (N, k)
    nearness = torch.arange(k, 0, -1).div(k + 1).expand(len(codes), k)
    first = torch.zeros_like(votes).scatter_reduce_(1, of_neighbours, nearness, "amax")
    return (votes.scatter_add_(1, of_neighbours, torch.ones_like(nearness)) + first).argmax(1)


def knn_accuracy(codes: Tensor, truth: Tensor, base: Tensor, labels: Tensor, k: int = 10) -> Estimate:
    """The share of codes (N, D) that ``knn_predict`` gives their class (N,), with Wilson's interval."""
    return Estimate.of_share(knn_predict(codes, base, labels, k) == truth)


def probe_accuracy(codes: Tensor, truth: Tensor, base: Tensor, labels: Tensor, classes: int) -> Estimate:
    """The share of codes (N, D) that a linear classifier of ``base`` (M, D) gives their class, with Wilson's interval.

    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", arXiv:1610.01644.
    """
    return Estimate.of_share(Probe.fit(base, labels, classes).predict(codes) == truth)


def scatter_ratio(codes: Tensor, labels: Tensor) -> float:
    """tr S_B / tr S_W: scatter of the classes' means over the scatter within classes (Fisher 1936; Fukunaga 1990).

    0 where all means agree, infinite where each class is a point; no scale and no rotation of the codes changes it.

    Args:
        codes: (N, D); labels: (N,).
    """
    codes = codes.double()
    _, index = labels.unique(return_inverse=True)
    counts = torch.bincount(index).double()[:, None]
    means = torch.zeros(len(counts), codes.shape[1], dtype=torch.float64).index_add_(0, index, codes) / counts
    between = counts.mul((means - codes.mean(0)).square()).sum()
    return float(between / (codes - means[index]).square().sum())


def scatter(codes: Tensor, labels: Tensor) -> Estimate:
    """``scatter_ratio`` with its interval: the jackknife over 20 random groups of rows."""
    count, groups = len(codes), min(_GROUPS, len(codes))
    left_out = []
    for group in shuffled_groups(count, groups, seed=0):
        kept = torch.ones(count, dtype=torch.bool)
        kept[group] = False
        left_out.append(scatter_ratio(codes[kept], labels[kept]))
    return Estimate.jackknife(scatter_ratio(codes, labels), torch.tensor(left_out, dtype=torch.float64))
