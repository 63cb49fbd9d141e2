"""Evidence that a model hands out its training pictures: fakes against pictures that it never saw.

What counts is how near a picture comes to a training picture. Held-out real pictures are the controls: so near comes
one that copies nothing. The tests are exact, or nearly, where fakes and controls are exchangeable, so a model that
draws from the true distribution is seldom accused. A small p-value says that pictures are nearer to the training set
than unseen ones are. Copies are one reason for it, pictures plainer than real ones another: look at the pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.metrics.estimate import Estimate, chance_of_at_most
from reverie.metrics.neighbours import Progress, nearest

ALARM = 0.01  # false alarms that ``Memorisation.evidence`` allows itself, over both tests


@dataclass(frozen=True)
class CopyingTest:
    """How near fakes come to the training set against how near controls do.

    Attributes:
        z: Mann-Whitney's statistic in standard deviations; negative where fakes are nearer than controls.
        p: the chance of a z this low under exchangeability (normal approximation, ties corrected).
        share: of fakes nearer than all controls but the nearest few.
        expected: the share of fakes that exchangeability expects there.
        tail_p: the chance of such a share or more under exchangeability, exact at any number of controls.
            (Ties speak for the fakes.)
    """

    z: float
    p: float
    share: Estimate
    expected: float
    tail_p: float


@dataclass(frozen=True)
class Pair:
    """A fake, the training picture nearest to it, their distance, and that over what is usual around the latter."""

    fake: int
    train: int
    distance: float
    ratio: float


@dataclass(frozen=True)
class Memorisation:
    """What speaks for copies of training pictures among the fakes.

    Attributes:
        authenticity: share of fakes farther from their nearest training picture than this is from the other training
            pictures (Alaa et al., arXiv:2102.08921).
        control_authenticity: the same of unseen real pictures, which is what to expect of a model that copies nothing.
        test: fakes against controls.
        exact: how many fakes are at distance 0 from a training picture.
        pairs: the most suspect fakes, worst first.
    """

    authenticity: Estimate
    control_authenticity: Estimate
    test: CopyingTest
    exact: int
    pairs: list[Pair]

    @property
    def evidence(self) -> str:
        """One sentence; it speaks of evidence where either test's p-value is below half of ``ALARM``."""
        test = self.test
        share, expected = 100 * test.share.value, 100 * test.expected
        tail = f"{share:.1f} % of the pictures come as near to a training picture, for its surroundings, as the nearest"
        tail += f" {expected:.2g} % of unseen real pictures (p = {test.tail_p:.2g})"
        if test.tail_p < ALARM / 2:
            return f"evidence of copying: {tail}"
        if test.p < ALARM / 2:
            whole = "on the whole the pictures are nearer to training pictures than unseen real ones are"
            return f"evidence of copying, or of pictures plainer than real ones: {whole} (p = {test.p:.2g})"
        return f"no evidence of copying: {tail}"


def authenticity(distance: Tensor, own: Tensor) -> Estimate:
    """AuthPct (Alaa et al., arXiv:2102.08921): how many pictures are no nearer to a training picture than its kin are.

    Args:
        distance: (N,) of each picture to its nearest training picture.
        own: (N,) of that training picture to its own nearest among the training pictures.
    """
    return Estimate.of_share(distance > own)


def copying_test(fake: Tensor, control: Tensor, quantile: float = 0.01) -> CopyingTest:
    """Are fakes nearer to the training set than held-out real pictures: on the whole, or a few of them by much?

    On the whole: Mann and Whitney's U, the idea of Meehan et al., arXiv:2004.05675. A few: how many of N fakes are
    nearer than the r-th nearest of H controls depends on nothing but r, H and N under exchangeability, and follows the
    negative hypergeometric distribution. It is taken at r = 1 and where r is the ``quantile`` of the controls; the
    result is that of the smaller p-value, doubled.

    Args:
        fake, control: distances (N,) and (H,) to the nearest training picture, in any unit.
    """
    n, h = len(fake), len(control)
    if not (n and h):
        raise UsageError("A test for copies needs generated pictures and held-out real ones.")
    fake, control = fake.double(), control.double()
    _, rank_group, size = torch.cat([fake, control]).unique(return_inverse=True, return_counts=True)
    size = size.double()
    rank = (size.cumsum(0) - (size - 1) / 2)[rank_group]  # of ties: their mean
    u = float(rank[:n].sum()) - n * (n + 1) / 2  # pairs where the fake is farther
    total = n + h
    variance = n * h / 12 * (total + 1 - float((size**3 - size).sum()) / (total * (total - 1)))
    z = (u - n * h / 2) / math.sqrt(variance) if variance > 0 else 0.0

    ends = {1, max(1, round(quantile * h))}

    def tail(r: int) -> tuple[float, int, Tensor]:
        near = fake < control.kthvalue(r).values
        # so many fakes come before the r-th control where the first hits + r - 1 of all hold fewer than r controls
        return float(chance_of_at_most(r - 1, h, n, int(near.sum()) + r - 1)), r, near

    tail_p, r, near = min((tail(r) for r in ends), key=lambda found: found[0])
    whole_p = 0.5 * math.erfc(-z / math.sqrt(2))
    return CopyingTest(z, whole_p, Estimate.of_share(near), r / (h + 1), min(1.0, len(ends) * tail_p))


def closest_pairs(distance: Tensor, index: Tensor, scale: Tensor, count: int = 16) -> list[Pair]:
    """The ``count`` fakes nearest to a training picture in units of ``scale``, each training picture once.

    Args:
        distance, index: (N,) of each fake to its nearest training picture, and which that is.
        scale: (N,) what distance is usual around that training picture, positive.
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
    """All the evidence from features of training pictures (M, D), held-out real ones (H, D) and fakes (N, D).

    Distances are taken in units of what is usual around the training picture, its distance to its fifth neighbour among
    the others (the median of these where it is 0). So a surplus of pictures of a kind that lies close together is no
    evidence of copies, copies of a kind that lies far apart are found, and those of pictures that the training set
    holds twice, too. Only the authenticity compares with the first neighbour, as published.
    """
    if len(train) < 2:
        raise UsageError("Looking for copies needs at least two training pictures.")
    distance, index = (found[:, 0] for found in nearest(fake, train, progress=progress))
    control, control_index = (found[:, 0] for found in nearest(held_out, train, progress=progress))
    used, place = torch.cat([index, control_index]).unique(return_inverse=True)
    around, _ = nearest(train[used], train, min(5, len(train) - 1), itself=used, progress=progress)
    own, fifth = around[place, 0], around[place, -1]
    some = fifth[fifth > 0]
    scale = torch.where(fifth > 0, fifth, some.median() if len(some) else 1.0)
    n = len(fake)
    return Memorisation(
        authenticity(distance, own[:n]),
        authenticity(control, own[n:]),
        copying_test(distance / scale[:n], control / scale[n:]),
        int((distance == 0).sum()),
        closest_pairs(distance, index, scale[:n], pairs),
    )
