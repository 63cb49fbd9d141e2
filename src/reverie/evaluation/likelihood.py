"""Likelihood of held-out data: nats per image and bits per dimension, exact or a bound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.card import Likelihood, card_of
from reverie.core.memory import rows_at_once
from reverie.core.verbs import Model, call, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.passport import Refused
from reverie.inference.rows import device_of, spread

Result = tuple[str, Estimate, dict[str, Any]]  # metric, value, passport entries

# network evaluations per row that a likelihood may cost
GLANCE, MODERATE = 1, 32  # right after training; in an evaluation without named metrics
_ROWS, _FEW = 256, 32  # rows of a batch for cheap and for expensive likelihoods


def affordable(model: Model, most: int | None = None) -> list[Likelihood]:
    """The likelihoods of a model's card that cost at most ``most`` evaluations per row; None: any cost.

    Of several with one name the cheapest, or, at any cost, the last.
    """
    chosen: dict[str, Likelihood] = {}
    for candidate in card_of(model).likelihoods:
        if most is None or (candidate.evaluations <= most and candidate.name not in chosen):
            chosen[candidate.name] = candidate
    return list(chosen.values())


def nats_of(model: Model, likelihood: Likelihood, batch: Batch) -> Tensor:
    """log p of each row in nats (B,), or its bound or estimate."""
    return call(model, likelihood.verb, batch, **likelihood.options)


@torch.no_grad()
def likelihood(
    model: Model, split: Split, most: int | None = None, progress: Progress | None = None
) -> Iterator[Result]:
    """Negative log-likelihood of held-out rows (lower is better) by every method of the model's card.

    ``nll`` is exact, ``-bound`` an upper bound (the negative evidence lower bound, or a density of dequantised data),
    ``-iw32`` the importance-weighted bound with 32 samples, ``-ode`` the likelihood of a diffusion model by its
    probability flow, up to discretisation error. Likelihoods of 8-bit values also give bits per dimension (Theis et
    al., arXiv:1511.01844); others have their kind of value in the name.

    Args:
        most: maximum evaluations per row, see ``affordable``.

    Raises:
        Refused: the model has no likelihood.
    """
    methods = affordable(model, most)
    if not methods:
        raise Refused("The model has no likelihood.", "Use distances of its samples: frechet, kernel, prdc.")
    if "log_partition" in verbs_of(model):
        call(model, "log_partition", progress)  # minutes of a large model; later calls have it at once
    for method in methods:
        nats = -_log_p(model, split, method, progress)
        entries: dict[str, Any] = {"unit": "nats per image", "of": method.of, "kind": method.kind}
        entries |= {"held_out": len(nats), "exact": method.kind == "exact"}
        entries |= {"dequantisation": method.dequantisation if method.dequantised else "none", **method.options}
        name, *in_bits = method.scores
        value = Estimate.of_mean(nats)
        if method.kind == "estimate" and "log_partition" in verbs_of(model):
            log_z = call(model, "log_partition")
            value, entries = _widened(value, *log_z), entries | {"log_partition": log_z}
        yield name, value, entries
        for name in in_bits:
            bits = nats / split.spec.dimensions / math.log(2)
            yield name, Estimate.of_mean(bits), entries | {"unit": "bits per dimension"}


def _widened(nats: Estimate, log_z: float, low: float, high: float) -> Estimate:
    """The interval of a mean over images and of the estimate of log Z, as of independent errors."""
    ends = (nats.value - nats.low, log_z - low), (nats.high - nats.value, high - log_z)
    below, above = (math.hypot(*errors) for errors in ends)
    return dataclasses.replace(nats, low=nats.value - below, high=nats.value + above)


def _log_p(model: Model, split: Split, method: Likelihood, progress: Progress | None) -> Tensor:
    """log p of the split's rows in nats (N,)."""
    values: list[Tensor] = []
    split = evenly(split, method.rows or len(split))
    device = device_of(model)
    rows = rows_at_once(split.spec.shape, device, _ROWS if method.evaluations <= MODERATE else _FEW)
    for batch in in_order(split, rows, device):
        values.append(nats_of(model, method, batch).double().cpu())
        if progress:
            progress(sum(map(len, values)), len(split), f"likelihood{method.name} of held-out images")
    return torch.cat(values)


def evenly(split: Split, most: int) -> Split:
    """At most ``most`` rows, evenly spaced, so that data sorted by class keeps all its classes."""
    return split if len(split) <= most else split.take(np.array(spread(len(split), most)))
