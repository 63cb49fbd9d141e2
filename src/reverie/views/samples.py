"""Samples, translations and reconstructions on one sheet."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.noise import Noise
from reverie.core.verbs import Model
from reverie.data.batches import Batch, in_order
from reverie.data.types import Dataset
from reverie.inference.rows import device_of, draw, example_conditions, reconstruct, translated
from reverie.media import Spec, medium_of
from reverie.media.sheets import beside
from reverie.views import SHEET


def samples(model: Model, data: Dataset | None, count: int = SHEET) -> np.ndarray:
    """Samples of the seeds 0, 1 ..., a column for each of the first classes, or of the data's captions."""
    noise, texts = Noise.of_seeds(range(count), device_of(model)), data.train.get("text") if data else None
    cond = {name: value[:count] for name, value in example_conditions(model, texts, max(SHEET, count)).items()}
    spec = data.spec if data else _output(model)
    return medium_of(spec).sheet(draw(model, noise, spec=spec, **cond), spec, columns=8)


def _output(model: Model) -> Spec:
    """What a model makes that learned from no data: an image, where its card says nothing."""
    output = card_of(model).output
    return Spec("image", (1, 1), 3) if output is None else Spec(output.medium, output.shape, output.channels)


def translations(model: Model, data: Dataset, count: int = 24) -> np.ndarray:
    """Held-out sources, below each its translation, and below that the truth where there is one."""
    batch = _first(model, data, count)
    source, truth = model.translation_pair(batch)
    return stacked(translated(model, source, truth, batch.rng), data.spec)


def reconstructions(model: Model, data: Dataset, count: int = 32) -> np.ndarray:
    """Held-out images, their corruption where the model has one, and their reconstructions."""
    batch = _first(model, data, count)
    return stacked(reconstruct(model, batch), data.spec)


def stacked(rows: list[Tensor], spec: Spec) -> np.ndarray:
    """Sets of samples (N, C, *shape), one below the other, as one image."""
    medium = medium_of(spec)
    return beside([medium.to_storage(row, spec) for row in rows], spec)


def _first(model: Model, data: Dataset, count: int) -> Batch:
    images = data.examples
    return next(in_order(images, min(count if data.spec.medium == "image" else 8, len(images)), device_of(model)))
