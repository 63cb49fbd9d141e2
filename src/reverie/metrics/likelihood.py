"""How likely a model finds pictures that it has not seen: nats per image and bits per dimension, exact or a bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.card import Likelihood, card_of
from reverie.core.verbs import Model, call
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import device_of, spread
from reverie.home import Progress
from reverie.metrics.estimate import Estimate
from reverie.metrics.passport import Refused

Found = tuple[str, Estimate, dict[str, Any]]  # metric, number, what its passport adds

# evaluations of networks a row that a likelihood may cost
GLANCE, MODERATE = 1, 32  # right after training; in an evaluation that did not ask for it by name
_ROWS = 256  # at once; those that cost much go by _FEW
_FEW = 32


def affordable(model: Model, most: int | None = None) -> list[Likelihood]:
    """The likelihoods of a model's card that cost at most so many evaluations a row; None: whatever they cost.

    Of several of one name the cheapest, or, where cost is no matter, the last.
    """
    found: dict[str, Likelihood] = {}
    for one in card_of(model).likelihoods:
        if most is None or (one.evaluations <= most and one.name not in found):
            found[one.name] = one
    return list(found.values())


def nats_of(model: Model, likelihood: Likelihood, batch: Batch) -> Tensor:
    """log p of each row in nats (B,), or what stands for it."""
    return call(model, likelihood.verb, batch, **likelihood.options)


@torch.no_grad()
def likelihood(
    model: Model, pictures: Split, most: int | None = None, progress: Progress | None = None
) -> Iterator[Found]:
    """Negative log-likelihood of held-out rows, lower is better, as the model's card says.

    ``nll`` is exact, ``-bound`` marks an upper bound (the negative evidence lower bound, or a density of dequantised
    data), ``-iw32`` the importance-weighted one with 32 samples, ``-ode`` the likelihood of a diffusion model by its
    probability flow, up to the error of the steps. One of 8-bit values also gives bits per dimension (Theis et al.,
    arXiv:1511.01844); one of other numbers says so in its name.

    Args:
        most: evaluations a row that may be spent, see ``affordable``.

    Raises:
        Refused: the model has no likelihood.
    """
    ways = affordable(model, most)
    if not ways:
        raise Refused(
            "The model gives pictures no likelihood.", "Ask for distances of its samples: frechet, kernel, prdc."
        )
    dimensions = pictures.spec.dimensions
    for way in ways:
        nats = -_scores(model, pictures, way, progress)
        facts: dict[str, Any] = {"unit": "nats per image", "of": way.of, "kind": way.kind, "held_out": len(nats)}
        facts |= {"exact": way.kind == "exact", "dequantisation": "uniform" if way.dequantised else "none"}
        facts |= way.options
        of = "" if way.of == "8-bit" else f"-{way.of}"
        yield f"nll{way.name}{of}", Estimate.of_mean(nats), facts
        if way.of == "8-bit":
            bits = nats / dimensions / math.log(2)
            yield f"bits-per-dim{way.name}", Estimate.of_mean(bits), facts | {"unit": "bits per dimension"}


def _scores(model: Model, split: Split, way: Likelihood, progress: Progress | None) -> Tensor:
    found: list[Tensor] = []
    split = evenly(split, way.rows or len(split))
    for batch in in_order(split, _ROWS if way.evaluations <= MODERATE else _FEW, device_of(model)):
        found.append(nats_of(model, way, batch).double().cpu())
        if progress:
            progress(sum(map(len, found)), len(split), f"likelihood{way.name} of held-out pictures")
    return torch.cat(found)


def evenly(split: Split, most: int) -> Split:
    """At most so many of the rows, evenly spread over them: all classes, where they lie in order."""
    if len(split) <= most:
        return split
    rows = np.array(spread(len(split), most))
    return split.take(rows)
