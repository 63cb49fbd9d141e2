"""What a translating model is scored by: translations of held-out images, their truth, and the target domain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.noise import Noise, fold
from reverie.core.options import accepted
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.drawing import chunk_of, device_of, evaluating
from reverie.home import Progress
from reverie.media.medium import to_uint8
from reverie.metrics.bench import PAIRS
from reverie.metrics.likelihood import evenly

_ROWS = 64  # at once


@dataclass
class Translations:
    """uint8 images (N, H, W, C).

    Attributes:
        made: translations of held-out sources.
        truth: what each of them should be, where that is known.
        held_out: held-out images of the target domain.
        target: those of the training split.
    """

    made: np.ndarray
    truth: np.ndarray | None
    held_out: np.ndarray
    target: np.ndarray


def translations(
    model: Model,
    train: Split,
    held_out: Split,
    n: int,
    seed: int,
    options: dict[str, Any],
    progress: Progress | None = None,
) -> Translations:
    """Translate the first ``n`` held-out sources, and gather the target domain of both splits.

    Args:
        seed: of the first translation's noise.
        options: of the model's ``translate``.
    """
    made: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    pairs = True
    for source, target, paired in _domains(model, held_out, options, "held-out"):
        pairs &= paired
        low = sum(map(len, made))
        source = source[: n - low]
        targets.append(to_uint8(target))
        if not len(source):
            continue
        noise = Noise.of_seeds(range(seed + low, seed + low + len(source)), source.device)
        with evaluating(model):
            made.append(to_uint8(model.translate(source, noise, **chunk_of(options, low, low + len(source)))))
        truth.append(to_uint8(target[: len(source)]))
        if progress:
            progress(low + len(source), min(n, len(held_out)), "translating held-out images")
    reference = [to_uint8(target) for _, target, _ in _domains(model, evenly(train, PAIRS), options, "train")]
    empty = held_out["x"][:0]
    whole = (np.concatenate(part) if part else empty for part in (made, truth, targets, reference))
    fakes, truths, held, real = whole
    return Translations(fakes, truths if pairs and len(truths) == len(fakes) else None, held, real)


@torch.no_grad()
def _domains(model: Model, split: Split, options: dict[str, Any], name: str) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Sources, targets and whether they are pairs, batch by batch; each split has random numbers of its own."""
    device, low = device_of(model), 0
    for batch in in_order(split, _ROWS, device):
        batch = batch.replace(rng=Noise.of_step(fold(name), low, batch.rows, device))
        part = chunk_of(accepted(model, "domains", options), low, low + batch.rows)
        low += batch.rows
        yield model.domains(batch, **part)
