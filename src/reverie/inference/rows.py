"""Call a model's verbs on many rows, a chunk at a time: samples, reconstructions, translations."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core import distributed
from reverie.core.batch import Batch
from reverie.core.card import Space, card_of, check_space, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.memory import rows_at_once
from reverie.core.noise import Noise
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.media import Spec, medium_of
from reverie.media.medium import to_rows


@dataclass(frozen=True)
class Unsliced:
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


def space_of(model: Model, space: str | None) -> Space | None:
    """A latent space of a model, by default the first; None of a model whose card has none.

    Raises:
        UsageError: the model has no such space.
    """
    if spaces := card_of(model).latents:
        return spaces[check_space(space, spaces, name_of(model))]
    if space is not None:
        named = argument("space", space)
        raise UsageError(f"The latents of {name_of(model)} have no named spaces: leave out {named}.")
    return None


def space_option(model: Model, space: str | None) -> dict[str, str]:
    """The option ``space`` of a model's verbs; none where it has at most one space.

    Raises:
        UsageError: the model has no such space.
    """
    space_of(model, space)
    return {"space": space} if space and len(card_of(model).latents) > 1 else {}


def checked_latents(model: Model, latents: Any, space: str | None = None, rows: int | None = None) -> Tensor:
    """Latents (N, ...) on the model's device.

    Args:
        latents: a tensor, an array or nested lists.
        space: one of the card's latent spaces; by default the first.
        rows: N, where it is fixed.
    Raises:
        UsageError: no numbers, none at all, not finite, or not of the shape on the card.
    """
    try:
        z = torch.as_tensor(latents, dtype=torch.float32, device=device_of(model))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UsageError(f"Latents must be a tensor or an array, not {type(latents).__name__}: {error}") from None
    named = space_of(model, space)
    shape = named.shape if named else tuple(z.shape[1:])
    if not z.ndim or not len(z) or z.shape[1:] != shape or len(z) != (rows or len(z)):
        form = ", ".join(map(str, (rows or "N", *shape)))
        raise UsageError(f"Latents of {name_of(model)} must have the shape ({form}), not {tuple(z.shape)}.")
    if not z.isfinite().all():
        raise UsageError(f"Latents of {name_of(model)} must be finite numbers.")
    return z


def spread(rows: int, n: int) -> list[int]:
    """n indices, in order, one at a random place of each of n equal parts of ``rows``.

    Where classes lie in order, all of them in their shares; where they take turns, no step keeps hitting the same.
    """
    if n >= rows:
        return [index * rows // n for index in range(n)]
    return ((np.arange(n) + np.random.default_rng(0).random(n)) * rows / n).astype(int).tolist()


def chunk_of(arguments: Mapping[str, Any], low: int, high: int) -> dict[str, Any]:
    """The part of some arguments that belongs to the rows from ``low`` to ``high``.

    Tensors, lists, ``Noise`` and batches are cut; scalars and ``Unsliced`` values are passed on.

    Raises:
        TypeError: anything else, of which nobody knows whether it has rows.
    """
    return {name: _cut(name, value, low, high) for name, value in arguments.items()}


def _cut(name: str, value: Any, low: int, high: int) -> Any:
    if isinstance(value, Unsliced):
        return value.value
    if value is None or isinstance(value, Number | str) or (isinstance(value, Tensor) and not value.ndim):
        return value
    if isinstance(value, Batch):
        return value.cut(low, high)
    if isinstance(value, Tensor | list | Noise):
        return value[low:high]
    raise TypeError(
        f"{name} is a {type(value).__name__}: neither rows nor a scalar. Unsliced(value) passes it on as it is."
    )


def samples_at_once(model: Model, spec: Spec | None, device: torch.device) -> int:
    """Samples to compute at once: the number on the model's card, fewer where they are large.

    Args:
        spec: of the samples; by default the output on the card.
    """
    card = card_of(model)
    output = spec or card.output
    return rows_at_once(output.shape if output else (), device, card.at_once)


def draw(
    model: Model,
    noise: Noise,
    chunk: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    spec: Spec | None = None,
    shard: bool = False,
    **condition: Any,
) -> np.ndarray:
    """Stored rows (B, *shape, C) of a model's samples, a chunk at a time; a warning counts those that are not finite.

    Args:
        chunk: rows computed at once; by default see ``samples_at_once``.
        progress: called after each chunk, (done, total, "sampling").
        spec: of the samples; 8 bits by default.
        shard: the processes of the group, all of which call, share the chunks, and each returns all rows.
        condition: conditions and options of ``sample``, see ``chunk_of``.
    Raises:
        UsageError: ``sample`` returned something else.
    """
    chunk = chunk or samples_at_once(model, spec, noise.device)
    starts, odd = range(0, len(noise), chunk), 0
    chunks: list[np.ndarray | None] = [None] * len(starts)
    with evaluating(model):
        for number, low in enumerate(starts):
            if shard and number % distributed.world() != distributed.rank():
                continue
            high = min(low + chunk, len(noise))
            x = model.sample(noise[low:high], **chunk_of(condition, low, high))
            _check_samples(model, x, high - low, spec)
            odd += int((~x.isfinite()).flatten(1).any(1).sum())
            chunks[number] = to_rows(x) if spec is None else medium_of(spec).to_storage(x, spec)
            if progress:
                progress(high, len(noise), "sampling")
    if odd:
        warnings.warn(f"{odd} of {len(noise)} samples of {name_of(model)} are NaN or infinite.", stacklevel=2)
    return np.concatenate(distributed.collect(chunks) if shard else [rows for rows in chunks if rows is not None])


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
    card, cond = card_of(model), dict[str, Any]()
    if card.classes:
        cond["label"] = torch.arange(n, device=device_of(model)) % columns % card.classes
    if "text" in card.conditions and texts:
        cond["text"] = [texts[index] for index in spread(len(texts), n)]
    return cond


def in_chunks(shape: Sequence[int], device: torch.device, rows: int) -> Iterator[tuple[int, int]]:
    """Consecutive parts (low, high) of some rows, each as many as are computed at once."""
    chunk = rows_at_once(shape, device)
    return ((low, min(low + chunk, rows)) for low in range(0, rows, chunk))


def encoded(
    model: Model,
    split: Split,
    without: Collection[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
    space: str | None = None,
) -> Tensor:
    """Latents (N, D) of all rows of a split, in order, flat and on the CPU.

    Args:
        without: conditions that the encoder does not get, such as "label" where it must not know the class.
        progress: called after each chunk, (done, total, "encoding").
        space: one of the card's latent spaces; by default the first.
    """
    device, parts, done, options = device_of(model), list[Tensor](), 0, space_option(model, space)
    with evaluating(model):
        for batch in in_order(split, rows_at_once(split.spec.shape, device, 256), device):
            cond = {name: value for name, value in conditioning(model, batch).items() if name not in without}
            parts.append(model.encode(batch["x"], **cond, **options).flatten(1).float().cpu())
            done += len(parts[-1])
            if progress:
                progress(done, len(split), "encoding")
    return torch.cat(parts)


def reconstruct(model: Model, batch: Batch) -> list[Tensor]:
    """The images of a batch, the model's input where that differs (corrupted), and the reconstructions."""
    image, inputs, outputs = batch["x"], list[Tensor](), list[Tensor]()
    with evaluating(model):
        for low, high in in_chunks(image.shape[2:], image.device, len(image)):
            part = batch.cut(low, high)
            cond = conditioning(model, part)
            inputs.append(model.corrupt(part["x"], part.rng) if "corrupt" in verbs_of(model) else part["x"])
            outputs.append(model.decode(model.encode(inputs[-1], **cond), **cond))
    corrupted = [torch.cat(inputs)] if "corrupt" in verbs_of(model) else []
    return [image, *corrupted, torch.cat(outputs)]


def translated(model: Model, source: Tensor, truth: Tensor | None, noise: Noise, **options: Any) -> list[Tensor]:
    """The sources, their translations, and the truth where there is one; options as in ``chunk_of``."""
    with evaluating(model):
        outputs = [
            model.translate(source[low:high], noise[low:high], **chunk_of(options, low, high))
            for low, high in in_chunks(source.shape[2:], source.device, len(source))
        ]
    return [source, torch.cat(outputs), *([] if truth is None else [truth])]
