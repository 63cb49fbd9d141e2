"""Numbers that compare two sets of features, or judge one: pure functions of tensors, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.errors import UsageError
from reverie.metrics.statistics import Moments
from reverie.noise import Noise, fold


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with these moments (Heusel et al., arXiv:1706.08500).

    |mean difference|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), both roots by symmetric eigen-decomposition: never complex.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    middle = root @ b.covariance @ root
    cross = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.covariance.trace() + b.covariance.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under (x.y / D + 1)^3: KID (Binkowski et al., arXiv:1801.01401).

    Args:
        a, b: features (N, D) and (M, D), at least two each.
    """
    a, b = a.double(), b.double()
    n, m, dimension = len(a), len(b), a.shape[1]
    if min(n, m) < 2:
        raise UsageError("The kernel distance needs at least two pictures on each side.")

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / dimension + 1) ** 3

    within_a, within_b = kernel(a, a), kernel(b, b)
    same = (within_a.sum() - within_a.trace()) / (n * (n - 1)) + (within_b.sum() - within_b.trace()) / (m * (m - 1))
    return float(same - 2 * kernel(a, b).mean())


def kernel_distance_interval(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard error of ``kernel_distance`` over random subsets, drawn without replacement within each."""
    size = min(size, len(a), len(b))

    def pick(features: Tensor, side: int, subset: int) -> Tensor:
        keys = Noise.of_step(fold(seed, side, subset), 0, len(features)).keys
        return features[keys.argsort()[:size].to(features.device)]

    found = [kernel_distance(pick(a, 0, i), pick(b, 1, i)) for i in range(subsets)]
    values = torch.tensor(found, dtype=torch.float64)
    return float(values.mean()), float(values.std() / subsets**0.5) if subsets > 1 else float("nan")


def inception_score(probabilities: Tensor) -> float:
    """exp E KL(p(y|x) || p(y)) (Salimans et al., arXiv:1606.03498) of a classifier's class probabilities (N, K)."""
    p = probabilities.double()
    marginal = p.mean(0, keepdim=True)
    return float((torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1).mean().exp())


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> dict[str, float]:
    """How much of the fake set looks real, and how much of the real set is met, by balls to the k-th neighbour.

    Precision and recall: Kynkaanniemi et al., arXiv:1904.06991. Density and coverage: Naeem et al., arXiv:2002.09797.

    Args:
        real, fake: features (N, D) and (M, D), more than k each.
    """
    if min(len(real), len(fake)) <= k:
        raise UsageError(f"Precision and recall with {k} neighbours need more than {k} pictures on each side.")
    real, fake = real.double(), fake.double()

    def radius(x: Tensor) -> Tensor:
        return torch.cdist(x, x).kthvalue(k + 1, dim=1).values  # the nearest is the point itself

    across = torch.cdist(real, fake)  # (N, M)
    in_real_ball, in_fake_ball = across < radius(real)[:, None], across < radius(fake)[None]
    return {
        "precision": float(in_real_ball.any(0).double().mean()),
        "recall": float(in_fake_ball.any(1).double().mean()),
        "density": float(in_real_ball.sum(0).double().mean() / k),
        "coverage": float(in_real_ball.any(1).double().mean()),
    }
