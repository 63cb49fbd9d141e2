"""Distances between two sets of features, and scores of one set: pure functions of tensors, in float64.

An interval is over resampling of the generated images, with the reference fixed; where real images are averaged over or
left out too, the docstring says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.core.noise import fold
from reverie.evaluation.estimate import Estimate, shuffled, shuffled_groups
from reverie.evaluation.neighbours import Progress, distances_of, nearest, squared_distances, tile_dtype
from reverie.evaluation.statistics import Gaussian, Moments

_ROWS = 2048  # features converted to float64 at a time


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root of a covariance (D, D), negative eigenvalues (from rounding) taken as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _middle(root: Tensor, covariance: Tensor) -> Tensor:
    """R C R (D, D), symmetric to the last bit."""
    middle = root @ covariance @ root
    return (middle + middle.T) / 2


def _frechet(a: Moments | Gaussian, b: Moments | Gaussian, cross: Tensor) -> float:
    """The distance from the eigenvalues (D,) of A^1/2 B A^1/2."""
    gap = (a.mean - b.mean).square().sum()
    return float(gap + a.covariance.trace() + b.covariance.trace() - 2 * cross.clamp(min=0).sqrt().sum())


def frechet_distance(a: Moments | Gaussian, b: Moments | Gaussian) -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians with these moments (Heusel et al., arXiv:1706.08500).

    |mean difference|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2), both roots by symmetric eigen-decomposition: never complex.
    """
    return _frechet(a, b, torch.linalg.eigvalsh(_middle(_root(a.covariance), b.covariance)))


def frechet_influence(fake: Tensor, reference: Moments | Gaussian) -> tuple[float, Tensor]:
    """``frechet_distance`` of features (N, D) to a reference, and each feature's first-order influence on it (N,).

    The influence of x is 2 (m - r).(x - m) + (x - m)^T (I - T) (x - m) - tr((I - T) C), where T is the optimal
    transport from the features' Gaussian to the reference's: the derivative of the distance in the weight of x.
    """
    moments = Moments.of(fake)
    root = _root(reference.covariance)
    values, vectors = torch.linalg.eigh(_middle(root, moments.covariance))
    inside = values > values[-1] * len(values) * torch.finfo(values.dtype).eps  # elsewhere the features do not vary
    half = root @ (vectors[:, inside] * values[inside].pow(-0.25))  # T = half half^T
    gap = 2 * (moments.mean - reference.mean)
    parts = []
    for rows in fake.split(_ROWS):
        x = rows.double() - moments.mean
        parts.append(x @ gap + x.square().sum(1) - (x @ half).square().sum(1))
    raw = torch.cat(parts)
    return _frechet(reference, moments, values), raw - raw.mean()


def frechet_estimate(fake: Tensor, reference: Moments | Gaussian) -> Estimate:
    """``frechet_distance`` of features (N, D), with the interval of the infinitesimal jackknife (Efron 1982).

    It is the interval of the distance *at N images*, which is biased upwards: see ``frechet_infinity``.
    """
    value, influence = frechet_influence(fake, reference)
    return Estimate.of_error(value, float(influence.std()) / len(fake) ** 0.5)


def frechet_infinity(
    fake: Tensor, reference: Moments | Gaussian, points: int = 10, seed: int = 0, progress: Progress | None = None
) -> Estimate:
    """The Frechet distance at infinitely many generated images: FID-infinity (Chong and Forsyth, arXiv:1911.07023).

    As there, the distance is linear in 1/n, extrapolated to 1/n = 0. The points of the line are N and N less each of
    ``points`` random groups instead of independent subsets of many sizes: shared errors cancel (the jackknife's bias
    correction), so the fit adds next to no noise, and the groups give the interval.

    Args:
        fake: features (N, D), of which N (points - 1) / points should exceed D.
        points: number of groups; each costs one eigen-decomposition.
    """
    total, root = Moments.of(fake), _root(reference.covariance)

    def distance(moments: Moments) -> float:
        return _frechet(reference, moments, torch.linalg.eigvalsh(_middle(root, moments.covariance)))

    value, sizes, left_out = distance(total), [], []
    for done, group in enumerate(shuffled_groups(len(fake), points, seed), 1):
        rest = total - Moments.of(fake[group])
        sizes.append(rest.count)
        left_out.append(distance(rest))
        if progress is not None:
            progress(done, points, "Frechet distances")
    n, without = torch.tensor(sizes).double(), torch.tensor(left_out).double()
    # one line through (1/N, value) and each (1/n, without): its intercept is one estimate
    intercepts = (len(fake) * value - n * without) / (len(fake) - n)
    error = float(intercepts.std()) / points**0.5
    return Estimate.of_error(float(intercepts.mean()), error, points - 1)


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    """The sum in float64 of (x.y / D + 1)^3 over all rows of x and y."""
    y = y.double()
    parts = [torch.mm(rows.double(), y.T).div_(y.shape[1]).add_(1).pow_(3).sum() for rows in x.split(_ROWS)]
    return torch.stack(parts).sum()


def _kernel_trace(x: Tensor) -> Tensor:
    """The sum of the kernel over each row and itself."""
    return x.double().square().sum(1).div(x.shape[1]).add(1).pow(3).sum()


def _mmd(sums: list[Tensor], n: Tensor | int, m: Tensor | int) -> Tensor:
    """Unbiased squared MMD from the kernel's sums over pairs of different images within each side and across."""
    within_a, within_b, across = sums
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)


def _needs_two(a: Tensor, b: Tensor) -> None:
    if min(len(a), len(b)) < 2:
        raise UsageError("The kernel distance needs at least two images on each side.")


def kernel_distance(
    a: Tensor, b: Tensor, groups: int = 20, seed: int = 0, progress: Progress | None = None
) -> Estimate:
    """Unbiased squared maximum mean discrepancy under (x.y / D + 1)^3: KID (Binkowski et al., arXiv:1801.01401).

    Over all pairs of images, not over subsets. The interval leaves out random groups of both sides together, so it is
    over resampling of both; where the distributions are equal it is wider than necessary.

    Args:
        a, b: features (N, D) and (M, D), at least two each; the interval is nan below four.
        groups: for the interval; fewer where there are few images.
    """
    _needs_two(a, b)
    groups = max(1, min(groups, len(a) // 2, len(b) // 2))
    of_a, of_b = shuffled_groups(len(a), groups, seed), shuffled_groups(len(b), groups, seed + 1)
    total, done = groups * (2 * groups + 1), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, "kernel sums")

    def within(x: Tensor, parts: list[Tensor]) -> Tensor:
        sums = x.new_zeros(groups, groups, dtype=torch.float64)
        for i, part in enumerate(parts):
            rows = x[part].double()
            for j in range(i, groups):
                sums[i, j] = sums[j, i] = _kernel_sum(rows, x[parts[j]])
                tick()
            sums[i, i] -= _kernel_trace(rows)
        return sums

    across = a.new_zeros(groups, groups, dtype=torch.float64)
    for i, part in enumerate(of_a):
        rows = a[part].double()
        for j in range(groups):
            across[i, j] = _kernel_sum(rows, b[of_b[j]])
            tick()

    sums = [within(a, of_a), within(b, of_b), across]
    n, m = (torch.tensor([len(part) for part in parts], device=a.device) for parts in (of_a, of_b))
    value = _mmd([part.sum() for part in sums], n.sum(), m.sum())
    without = [part.sum() - part.sum(0) - part.sum(1) + part.diagonal() for part in sums]  # (groups,) each
    return Estimate.jackknife(float(value), _mmd(without, n.sum() - n, m.sum() - m))


def kernel_distance_subsets(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of KID over random subsets without replacement: the published protocol.

    For comparison with published numbers: it is the deviation of one subset, not the error of the mean.
    """
    _needs_two(a, b)
    size = min(size, len(a), len(b))
    values = []
    for i in range(subsets):
        x = a[shuffled(len(a), fold(seed, 0, i))[:size]]
        y = b[shuffled(len(b), fold(seed, 1, i))[:size]]
        sums = [_kernel_sum(side, side) - _kernel_trace(side) for side in (x, y)]
        values.append(_mmd([*sums, _kernel_sum(x, y)], size, size))
    deviation, mean = torch.std_mean(torch.stack(values), unbiased=False)
    return float(mean), float(deviation)


def inception_score(probabilities: Tensor, groups: int = 20, seed: int = 0) -> Estimate:
    """exp E KL(p(y|x) || p(y)) (Salimans et al., arXiv:1606.03498) of a classifier's class probabilities (N, K).

    Over all images at once, where the published protocol averages ten splits. The interval is the jackknife's.
    """
    p = probabilities.double()
    parts = shuffled_groups(len(p), min(groups, len(p)), seed)
    count = torch.tensor([len(part) for part in parts], device=p.device)
    mass = torch.stack([p[part].sum(0) for part in parts])  # (groups, K)
    certainty = torch.stack([torch.xlogy(p[part], p[part]).sum() for part in parts])  # (groups,)

    def score(certainty: Tensor, mass: Tensor, n: Tensor) -> Tensor:
        marginal = mass / n[..., None]
        return (certainty / n - torch.xlogy(marginal, marginal).sum(-1)).exp()

    value = score(certainty.sum(), mass.sum(0), count.sum())
    left_out = score(certainty.sum() - certainty, mass.sum(0) - mass, count.sum() - count)
    return Estimate.jackknife(float(value), left_out)


def _closer(x: Tensor, y: Tensor, squared: Tensor, error: Tensor, radius: Tensor) -> Tensor:
    """Whether pairs are closer than radii that broadcast to them (N, M); pairs within the rounding error are
    computed exactly.
    """
    gap = squared - radius.square().to(squared.dtype)
    inside = gap < 0
    i, j = (gap.abs() <= error).nonzero(as_tuple=True)
    if len(i):
        inside[i, j] = distances_of(x, y, i, j) < radius.expand(inside.shape)[i, j]
    return inside


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int = 5, progress: Progress | None = None
) -> dict[str, Estimate]:
    """How much of the fake set looks real and how much of the real set is covered, by balls to the k-th neighbour.

    Precision and recall: Kynkaanniemi et al., arXiv:1904.06991. Density and coverage: Naeem et al., arXiv:2002.09797.
    Intervals are of the mean over fakes (precision, density) or reals (recall, coverage), the other set as it is.

    Args:
        real, fake: features (N, D) and (M, D), more than k each.
    """
    if min(len(real), len(fake)) <= k:
        raise UsageError(f"Precision and recall with {k} neighbours need more than {k} images on each side.")
    real_radius, fake_radius = (nearest(x, x, k, itself=True, progress=progress)[0][:, -1] for x in (real, fake))
    balls = fake_radius.new_zeros(len(fake))  # number of real balls around each fake
    covered, recalled = (torch.zeros(len(real), dtype=torch.bool, device=real.device) for _ in range(2))
    pairs = squared_distances(real, fake, real.mean(0), tile_dtype())
    for rows, columns, squared, error in pairs:
        tile = real[rows], fake[columns], squared, error
        in_real_ball = _closer(*tile, real_radius[rows, None])
        balls[columns] += in_real_ball.sum(0)
        covered[rows] |= in_real_ball.any(1)
        recalled[rows] |= _closer(*tile, fake_radius[None, columns]).any(1)
        if progress is not None:
            progress(rows.start * len(fake) + (rows.stop - rows.start) * columns.stop, len(real) * len(fake), "balls")
    return {
        "precision": Estimate.of_share(balls > 0),
        "recall": Estimate.of_share(recalled),
        "density": Estimate.of_mean(balls / k),
        "coverage": Estimate.of_share(covered),
    }
