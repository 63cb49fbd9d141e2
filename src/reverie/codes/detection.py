"""How well a score separates anomalies from normal rows. Pure functions; a higher score is more anomalous."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from reverie.core.errors import UsageError
from reverie.evaluation.estimate import Estimate

_RESAMPLES = 500  # of the bootstrap


class Curves(NamedTuple):
    """Rates at every threshold, the highest first: (T,) each.

    Attributes:
        false_alarms: share of the normal rows at or above the threshold.
        detected: share of the anomalies at or above it; the recall.
        precision: share of anomalies among all rows at or above it.
    """

    false_alarms: np.ndarray
    detected: np.ndarray
    precision: np.ndarray


def auc(normal: np.ndarray, anomalous: np.ndarray) -> Estimate:
    """Area under the ROC curve: P(anomaly > normal row) + P(equal) / 2, of scores (N,) and (M,).

    The 95 % interval is DeLong's (DeLong, DeLong and Clarke-Pearson, Biometrics 1988). Where all anomalies are above
    all normal rows, or below, its width would be 0; it is then Wilson's for a share of the smaller of N and M. Where
    all scores are equal, or a set has a single row, there is none (nan).
    """
    above, below = _share_below(normal, anomalous), 1 - _share_below(anomalous, normal)
    value = float(above.mean())
    if value in (0.0, 1.0):
        return Estimate.of_share(torch.full((min(len(above), len(below)),), bool(value)))
    if min(len(above), len(below)) < 2 or _all_equal(normal, anomalous):
        return Estimate(value, math.nan, math.nan)
    error = math.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    interval = Estimate.of_error(value, error)
    return Estimate(value, max(0.0, interval.low), min(1.0, interval.high))


def _all_equal(normal: np.ndarray, anomalous: np.ndarray) -> bool:
    return bool((normal == normal[0]).all() and (anomalous == normal[0]).all())


def _share_below(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the rows below each value (M,); equal ones count half."""
    ordered = np.sort(rows)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / (2 * len(rows))


def curves(normal: np.ndarray, anomalous: np.ndarray) -> Curves:
    """The ROC curve and the precision-recall curve of scores (N,) and (M,); tied rows pass a threshold together."""
    is_anomaly, last = _ranked(normal, anomalous)
    return _curves(np.cumsum(is_anomaly)[last], np.cumsum(~is_anomaly)[last])


def average_precision(normal: np.ndarray, anomalous: np.ndarray, seed: int = 0) -> Estimate:
    """Area under the precision-recall curve, as steps: the sum of precision times the gain in recall.

    The 95 % interval is of percentiles of 500 bootstrap samples, drawn from both sets separately; where all scores are
    equal there is none (nan).
    """
    area = _area(curves(normal, anomalous))
    if _all_equal(normal, anomalous):
        return Estimate(area, math.nan, math.nan)
    is_anomaly, last = _ranked(normal, anomalous)
    rng, values = np.random.default_rng(seed), []
    sides = [np.flatnonzero(is_anomaly), np.flatnonzero(~is_anomaly)]
    for _ in range(_RESAMPLES):
        resampled = [np.bincount(rng.choice(side, len(side)), minlength=len(is_anomaly)) for side in sides]
        values.append(_area(_curves(*(np.cumsum(counts)[last] for counts in resampled))))
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(area, float(low), float(high))


def interval_text(estimate: Estimate) -> str:
    """As "0.972 [0.968, 0.976]", or "0.500 [no interval]"."""
    interval = "no interval" if math.isnan(estimate.low) else f"{estimate.low:.3f}, {estimate.high:.3f}"
    return f"{estimate.value:.3f} [{interval}]"


def _ranked(normal: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is an anomaly, by falling score, and the last row of each set of equal scores."""
    scores = np.concatenate([anomalous, normal])
    order = np.argsort(-scores, kind="stable")
    return order < len(anomalous), np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))


def _curves(hits: np.ndarray, alarms: np.ndarray) -> Curves:
    """From the numbers of anomalies and normal rows at or above each threshold."""
    return Curves(alarms / alarms[-1], hits / hits[-1], hits / np.maximum(hits + alarms, 1))


def _area(rates: Curves) -> float:
    return float((np.diff(rates.detected, prepend=0.0) * rates.precision).sum())


def threshold(normal: np.ndarray, false_alarms: float) -> float:
    """The threshold that a new normal row exceeds with a probability of at most ``false_alarms``.

    It is the ceil((N + 1)(1 - false_alarms))-th smallest of N scores: exact for a new row from the same source,
    whatever the distribution (split conformal prediction; Vovk, Gammerman and Shafer 2005).

    Raises:
        UsageError: too few rows for so low a rate.
    """
    rank = math.ceil(round((len(normal) + 1) * (1 - false_alarms), 9))
    if rank > len(normal):
        least = math.ceil(round(1 / false_alarms, 9)) - 1
        raise UsageError(
            f"A false-alarm rate of {false_alarms:g} needs at least {least} normal rows that the model was not trained "
            f"on; there are {len(normal)}. Take a higher rate or more data."
        )
    return float(np.sort(normal)[rank - 1])
