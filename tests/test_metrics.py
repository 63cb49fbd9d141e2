"""Metrics against closed forms and hand-placed points."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from reverie.errors import UsageError
from reverie.metrics.distances import (
    frechet_distance,
    inception_score,
    kernel_distance,
    kernel_distance_interval,
    precision_recall_density_coverage,
)
from reverie.metrics.statistics import Moments
from reverie.noise import Noise


def normals(count, dimension, seed=0):
    return Noise.of_seeds(range(seed * 10**6, seed * 10**6 + count))(dimension).double()


def test_streamed_moments_equal_those_of_all_features_at_once_in_any_order_of_merging():
    x = normals(500, 7) @ normals(7, 7, seed=1) + 100
    parts = [Moments.of(part) for part in x.split([1, 130, 69, 300])]
    forwards = parts[0] + parts[1] + parts[2] + parts[3]
    backwards = (parts[3] + parts[2]) + (parts[1] + parts[0])
    for merged in (forwards, backwards):
        assert merged.count == 500
        assert np.allclose(merged.mean, x.mean(0), rtol=1e-13)
        assert np.allclose(merged.covariance, np.cov(x.T.numpy()), rtol=1e-9)
    with pytest.raises(ValueError, match="two features"):
        _ = parts[0].covariance


def gaussian(mean, covariance):
    count = 1000  # any: moments are given, not sampled
    return Moments(count, torch.as_tensor(mean).double(), torch.as_tensor(covariance).double() * (count - 1))


def test_the_frechet_distance_of_commuting_gaussians_is_its_closed_form():
    a, b = gaussian([1.0, 2.0, 3.0], np.diag([1.0, 4.0, 9.0])), gaussian([0.0, 2.0, 5.0], np.diag([4.0, 4.0, 0.0]))
    expected = (1 + 0 + 4) + ((1 - 2) ** 2 + 0 + (3 - 0) ** 2)  # sum of (mean gaps)^2 + (gaps of deviations)^2
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_equals_scipys_matrix_square_root_and_is_symmetric():
    a, b = Moments.of(normals(300, 20)), Moments.of(normals(200, 20, seed=2) * 1.5 + 0.3)
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    gap = (a.mean - b.mean).square().sum().item()
    expected = gap + float(a.covariance.trace() + b.covariance.trace()) - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_stays_real_where_covariances_are_rank_deficient():
    a, b = Moments.of(normals(5, 40)), Moments.of(normals(6, 40, seed=3))
    assert math.isfinite(frechet_distance(a, b)) and frechet_distance(a, b) > 0


def test_the_kernel_distance_of_equal_distributions_is_unbiased_and_grows_with_a_shift():
    found = [kernel_distance(normals(60, 8, seed=2 * i + 10), normals(40, 8, seed=2 * i + 11)) for i in range(200)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error and min(found) < 0
    near, far = (kernel_distance(normals(200, 8), normals(200, 8, seed=1) + shift) for shift in (0.5, 1.0))
    assert 0 < near < far
    with pytest.raises(UsageError):
        kernel_distance(normals(1, 8), normals(9, 8))


def test_the_kernel_distance_equals_its_double_sum():
    a, b = normals(5, 3), normals(4, 3, seed=1)

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    expected = (
        np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
        + np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
        - 2 * np.mean([kernel(x, y) for x in a for y in b])
    )
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_the_interval_of_the_kernel_distance_covers_the_whole_sets_value_and_repeats():
    a, b = normals(400, 6), normals(400, 6, seed=1) + 0.3
    mean, error = kernel_distance_interval(a, b, subsets=50, size=100)
    assert abs(mean - kernel_distance(a, b)) < 4 * error
    assert kernel_distance_interval(a, b, subsets=50, size=100) == (mean, error)


def test_the_inception_score_of_known_posteriors():
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7)  # sure and even: the number of classes
    assert inception_score(torch.full((9, 5), 0.2)) == pytest.approx(1)  # knows nothing
    assert inception_score(torch.eye(7)[:1].repeat(5, 1)) == pytest.approx(1)  # one class only
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(p) == pytest.approx(
        math.exp(math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)), rel=1e-6
    )


def test_precision_recall_density_and_coverage_of_points_placed_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii to the nearest: 1, 1, 1, 8
    fake = torch.tensor([[0.5], [1.5], [30.0], [31.0]])  # radii to the nearest: 1, 1, 1, 1
    found = precision_recall_density_coverage(real, fake, k=1)
    # 0.5 lies in the balls of 0, 1; 1.5 in those of 1, 2 (10 - 1.5 > 8); 30 and 31 in none
    assert found["precision"] == 0.5 and found["density"] == pytest.approx((2 + 2) / 4)
    # 0, 1, 2 lie within 1 of 0.5 or 1.5; 10 does not
    assert found["recall"] == 0.75
    # the balls of 0, 1, 2 hold a fake; that of 10 does not
    assert found["coverage"] == 0.75
    with pytest.raises(UsageError):
        precision_recall_density_coverage(real, fake, k=4)
