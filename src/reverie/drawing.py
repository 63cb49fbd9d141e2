"""Call a model's verbs on many rows: samples, reconstructions, translations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import Model, verbs_of
from reverie.media import Spec, medium_of, montage
from reverie.media.medium import to_rows


@dataclass(frozen=True)
class Whole:
    """An argument that every chunk gets as it is: another model, a table."""

    value: Any


def device_of(model: Model) -> torch.device:
    """Where a model's weights are."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@contextmanager
def training_mode_kept(model: nn.Module) -> Iterator[None]:
    """Every module is in training or evaluation mode after the block as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients; every module's mode is afterwards what it was."""
    with training_mode_kept(model), torch.no_grad():
        model.eval()
        yield


def conditioning(model: Model, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a batch that are conditions of the model."""
    return {name: batch[name] for name in card_of(model).conditions if name in batch}


def spread(rows: int, n: int) -> list[int]:
    """n places, in order and evenly spread over ``rows``: where classes lie in order, all of them in their shares."""
    return [place * rows // n for place in range(n)]


def chunk_of(arguments: Mapping[str, Any], low: int, high: int) -> dict[str, Any]:
    """The part of some arguments that belongs to the rows from ``low`` to ``high``.

    Tensors, lists, ``Noise`` and batches are cut; scalars and ``Whole`` values are passed on.

    Raises:
        TypeError: anything else, of which nobody knows whether it has rows.
    """
    return {name: _cut(name, value, low, high) for name, value in arguments.items()}


def _cut(name: str, value: Any, low: int, high: int) -> Any:
    if isinstance(value, Whole):
        return value.value
    if value is None or isinstance(value, Number | str) or (isinstance(value, Tensor) and not value.ndim):
        return value
    if isinstance(value, Batch):
        return value.cut(low, high)
    if isinstance(value, Tensor | list | Noise):
        return value[low:high]
    raise TypeError(
        f"{name} is a {type(value).__name__}: neither rows nor a scalar. Whole(value) passes it on as it is."
    )


def draw(
    model: Model,
    noise: Noise,
    chunk: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    spec: Spec | None = None,
    **condition: Any,
) -> np.ndarray:
    """Stored rows (B, *shape, C) of a model's samples, a chunk at a time.

    Args:
        progress: called after each chunk, (done, total, "drawing").
        spec: of the samples; 8 bits by default.
        condition: conditions and options of ``sample``, see ``chunk_of``.
    Raises:
        UsageError: ``sample`` returned something else.
    """
    drawn = []
    with evaluating(model):
        for low in range(0, len(noise), chunk):
            high = min(low + chunk, len(noise))
            x = model.sample(noise[low:high], **chunk_of(condition, low, high))
            _check_samples(model, x, high - low, spec)
            drawn.append(to_rows(x) if spec is None else medium_of(spec).to_storage(x, spec))
            if progress:
                progress(high, len(noise), "drawing")
    return np.concatenate(drawn)


def _check_samples(model: Model, x: Any, rows: int, spec: Spec | None) -> None:
    """Raise a UsageError unless these are so many samples, in form."""
    sides = 2 if spec is None else len(spec.shape)
    if not isinstance(x, Tensor) or x.ndim != 2 + sides or len(x) != rows:
        what = f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise UsageError(
            f"sample() of {name_of(model)} returned {what} for {rows} streams of noise; (B, C, *shape) is needed, with "
            f"{sides} sides and B = {rows}."
        )


def example_conditions(model: Model, texts: Sequence[str] | None, n: int, columns: int = 8) -> dict[str, Any]:
    """Conditions for a sheet of n samples: a column each for the first classes, captions spread over the data's."""
    card, found = card_of(model), dict[str, Any]()
    if card.classes:
        found["label"] = torch.arange(n, device=device_of(model)) % columns % card.classes
    if "text" in card.conditions and texts:
        found["text"] = [texts[place] for place in spread(len(texts), n)]
    return found


def reconstruct(model: Model, batch: Batch) -> list[Tensor]:
    """What to show of a batch: the images, what the model saw where that differs, and what it made of that."""
    with evaluating(model):
        image, condition = batch["x"], conditioning(model, batch)
        seen = model.corrupt(image, batch.rng) if "corrupt" in verbs_of(model) else image
        made = model.decode(model.encode(seen, **condition), **condition)
    return [image, made] if seen is image else [image, seen, made]


def translated(model: Model, source: Tensor, truth: Tensor | None, noise: Noise, **options: Any) -> list[Tensor]:
    """What to show of a translation: the source, what the model makes of it, and the truth where it is known."""
    with evaluating(model):
        made = model.translate(source, noise, **options)
    return [source, made] if truth is None else [source, made, truth]


def one_each(rows: np.ndarray, spec: Spec) -> np.ndarray | None:
    """uint8 (N, H, W, C), one image for each row: itself, or the central slice of a volume; None where none is."""
    images = medium_of(spec).as_images(rows, spec)
    return images[0] if images is not None and len(images[0]) == len(rows) else None


def check_walk(path: Path, spec: Spec, film: bool) -> None:
    """Raise a UsageError, before the work, where ``save_walk`` cannot make a film of such samples."""
    single = np.zeros((1, *spec.shape, spec.channels), spec.dtype or medium_of(spec).storage)
    if film and path.suffix.lower() in montage.FILMS and one_each(single, spec) is None and spec.medium != "video":
        what = f"{spec.medium}s of {spec}"
        raise UsageError(f"{path.name} is a film, and no image stands for {what}. Name a sheet (.png), or an .npz.")


def save_walk(path: Path, rows: np.ndarray, spec: Spec, columns: int, seconds: float | None = None) -> None:
    """Write samples along a way as a sheet (of volumes: of central slices), a film, an .npz, or a folder.

    Args:
        rows: stored rows (N, *shape, C), in order.
        columns: samples in a row of the sheet.
        seconds: length of a film (.webp, .gif, .mp4); None: those endings are still images, too.
    Raises:
        UsageError: a film of samples that no image stands for, or an unknown ending.
    """
    check_walk(path, spec, seconds is not None)
    images, suffix, medium = one_each(rows, spec), path.suffix.lower(), medium_of(spec)
    is_film = seconds is not None and suffix in montage.FILMS
    if suffix in ("", ".npz") or (is_film and images is None):
        medium.save(path, rows, spec, {})
    elif is_film and images is not None:
        montage.save_film(path, images, seconds or 0.0)
    else:
        sheet = medium.sheet(rows, spec, columns) if images is None else montage.grid(images, columns)
        montage.save(path, sheet)


def beside(rows: list[Tensor], columns: int = 8, spec: Spec | None = None) -> np.ndarray:
    """Sets of samples (N, C, *shape) by rows: a row of originals, below it the row made of them, and so on.

    Args:
        spec: of samples that are no images: ``columns`` of a set are a sheet, the sheets one below the other.
    """
    if spec is not None and spec.medium != "image":
        medium = medium_of(spec)
        parts = [row[low : low + columns] for low in range(0, len(rows[0]), columns) for row in rows]
        sheets = [medium.sheet(medium.to_storage(part, spec), spec) for part in parts]
        widest = max(sheet.shape[1] for sheet in sheets)
        margins = [((0, 0), (0, widest - sheet.shape[1]), (0, 0)) for sheet in sheets]
        return np.concatenate([np.pad(*both, constant_values=255) for both in zip(sheets, margins, strict=True)])
    colours = max(row.shape[1] for row in rows)
    made = [to_rows(row.expand(-1, colours, -1, -1)) for row in rows]
    columns = min(columns, len(made[0]))
    blank = np.full((-len(made[0]) % columns, *made[0].shape[1:]), 255, np.uint8)  # fills the last row
    made = [np.concatenate([row, blank]) for row in made]
    order = [row[low : low + columns] for low in range(0, len(made[0]), columns) for row in made]
    return montage.grid(np.concatenate(order), columns=columns)
