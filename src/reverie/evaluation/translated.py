"""Translations of held-out images, their ground truth, and the target domain, for scoring a translation model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.cache import Progress
from reverie.core.memory import rows_at_once
from reverie.core.noise import Noise, fold
from reverie.core.options import accepted
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.evaluation.base import PAIRS
from reverie.evaluation.likelihood import evenly
from reverie.inference.rows import chunk_of, device_of, evaluating
from reverie.media.medium import to_uint8


@dataclass
class Translations:
    """uint8 images (N, H, W, C).

    Attributes:
        outputs: translations of held-out sources.
        truth: their ground truth, if the data has pairs.
        held_out: held-out images of the target domain.
        target: training images of the target domain.
    """

    outputs: np.ndarray
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
    """Translate the first ``n`` held-out sources, and collect the target domain of both splits.

    Args:
        seed: of the first translation's noise.
        options: of the model's ``translate``.
    """
    outputs: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    pairs = True
    for source, target, paired in _domains(model, held_out, options, "held-out"):
        pairs &= paired
        low = sum(map(len, outputs))
        source = source[: n - low]
        targets.append(to_uint8(target))
        if not len(source):
            continue
        noise = Noise.of_seeds(range(seed + low, seed + low + len(source)), source.device)
        with evaluating(model):
            outputs.append(to_uint8(model.translate(source, noise, **chunk_of(options, low, low + len(source)))))
        truth.append(to_uint8(target[: len(source)]))
        if progress:
            progress(low + len(source), min(n, len(held_out)), "translating held-out images")
    reference = [to_uint8(target) for _, target, _ in _domains(model, evenly(train, PAIRS), options, "train")]
    empty = held_out["x"][:0]
    columns = (outputs, truth, targets, reference)
    fakes, truths, held_out_images, real = (np.concatenate(parts) if parts else empty for parts in columns)
    return Translations(fakes, truths if pairs and len(truths) == len(fakes) else None, held_out_images, real)


@torch.no_grad()
def _domains(model: Model, split: Split, options: dict[str, Any], name: str) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Sources, targets and whether they are pairs, batch by batch; each split has its own random numbers."""
    device, low = device_of(model), 0
    for batch in in_order(split, rows_at_once(split.spec.shape, device), device):
        batch = batch.replace(rng=Noise.of_step(fold(name), low, batch.rows, device))
        part = chunk_of(accepted(model, "domains", options), low, low + batch.rows)
        low += batch.rows
        yield model.domains(batch, **part)
