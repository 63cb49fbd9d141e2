"""Evidence that a model copies training images: fakes against held-out controls.

The statistic is the distance to the nearest training image; held-out real images are the controls. The tests are exact,
or nearly so, when fakes and controls are exchangeable, so a model of the true distribution rarely raises an alarm. A
small p-value means that fakes are closer to the training set than unseen images are. Copies are one cause, images
plainer than real ones another: look at the pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.evaluation.estimate import Estimate, chance_of_at_most
from reverie.evaluation.neighbours import Progress, nearest

ALARM = 0.01  # false-alarm rate of ``Memorisation.evidence``, over both tests


@dataclass(frozen=True)
class CopyingTest:
    """Distances of fakes to the training set against those of controls.

    Attributes:
        z: Mann-Whitney's statistic in standard deviations; negative where fakes are closer than controls.
        p: probability of a z this low under exchangeability (normal approximation, corrected for ties).
        share: of fakes closer than all but the closest few controls.
        expected: that share under exchangeability.
        tail_p: probability of at least such a share under exchangeability, exact at any number of controls.
            (Ties count in favour of the fakes.)
    """

    z: float
    p: float
    share: Estimate
    expected: float
    tail_p: float


@dataclass(frozen=True)
class Pair:
    """A fake, its nearest training image, their distance, and its ratio to the local scale of distances."""

    fake: int
    train: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class Memorisation:
    """Evidence for copies of training images among the fakes.

    Attributes:
        authenticity: share of fakes farther from their nearest training image than that is from the other training
            images (Alaa et al., arXiv:2102.08921).
        control_authenticity: the same of unseen real images: the value expected of a model that copies nothing.
        test: fakes against controls.
        exact: number of fakes at distance 0 from a training image.
        pairs: the most suspicious fakes, worst first.
    """

    authenticity: Estimate
    control_authenticity: Estimate
    test: CopyingTest
    exact: int
    pairs: list[Pair]

    @property
    def evidence(self) -> str:
        """One sentence; it reports evidence where either test's p-value is below half of ``ALARM``."""
        test = self.test
        share, expected = 100 * test.share.value, 100 * test.expected
        tail = f"{share:.1f} % of the images are as close to a training image, relative to its neighbours, as the"
        tail += f" closest {expected:.2g} % of unseen real images (p = {test.tail_p:.2g})"
        if test.tail_p < ALARM / 2:
            return f"evidence of copying: {tail}"
        if test.p < ALARM / 2:
            closer = "overall the images are closer to training images than unseen real ones are"
            return f"evidence of copying, or of images plainer than real ones: {closer} (p = {test.p:.2g})"
        return f"no evidence of copying: {tail}"


def authenticity(distance: Tensor, neighbour_distance: Tensor) -> Estimate:
    """AuthPct (Alaa et al., arXiv:2102.08921): share of images farther from a training image than its neighbours are.

    Args:
        distance: (N,) of each image to its nearest training image.
        neighbour_distance: (N,) of that training image to its nearest neighbour in the training set.
    """
    return Estimate.of_share(distance > neighbour_distance)


def copying_test(fake: Tensor, control: Tensor, quantile: float = 0.01) -> CopyingTest:
    """Are fakes closer to the training set than held-out real images: overall, or a few of them by a wide margin?

    Overall: Mann and Whitney's U, as in Meehan et al., arXiv:2004.05675. A few: under exchangeability, the number of
    the N fakes that are closer than the r-th closest of H controls follows the negative hypergeometric distribution.
    It is tested at r = 1 and at the ``quantile`` of the controls; the smaller p-value is doubled.

    Args:
        fake, control: distances (N,) and (H,) to the nearest training image, in any unit.
    """
    n, h = len(fake), len(control)
    if not (n and h):
        raise UsageError("A copying test needs generated images and held-out real ones.")
    fake, control = fake.double(), control.double()
    _, rank_group, size = torch.cat([fake, control]).unique(return_inverse=True, return_counts=True)
    size = size.double()
    rank = (size.cumsum(0) - (size - 1) / 2)[rank_group]  # ties share their mean rank
    u = float(rank[:n].sum()) - n * (n + 1) / 2  # pairs where the fake is farther
    total = n + h
    variance = n * h / 12 * (total + 1 - float((size**3 - size).sum()) / (total * (total - 1)))
    z = (u - n * h / 2) / math.sqrt(variance) if variance > 0 else 0.0

    ends = {1, max(1, round(quantile * h))}

    def tail(r: int) -> tuple[float, int, Tensor]:
        near = fake < control.kthvalue(r).values
        # at least this many fakes precede the r-th control if the first hits + r - 1 contain fewer than r controls
        return float(chance_of_at_most(r - 1, h, n, int(near.sum()) + r - 1)), r, near

    tail_p, r, near = min((tail(r) for r in ends), key=lambda result: result[0])
    p = 0.5 * math.erfc(-z / math.sqrt(2))
    return CopyingTest(z, p, Estimate.of_share(near), r / (h + 1), min(1.0, len(ends) * tail_p))


def closest_pairs(distance: Tensor, index: Tensor, scale: Tensor, count: int = 16) -> list[Pair]:
    """The ``count`` fakes closest to a training image in units of ``scale``, each training image once.

    Args:
        distance, index: (N,) of each fake to its nearest training image, and that image's row.
        scale: (N,) the usual distance around that training image, positive.
    """
    ratio = distance / scale
    pairs: dict[int, Pair] = {}
    for i in ratio.argsort(stable=True).tolist():
        if len(pairs) == count:
            break
        train = int(index[i])
        pairs.setdefault(train, Pair(i, train, float(distance[i]), float(ratio[i])))
    return list(pairs.values())


def memorisation(
    train: Tensor, held_out: Tensor, fake: Tensor, pairs: int = 16, progress: Progress | None = None
) -> Memorisation:
    """All evidence from features of training images (M, D), held-out real ones (H, D) and fakes (N, D).

    The unit of a distance is the training image's distance to its fifth neighbour (their median where that is 0). So an
    excess of images from a dense region is no evidence of copies, while copies in sparse regions, or of images that the
    training set contains twice, are detected. Only the authenticity uses the first neighbour, as published.
    """
    if len(train) < 2:
        raise UsageError("A copying test needs at least two training images.")
    distance, index = (column[:, 0] for column in nearest(fake, train, progress=progress))
    control, control_index = (column[:, 0] for column in nearest(held_out, train, progress=progress))
    used, inverse = torch.cat([index, control_index]).unique(return_inverse=True)
    around, _ = nearest(train[used], train, min(5, len(train) - 1), itself=used, progress=progress)
    first, fifth = around[inverse, 0], around[inverse, -1]
    positive = fifth[fifth > 0]
    scale = torch.where(fifth > 0, fifth, positive.median() if len(positive) else 1.0)
    n = len(fake)
    return Memorisation(
        authenticity(distance, first[:n]),
        authenticity(control, first[n:]),
        copying_test(distance / scale[:n], control / scale[n:]),
        int((distance == 0).sum()),
        closest_pairs(distance, index, scale[:n], pairs),
    )
