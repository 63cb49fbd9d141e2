"""How likely a model finds pictures that it has not seen: nats per image and bits per dimension, exact or a bound."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import conditioning, device_of
from reverie.home import Progress
from reverie.metrics.estimate import Estimate
from reverie.metrics.passport import Refused
from reverie.verbs import Batch, Model, verbs_of

Found = tuple[str, Estimate, dict[str, Any]]  # metric, number, what its passport adds

_TIMES = 8  # noise levels that a bound looks at for each picture, where it draws them at random
_GLANCED = 2048  # pictures whose chain is looked at right after training
_INTEGRATED = 256  # pictures whose likelihood is integrated, which takes hundreds of evaluations each


@dataclass(frozen=True)
class Way:
    """One way to a likelihood: a verb and what it is called with.

    Attributes:
        kind: what it adds to the name of a score.
        dequantised: whether 8-bit pictures are spread over their bins, because a density is asked and no probability.
        most: at most so many pictures are looked at; None: all.
        rows: pictures at once.
    """

    kind: str
    verb: str
    options: dict[str, int] = field(default_factory=dict)
    dequantised: bool = True
    most: int | None = None
    rows: int = 256

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        """Nats per image (B,)."""
        return getattr(model, self.verb)(batch, **self.options)


def ways(model: Model, samples: int = 32, slow: bool = True) -> list[Way]:
    """The ways that a model has, as the arguments of its verbs tell.

    A ``log_prob`` with ``steps`` integrates an equation, and is slow; an ``elbo`` with ``samples`` has an
    importance-weighted form; one with ``times`` is that of a diffusion chain, which ends in probabilities of 8-bit
    pictures, and looks at so many random noise levels.

    Args:
        samples: of the importance-weighted bound; 1 leaves it out.
        slow: whether to take time: to integrate, and to draw more than once.
    """
    told = {verb: inspect.signature(getattr(model, verb)).parameters for verb in verbs_of(model)}
    found = []
    if "log_prob" in told and "steps" not in told["log_prob"]:
        found.append(Way("", "log_prob"))
    if "elbo" in told:
        chain = "times" in told["elbo"]
        options, most = ({"times": _TIMES if slow else 1}, None if slow else _GLANCED) if chain else ({}, None)
        found.append(Way("-bound", "elbo", options, not chain, most))
        if samples > 1 and "samples" in told["elbo"]:
            found.append(Way(f"-bound-iw{samples}", "elbo", {"samples": samples}))
    if slow and "steps" in told.get("log_prob", ()):
        options = {name: told["log_prob"][name].default for name in ("steps", "probes")}
        found.append(Way("-ode", "log_prob", options, most=_INTEGRATED, rows=32))
    return found


@torch.inference_mode()
def likelihood(
    model: Model, pictures: Split, samples: int = 32, slow: bool = True, progress: Progress | None = None
) -> Iterator[Found]:
    """Negative log-likelihood of held-out pictures, lower is better; each name says whether it is exact.

    ``nll`` and ``bits-per-dim`` are exact, ``-bound`` marks an upper bound (the negative evidence lower bound), and
    ``-iw32`` the importance-weighted one with 32 samples. ``-ode`` is the likelihood of a diffusion model by its
    probability flow, up to the error of the steps, of at most 256 pictures evenly spread over the held-out ones. A
    model of 8-bit pictures gives bits per dimension, with uniform dequantisation where its density is continuous (Theis
    et al., arXiv:1511.01844).

    Args:
        samples, slow: as for ``ways``.

    Raises:
        Refused: the model has no likelihood.
    """
    found = ways(model, samples, slow)
    if not found:
        raise Refused(
            "The model gives pictures no likelihood.", "Ask for distances of its samples: frechet, kernel, prdc."
        )
    unit = getattr(model, "likelihood", "8-bit")
    suffix = "" if unit == "8-bit" else f"-{unit}"
    dimensions = pictures.spec.dimensions
    for way in found:
        nats = -_scores(model, pictures, way, progress)
        facts: dict[str, Any] = {"unit": "nats per image", "of": unit, "exact": not way.kind, "held_out": len(nats)}
        facts |= {"dequantisation": "uniform" if unit == "8-bit" and way.dequantised else "none"} | way.options
        yield f"nll{way.kind}{suffix}", Estimate.of_mean(nats), facts
        if unit == "8-bit":
            bits = nats / dimensions / math.log(2)
            yield f"bits-per-dim{way.kind}", Estimate.of_mean(bits), facts | {"unit": "bits per dimension"}


def _scores(model: Model, pictures: Split, way: Way, progress: Progress | None) -> Tensor:
    found: list[Tensor] = []
    pictures = _spread(pictures, way.most or len(pictures))
    for batch in in_order(pictures, way.rows, device_of(model)):
        batch |= {"label": None} if not conditioning(model, batch) else {}
        found.append(way(model, batch).double().cpu())
        if progress:
            progress(sum(map(len, found)), len(pictures), f"likelihood{way.kind} of held-out pictures")
    return torch.cat(found)


def _spread(pictures: Split, most: int) -> Split:
    """At most so many of the pictures, evenly spread over them: all classes, where they lie in order."""
    if len(pictures) <= most:
        return pictures
    return pictures.take(np.arange(most) * len(pictures) // most)
