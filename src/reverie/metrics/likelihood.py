"""How likely a model finds pictures that it has not seen: nats per image and bits per dimension, exact or a bound."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from reverie.data.batches import in_order
from reverie.data.types import Pictures
from reverie.drawing import conditioning, device_of
from reverie.home import Progress
from reverie.metrics.estimate import Estimate
from reverie.metrics.passport import Refused
from reverie.verbs import Model, verbs_of

Found = tuple[str, Estimate, dict[str, Any]]  # metric, number, what its passport adds


@torch.inference_mode()
def likelihood(
    model: Model, pictures: Pictures, samples: int = 32, progress: Progress | None = None
) -> Iterator[Found]:
    """Negative log-likelihood of held-out pictures, lower is better; each name says whether it is exact.

    ``nll`` and ``bits-per-dim`` are exact, ``-bound`` marks an upper bound (the negative evidence lower bound), and
    ``-iw32`` the importance-weighted one with 32 samples. A model of 8-bit pictures gives bits per dimension, with
    uniform dequantisation where its density is continuous (Theis et al., arXiv:1511.01844).

    Raises:
        Refused: the model has no likelihood.
    """
    verbs = verbs_of(model)
    ways: list[tuple[str, dict[str, int]]] = []
    if "log_prob" in verbs:
        ways.append(("", {}))
    if "elbo" in verbs:
        ways.append(("-bound", {}))
        if samples > 1 and "samples" in inspect.signature(model.elbo).parameters:
            ways.append((f"-bound-iw{samples}", {"samples": samples}))
    if not ways:
        raise Refused(
            "The model gives pictures no likelihood.", "Ask for distances of its samples: frechet, kernel, prdc."
        )
    unit = getattr(model, "likelihood", "8-bit")
    suffix = "" if unit == "8-bit" else f"-{unit}"
    dimensions = pictures.images[0].size
    for number, (kind, options) in enumerate(ways):
        nats = -_scores(model, pictures, "log_prob" if not kind else "elbo", options, progress, (number, len(ways)))
        facts: dict[str, Any] = {"unit": "nats per image", "of": unit, "exact": not kind}
        facts |= {"dequantisation": "uniform" if unit == "8-bit" else "none"} | options
        yield f"nll{kind}{suffix}", Estimate.of_mean(nats), facts
        if unit == "8-bit":
            bits = nats / dimensions / math.log(2)
            yield f"bits-per-dim{kind}", Estimate.of_mean(bits), facts | {"unit": "bits per dimension"}


def _scores(
    model: Model,
    pictures: Pictures,
    verb: str,
    options: dict[str, int],
    progress: Progress | None,
    place: tuple[int, int],
) -> Tensor:
    found, (number, of) = [], place
    for batch in in_order(pictures, 256, device_of(model)):
        batch |= {"label": None} if not conditioning(model, batch) else {}
        found.append(getattr(model, verb)(batch, **options).double().cpu())
        if progress:
            progress(
                number * len(pictures) + sum(map(len, found)), of * len(pictures), "likelihood of held-out pictures"
            )
    return torch.cat(found)
