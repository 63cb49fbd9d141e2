"""Metrics against closed forms and hand-placed points."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.evaluation import neighbours
from reverie.evaluation.distances import (
    frechet_distance,
    frechet_estimate,
    frechet_infinity,
    frechet_influence,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall_density_coverage,
)
from reverie.evaluation.estimate import Estimate, chance_of_at_most
from reverie.evaluation.neighbours import nearest
from reverie.evaluation.statistics import Moments


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


def test_a_part_taken_out_of_moments_leaves_those_of_the_rest():
    x = normals(500, 7) @ normals(7, 7, seed=1) + 100
    rest = Moments.of(x) - Moments.of(x[100:350])
    expected = Moments.of(torch.cat([x[:100], x[350:]]))
    assert rest.count == 250
    assert torch.allclose(rest.mean, expected.mean, rtol=1e-13)
    assert torch.allclose(rest.scatter, expected.scatter, rtol=1e-10)
    with pytest.raises(ValueError, match="without all"):
        _ = expected - expected


def test_moments_of_float32_features_are_taken_in_float64():
    x = (normals(9000, 3) + 1000).float()
    assert np.allclose(Moments.of(x).covariance, np.cov(x.double().T.numpy()), rtol=1e-10)


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


def test_the_influences_are_the_derivative_of_the_frechet_distance_in_the_weight_of_each_feature():
    x, reference = normals(30, 4) * 1.3 + 0.2, Moments.of(normals(50, 4, seed=1) @ normals(4, 4, seed=2))

    def weighted(weight):
        mean = weight @ x
        centred = x - mean
        covariance = (weight[:, None] * centred).T @ centred  # of the empirical distribution: no n / (n - 1)
        return frechet_distance(reference, Moments(2, mean, covariance))

    even = torch.full((30,), 1 / 30, dtype=torch.float64)
    _, influence = frechet_influence(x.repeat(4000, 1), reference)  # so many that the covariance's n - 1 is n
    for i in range(0, 30, 7):
        step = 1e-5 * (torch.eye(30, dtype=torch.float64)[i] - even)
        slope = (weighted(even + step) - weighted(even - step)) / 2e-5
        assert float(influence[i]) == pytest.approx(slope, rel=1e-4, abs=1e-4)
    assert float(influence[:30].sum()) == pytest.approx(0, abs=1e-6)


def test_the_interval_of_the_frechet_distance_covers_its_expectation():
    reference = gaussian(torch.zeros(4), torch.diag(torch.tensor([0.5, 1.0, 1.5, 2.0])))
    result = [frechet_estimate(normals(200, 4, seed=i) * 1.2 + 0.3, reference) for i in range(200)]
    mean = np.mean([f.value for f in result])
    assert 0.89 <= np.mean([f.low <= mean <= f.high for f in result]) <= 0.99
    assert result[0].value == pytest.approx(frechet_distance(Moments.of(normals(200, 4) * 1.2 + 0.3), reference))
    rank_deficient = frechet_estimate(normals(5, 20), Moments.of(normals(60, 20, seed=1)))
    assert math.isfinite(rank_deficient.low) and math.isfinite(rank_deficient.high)


def test_frechet_infinity_takes_away_the_bias_of_a_finite_sample():
    variances = 1 / torch.arange(1, 17).double()
    reference, true = gaussian(torch.zeros(16), torch.diag(variances)), float(16 * 0.2**2)
    samples = [normals(160, 16, seed=i) * variances.sqrt() + 0.2 for i in range(40)]
    plain = np.array([frechet_distance(Moments.of(x), reference) for x in samples]) - true
    result = [frechet_infinity(x, reference) for x in samples]
    infinite = np.array([f.value for f in result]) - true
    assert plain.mean() > 5 * plain.std() / math.sqrt(40)  # biased upwards, beyond doubt
    assert abs(infinite.mean()) < 0.1 * plain.mean() + 2 * infinite.std() / math.sqrt(40)
    assert np.sqrt((infinite**2).mean()) < 0.7 * np.sqrt((plain**2).mean())
    assert np.mean([f.low <= true <= f.high for f in result]) >= 0.8
    assert frechet_infinity(samples[0], reference) == result[0]


def test_the_kernel_distance_of_equal_distributions_is_unbiased_and_grows_with_a_shift():
    result = [
        kernel_distance(normals(60, 8, seed=2 * i + 10), normals(40, 8, seed=2 * i + 11), groups=2) for i in range(200)
    ]
    values = [f.value for f in result]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values)) and min(values) < 0
    near, far = (kernel_distance(normals(200, 8), normals(200, 8, seed=1) + shift) for shift in (0.5, 1.0))
    assert near.low > 0 and near.value < far.value
    with pytest.raises(UsageError):
        kernel_distance(normals(1, 8), normals(9, 8))


def double_sum(a, b):
    """The kernel distance by its definition, pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    return (
        np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
        + np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
        - 2 * np.mean([kernel(x, y) for x in a for y in b])
    )


@pytest.mark.parametrize(("n", "m"), [(2, 2), (5, 4), (23, 31)])
def test_the_kernel_distance_equals_its_double_sum(n, m):
    a, b = normals(n, 3), normals(m, 3, seed=1)
    result = kernel_distance(a, b, groups=4)
    assert result.value == pytest.approx(double_sum(a, b), rel=1e-12)
    assert math.isnan(result.low) == (n < 4)
    assert kernel_distance_subsets(a, b, subsets=1, size=m)[1] == 0
    if n == m:
        assert kernel_distance_subsets(a, b, subsets=1)[0] == pytest.approx(result.value, rel=1e-12)


def test_the_interval_of_the_kernel_distance_covers_the_true_value():
    shift, dimension = 0.3, 4
    # E k(x, y) of normals with means p, q: moments of (x.y / D + 1)^3, term by term
    squared = dimension * shift**2

    def expected(dot, lengths):
        second = dot**2 + lengths + dimension
        third = dot**3 + 3 * dot * lengths + 3 * dot * (dimension + 2)
        return 1 + 3 * dot / dimension + 3 * second / dimension**2 + third / dimension**3

    true = expected(squared, 2 * squared) + expected(0, 0) - 2 * expected(0, squared)
    result = [
        kernel_distance(normals(100, dimension, seed=2 * i) + shift, normals(150, dimension, seed=2 * i + 1), groups=10)
        for i in range(100)
    ]
    assert np.mean([f.value for f in result]) == pytest.approx(true, rel=0.1)
    assert np.mean([f.low <= true <= f.high for f in result]) >= 0.86


def test_the_kernel_distance_of_subsets_agrees_with_that_of_all_and_repeats():
    a, b = normals(400, 6), normals(400, 6, seed=1) + 0.3
    mean, deviation = kernel_distance_subsets(a, b, subsets=50, size=100)
    assert abs(mean - kernel_distance(a, b).value) < 4 * deviation / math.sqrt(50)
    assert kernel_distance_subsets(a, b, subsets=50, size=100) == (mean, deviation)


def test_the_inception_score_of_known_posteriors():
    assert inception_score(torch.eye(7).repeat(3, 1)).value == pytest.approx(7)  # sure and even: the number of classes
    assert inception_score(torch.full((9, 5), 0.2)).value == pytest.approx(1)  # knows nothing
    assert inception_score(torch.eye(7)[:1].repeat(5, 1)).value == pytest.approx(1)  # one class only
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    assert inception_score(p).value == pytest.approx(
        math.exp(math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)), rel=1e-6
    )
    many = [inception_score((2 * normals(300, 5, seed=i)).softmax(1)) for i in range(60)]
    mean = np.mean([f.value for f in many])
    assert np.mean([f.low <= mean <= f.high for f in many]) >= 0.85


def test_precision_recall_density_and_coverage_of_points_placed_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])  # radii to the nearest: 1, 1, 1, 8
    fake = torch.tensor([[0.5], [1.5], [30.0], [31.0]])  # radii to the nearest: 1, 1, 1, 1
    result = precision_recall_density_coverage(real, fake, k=1)
    # 0.5 lies in the balls of 0, 1; 1.5 in those of 1, 2 (10 - 1.5 > 8); 30 and 31 in none
    assert result["precision"].value == 0.5 and result["density"].value == pytest.approx((2 + 2) / 4)
    # 0, 1, 2 lie within 1 of 0.5 or 1.5; 10 does not
    assert result["recall"].value == 0.75
    # the balls of 0, 1, 2 hold a fake; that of 10 does not
    assert result["coverage"].value == 0.75
    with pytest.raises(UsageError):
        precision_recall_density_coverage(real, fake, k=4)
    assert result["precision"].low > 0 and result["precision"].high < 1


def test_precision_and_recall_do_not_depend_on_tiles_nor_on_rounding_at_the_rim_of_a_ball(monkeypatch):
    real, fake = normals(150, 20) + 30, normals(120, 20, seed=1) * 0.9 + 30
    fake[:60] = real[:60]  # a copy lies on the rim of its neighbours' balls, where rounding would decide
    apart = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist")

    def radius(x):
        return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(6, dim=1).values

    in_real = apart < radius(real)[:, None] * (1 - 1e-12)
    for memory in (neighbours.MEMORY, 10_000):
        monkeypatch.setattr(neighbours, "MEMORY", memory)
        result = precision_recall_density_coverage(real, fake)
        assert result["density"].value == pytest.approx(float(in_real.sum()) / 5 / 120, rel=1e-12)
        assert result["precision"].value == float(in_real.any(0).double().mean())
        assert result["coverage"].value == float(in_real.any(1).double().mean())
        recalled = (apart < radius(fake) * (1 - 1e-12)).any(1)
        assert result["recall"].value == float(recalled.double().mean())


@pytest.mark.parametrize("dimension", [1, 40])
def test_nearest_neighbours_equal_brute_force_whatever_the_tiles(monkeypatch, dimension):
    x, y = normals(90, dimension) + 50, normals(140, dimension, seed=1) + 50
    y[7] = y[8] = y[9]
    across, within = (torch.cdist(a, y, compute_mode="donot_use_mm_for_euclid_dist") for a in (x, y))
    for memory in (neighbours.MEMORY, 10_000):
        monkeypatch.setattr(neighbours, "MEMORY", memory)
        distance, index = nearest(x, y, 3)
        assert torch.allclose(distance, across.sort(1).values[:, :3], rtol=1e-13)
        assert torch.allclose(distance, across.gather(1, index), rtol=1e-13)
        distance, index = nearest(y, y, 3, itself=True)
        assert not (index == torch.arange(140)[:, None]).any()
        assert torch.allclose(distance, within.clone().fill_diagonal_(math.inf).sort(1).values[:, :3], rtol=1e-13)
        assert distance[7:10, :2].eq(0).all()  # a duplicate is a neighbour
        some = torch.tensor([3, 99, 8])
        assert torch.equal(nearest(y[some], y, 3, itself=some)[0], distance[some])


def test_neighbours_that_float32_cannot_tell_apart_are_still_exact():
    crowd = (normals(5, 30) * 10)[torch.arange(300) % 5] + 1e-6 * normals(300, 30, seed=1)
    distance, _ = nearest(crowd, crowd, 4, itself=True)
    expected = torch.cdist(crowd, crowd, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    assert torch.allclose(distance, expected.sort(1).values[:, :4], rtol=1e-9)
    assert (distance < 1e-4).all()
    with pytest.raises(UsageError):
        nearest(crowd[:4], crowd[:4], 4, itself=True)


def test_estimates_are_those_of_textbooks():
    mean = Estimate.of_mean(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert mean.value == 2.5 and mean.half_width == pytest.approx(1.959964 * math.sqrt(5 / 3 / 4), rel=1e-6)
    share = Estimate.of_share(torch.arange(10) < 0)  # Wilson's interval of none out of ten
    assert share.low == 0 and share.high == pytest.approx(0.2775, abs=1e-4)
    x = normals(19, 1)[:, 0]
    left_out = (x.sum() - x) / 18  # the jackknife of a mean is its standard error, with Student's quantile
    result = Estimate.jackknife(float(x.mean()), left_out)
    assert result.half_width == pytest.approx(2.100922 * float(x.std()) / math.sqrt(19), rel=1e-4)
    chance = chance_of_at_most(torch.tensor([3, 0, 9]), torch.tensor([10, 5, 10]), 20, 12)
    expected = [scipy.stats.hypergeom.cdf(k, 20 + m, m, 12) for k, m in ((3, 10), (0, 5), (9, 10))]
    assert np.allclose(chance, expected, rtol=1e-10)


def test_progress_is_told_and_ends_at_the_whole():
    seen = {}
    a, b = normals(30, 3), normals(40, 3, seed=1)

    def progress(done, total, what):
        assert 0 < done <= total
        seen[what] = done / total

    precision_recall_density_coverage(a, b, progress=progress)
    kernel_distance(a, b, progress=progress)
    frechet_infinity(a, Moments.of(b), progress=progress)
    assert len(seen) == 4 and set(seen.values()) == {1.0}


class Known(torch.nn.Module):
    """A feature extractor for torchmetrics that is given features."""

    num_features = 12

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore")
def test_frechet_and_kernel_distance_and_inception_score_equal_torchmetrics():
    pytest.importorskip("torchmetrics")
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    real, fake = normals(200, 12).float(), normals(200, 12, seed=1).float() * 1.2 + 0.3
    theirs = {
        "fid": FrechetInceptionDistance(feature=Known()),
        "kid": KernelInceptionDistance(feature=Known(), subsets=1, subset_size=200),
    }
    for metric in theirs.values():
        metric.update(real, real=True)
        metric.update(fake, real=False)
    assert frechet_distance(Moments.of(fake), Moments.of(real)) == pytest.approx(
        theirs["fid"].compute().item(), rel=1e-4
    )
    assert kernel_distance(fake, real).value == pytest.approx(theirs["kid"].compute()[0].item(), rel=1e-4)
    score = InceptionScore(feature=Known(), splits=1)
    score.update(fake)
    assert inception_score(fake.softmax(1)).value == pytest.approx(score.compute()[0].item(), rel=1e-5)
