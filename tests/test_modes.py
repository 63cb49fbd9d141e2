"""Classes that a model never makes are found, and classes that it makes are not."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.evaluation.modes import Probe, mode_coverage, stacked_modes

CENTRES = Noise.of_seeds(range(10))(24)


def labelled(count, seed, classes=10, apart=1.0):
    noise = Noise.of_seeds(range(seed * 10**6, seed * 10**6 + count))
    labels = noise.integers(classes)
    return 100 + 3 * (noise(24) + apart * CENTRES[labels]), labels


def test_a_probe_predicts_as_scikit_learns_of_the_same_decay():
    x, y = labelled(800, 1, apart=0.5)
    held, truth = labelled(500, 2, apart=0.5)
    probe = Probe.fit(x, y, 10)
    x, ours = (x - probe.mean) / probe.deviation, (held - probe.mean) / probe.deviation
    theirs = LogisticRegression(C=1 / (len(x) * probe.decay), max_iter=1000, tol=1e-7).fit(x, y)
    assert torch.allclose(probe.probabilities(held).double(), torch.as_tensor(theirs.predict_proba(ours)), atol=2e-3)
    assert probe.accuracy(held, truth) == pytest.approx(theirs.score(ours, truth), abs=0.003)
    assert probe.accuracy(held, truth) > 0.7


def test_a_probe_of_features_without_information_keeps_to_the_shares_of_the_classes():
    x, y = labelled(300, 1, apart=0.0)
    held, _ = labelled(500, 2)
    x[:, 3] = 7  # a feature that never varies
    probe = Probe.fit(x, y, 10)
    assert probe.decay == 1.0 and probe.probabilities(held).max() < 0.5


def test_a_probe_refuses_labels_that_are_no_class():
    x, y = labelled(50, 1)
    for labels, classes in ((y - 1, 10), (y, 5), (y[:20], 10)):
        with pytest.raises(UsageError):
            Probe.fit(x, labels, classes)


@pytest.mark.parametrize(("apart", "accuracy"), [(1.0, 0.98), (0.6, 0.83)])
def test_two_missing_classes_are_found_through_a_probe_that_errs(apart, accuracy):
    probe = Probe.fit(*labelled(1500, 1, apart=apart), 10)
    assert probe.accuracy(*labelled(1000, 2, apart=apart)) == pytest.approx(accuracy, abs=0.01)
    real, same, fewer = (
        probe.predict(labelled(1000, seed, classes, apart)[0]) for seed, classes in ((2, 10), (3, 10), (4, 8))
    )
    full, partial = mode_coverage(same, real, 10), mode_coverage(fewer, real, 10)
    assert full.missing == [] and full.total_variation < 0.1 and full.kl < 0.02
    assert partial.missing == [8, 9] and partial.kl > 0.1 and partial.total_variation > 0.1


def test_real_images_have_no_missing_classes_even_where_some_are_rare():
    shares = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01]).cumsum(0)[:-1]
    draws = torch.bucketize(Noise.of_seeds(range(200)).uniform(900), shares)
    assert sum(bool(mode_coverage(row[:400], row[400:], 10).missing) for row in draws) <= 2


def test_mode_coverage_of_counts_given_by_hand():
    result = mode_coverage(torch.tensor([0] * 30), torch.tensor([0] * 15 + [1] * 15), 2)
    assert result.fake.tolist() == [30, 0] and result.data.tolist() == [15, 15] and result.missing == [1]
    assert result.total_variation == 0.5 and result.kl == pytest.approx(math.log(31 / 15.5))
    chance = math.comb(45, 30) / math.comb(60, 30)  # that 30 of all 60 miss the 15
    assert result.p.tolist() == pytest.approx([1.0, chance])
    assert mode_coverage(torch.tensor([0] * 3), torch.tensor([0, 1]), 2).missing == []  # too few to tell
    with pytest.raises(UsageError):
        mode_coverage(torch.tensor([2]), torch.tensor([0]), 2)


def test_stacked_modes_of_digits_given_by_hand():
    everything = torch.cartesian_prod(*[torch.arange(10)] * 3)
    modes, kl = stacked_modes(everything.repeat(2, 1))
    assert modes == 1000 and kl == pytest.approx(0, abs=1e-12)
    modes, kl = stacked_modes(torch.tensor([[1, 2, 3]] * 3 + [[3, 2, 1]]))
    assert modes == 2 and kl == pytest.approx(math.log(1000) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    with pytest.raises(UsageError):
        stacked_modes(torch.tensor([[1, 2, 10]]))
