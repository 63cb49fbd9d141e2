"""Copies of training images are found where they were planted, and nowhere else."""

import numpy as np
import pytest
import scipy.stats
import torch

from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.evaluation.memorisation import authenticity, closest_pairs, copying_test, memorisation

KINDS = torch.tensor([0.3, 0.6, 1.0, 1.5, 2.0])  # how far apart the images of each kind lie


def images(count, seed, kinds=5):
    """Features of a mixture of kinds of image, some alike and some not."""
    noise = Noise.of_seeds(range(seed * 10**6, seed * 10**6 + count))
    kind = noise.integers(kinds)
    return noise(16) * KINDS[kind][:, None] + 5 * torch.eye(16)[kind]


TRAIN, HELD_OUT = images(1500, 0), images(500, 1)


def test_images_drawn_from_the_truth_raise_no_alarm():
    result = [memorisation(TRAIN, HELD_OUT, images(600, 2 + i)) for i in range(8)]
    assert sum(f.evidence.startswith("no evidence of copying: ") for f in result) == 8
    assert all(f.exact == 0 for f in result)
    for f in result:  # half of unseen images are nearer than kin, half are not, and so are the fakes
        assert f.authenticity.low < f.control_authenticity.high and f.control_authenticity.low < f.authenticity.high


@pytest.mark.parametrize("blur", [0.0, 0.05])
def test_five_percent_of_copies_are_found_and_are_the_closest_pairs(blur):
    fake = images(600, 2)
    index = torch.arange(30) * 20
    source = Noise.of_seeds(range(30)).integers(1500)
    fake[index] = TRAIN[source] + blur * images(30, 3, kinds=1)
    result = memorisation(TRAIN, HELD_OUT, fake)
    assert result.evidence.startswith("evidence of copying: ") and result.test.tail_p < 1e-6
    assert result.exact == (30 if blur == 0 else 0)
    assert {(pair.fake, pair.train) for pair in result.pairs} <= {*zip(index.tolist(), source.tolist(), strict=True)}
    ratios = [pair.ratio for pair in result.pairs]
    assert len(result.pairs) == 16 and ratios == sorted(ratios)


def test_a_handful_of_exact_copies_is_evidence_where_controls_are_many():
    fake = images(600, 2)
    fake[:5] = TRAIN[:5]
    result = memorisation(TRAIN, images(6000, 1), fake)
    assert result.evidence.startswith("evidence of copying: ") and result.exact == 5


def test_a_model_that_only_copies_has_no_authenticity():
    result = memorisation(TRAIN, HELD_OUT, TRAIN[:200])
    assert result.authenticity.value == 0 and result.exact == 200 and result.test.z < -10
    assert result.control_authenticity.value > 0.3


def test_a_surplus_of_a_kind_whose_images_are_alike_is_no_evidence_of_copies():
    fake = torch.cat([images(300, 2), images(300, 3, kinds=1)])  # 60 % of the tightest kind, 20 % in truth
    assert memorisation(TRAIN, HELD_OUT, fake).evidence.startswith("no evidence")


def test_near_copies_of_an_image_that_the_training_set_holds_seven_times_are_found():
    train = torch.cat([TRAIN, TRAIN[:1].expand(6, -1)])
    fake = images(600, 2)
    fake[:30] = TRAIN[0] + 0.02 * images(30, 3, kinds=1)
    result = memorisation(train, HELD_OUT, fake)
    assert result.evidence.startswith("evidence of copying: ") and result.pairs[0].fake < 30
    assert sum(pair.fake < 30 for pair in result.pairs) == 1  # each training image once


def test_the_tail_test_keeps_its_level_at_any_number_of_controls():
    for controls in (3, 30, 300):
        draws = Noise.of_seeds(range(600)).uniform(200 + controls)
        p = np.array([copying_test(x[:200], x[200:]).tail_p for x in draws])
        assert np.mean(p < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
        assert np.mean(p <= 0.2) < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 600)


def test_the_tails_chance_is_that_of_counting_orders():
    # two controls, r = 1: of 3 fakes and 2 controls, both fakes that are nearest come first in 3/5 * 2/4 of all orders
    result = copying_test(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([3.0, 4.0]))
    assert result.tail_p == pytest.approx(0.3) and result.share.value == pytest.approx(2 / 3)
    assert result.expected == pytest.approx(1 / 3)


def test_the_test_of_ranks_equals_scipys_with_ties():
    noise = Noise.of_seeds(range(2))
    fake, control = noise.integers(9, 40)[0], noise.integers(11, 30)[1]
    result = copying_test(fake, control)
    expected = scipy.stats.mannwhitneyu(fake, control, alternative="less", method="asymptotic", use_continuity=False)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9)
    alike = copying_test(torch.ones(5), torch.ones(4))
    assert alike.z == 0 and alike.tail_p == 1 and alike.share.value == 0  # ties speak for the fakes
    with pytest.raises(UsageError):
        copying_test(fake, control[:0])


def test_authenticity_and_pairs_of_distances_given_by_hand():
    assert authenticity(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.tensor([2.0, 2.0, 2.0, 0.0])).value == 0.25
    pairs = closest_pairs(
        torch.tensor([4.0, 1.0, 2.0, 3.0]), torch.tensor([7, 5, 5, 6]), torch.tensor([8.0, 1, 1, 9]), 2
    )
    assert [(pair.fake, pair.train, pair.distance) for pair in pairs] == [(3, 6, 3.0), (0, 7, 4.0)]
