"""Call a model's verbs on many pictures: draw them, reconstruct them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.noise import Noise
from reverie.media import Spec, medium_of, montage
from reverie.media.medium import to_rows
from reverie.verbs import Model


def device_of(model: Model) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def conditioning(model: Model, batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a batch that a conditional model wants beside the picture."""
    wanted = {"label": getattr(model, "classes", 0), "text": getattr(model, "texts", False)}
    return {key: batch[key] for key, wants in wanted.items() if wants and key in batch}


@torch.inference_mode()
def draw(
    model: Model,
    noise: Noise,
    chunk: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    spec: Spec | None = None,
    **condition: Any,
) -> np.ndarray:
    """Stored rows (B, *shape, C) of a model that samples, a chunk at a time; tensors and lists are cut with the noise.

    Args:
        progress: called after each chunk, (done, total, "drawing").
        spec: of the model's samples; 8 bits by default.
    """
    model.eval()
    drawn = []
    for low in range(0, len(noise), chunk):
        rows = slice(low, low + chunk)
        part = {key: value[rows] if isinstance(value, Tensor | list) else value for key, value in condition.items()}
        drawn.append(_stored(model.sample(noise[rows], **part), spec))
        if progress:
            progress(min(low + chunk, len(noise)), len(noise), "drawing")
    return np.concatenate(drawn)


@torch.inference_mode()
def reconstruct(model: Model, batch: dict[str, Any]) -> list[Tensor]:
    """What to show of a batch: the pictures, what the model saw where that differs, and what it made of that."""
    model.eval()
    image, condition = batch["x"], conditioning(model, batch)
    seen = model.corrupt(image, batch.rng) if hasattr(model, "corrupt") else image
    made = model.decode(model.encode(seen, **condition), **condition)
    return [image, made] if seen is image else [image, seen, made]


@torch.inference_mode()
def translated(model: Model, given: Tensor, truth: Tensor | None, noise: Noise, **options: Any) -> list[Tensor]:
    """What to show of a translation: what is given, what the model makes of it, and the truth where it is known."""
    model.eval()
    made = model.translate(given, noise, **options)
    return [given, made] if truth is None else [given, made, truth]


def _stored(x: Tensor, spec: Spec | None) -> np.ndarray:
    return to_rows(x) if spec is None else medium_of(spec).to_storage(x, spec)


def beside(rows: list[Tensor], columns: int = 8, spec: Spec | None = None) -> np.ndarray:
    """Sets of samples (N, C, *shape) by rows: a row of originals, below it the row made of them, and so on.

    Args:
        spec: of samples that are no images: each set is a sheet of its own, one below the other.
    """
    if spec is not None and spec.medium != "image":
        medium = medium_of(spec)
        return np.concatenate([medium.sheet(medium.to_storage(row[:columns], spec), spec) for row in rows])
    colours = max(row.shape[1] for row in rows)
    made = [to_rows(row.expand(-1, colours, -1, -1)) for row in rows]
    columns = min(columns, len(made[0]))
    blank = np.full((-len(made[0]) % columns, *made[0].shape[1:]), 255, np.uint8)  # fills the last row
    made = [np.concatenate([row, blank]) for row in made]
    order = [row[low : low + columns] for low in range(0, len(made[0]), columns) for row in made]
    return montage.grid(np.concatenate(order), columns=columns)
