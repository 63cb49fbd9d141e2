"""Sample a model: all at once, in chunks, or as a stream of intermediate states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from reverie.core.cache import check_progress
from reverie.core.card import card_of, info_of
from reverie.core.errors import UsageError, argument
from reverie.core.memory import machine_memory
from reverie.core.noise import Noise
from reverie.core.values import integer
from reverie.core.verbs import Frame, Model
from reverie.inference.conditions import (
    Labels,
    Texts,
    class_names,
    complete,
    conditions_of,
    guides_in,
    listed_values,
    owner_of_classes,
    seeds_of,
)
from reverie.inference.load import Source, model_of, need, spec_of
from reverie.inference.origin import origin as origin_of_call
from reverie.inference.rows import chunk_of, device_of, draw, training_mode_kept
from reverie.media import medium_of
from reverie.media.images import Images


def sample(
    model: Source,
    n: int = 64,
    seed: int | Sequence[int] = 0,
    label: Labels = None,
    text: Texts = None,
    chunk: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    shard: bool = False,
    **options: Any,
) -> Images:
    """New samples. Sample i is that of seed + i, whatever ``n`` (to rounding).

    Args:
        model: a loaded model, or a run.
        n: how many.
        seed: the first sample's seed, or one seed for each.
        label: a class for all samples, or a list whose classes take turns; None is the null condition.
        text: a caption for all samples, or a list whose captions take turns, for a model of captions.
        chunk: samples computed at once; by default as many as the model's card says, fewer where they are large.
        progress: called after each chunk, (done, total, description).
        shard: the processes of torchrun's group, all of which call, share the samples; each returns all of them.
        options: of the model's own ``sample`` (of a diffusion model sampler, steps, guidance ...); None is its default.
            One that is a model is a loaded one or a run.
    Raises:
        UsageError: a model that does not sample, an unknown class or option, a value that is not of its type or not
            finite, n below 1, a guide that does not fit.
    """
    check_progress(progress)
    model, noise, seeds, arguments = _prepared(model, "sample", n, seed, label, text, options)
    chunk = chunk if chunk is None else integer("chunk", chunk, least=1)
    spec = spec_of(model) if info_of(model) else None
    origin = sample_origin(model, seeds, label, text, options)
    conditions = {"texts": arguments["text"]} if "text" in arguments else {}
    if "label" in arguments:
        names = class_names(owner_of_classes(model, guides_in(arguments)))
        conditions["labels"] = [names[index] for index in arguments["label"].tolist()]
    rows = draw(model, noise, chunk, progress, spec, shard, **arguments)
    return Images(rows, spec, seeds, origin=origin, conditions=conditions)


def sample_origin(
    model: Model, seeds: Sequence[int], label: Labels, text: Texts, options: dict[str, Any]
) -> dict[str, Any]:
    """The origin of samples."""
    turns = {name: None if each is None else listed_values(each) for name, each in (("label", label), ("text", text))}
    return origin_of_call("sample", model, seeds, options, **turns)


def check_memory(model: Model, n: int, copies: float = 2.0) -> None:
    """Raise a UsageError, before the work, where n samples do not fit into the memory of this machine.

    Args:
        copies: of the samples that are in memory at the same time.
    """
    spec = spec_of(model) if info_of(model) or card_of(model).output else None
    row = spec.dimensions * np.dtype(spec.dtype or medium_of(spec).storage).itemsize if spec else 1
    needed, memory = n * (copies * row + 64), machine_memory()
    if needed > memory:
        raise UsageError(
            f"{n:,} samples need {needed / 1e9:,.0f} GB of memory at once, and this machine has {memory / 1e9:,.0f}. "
            "A folder takes any number, and is continued after an interruption: `reverie sample RUN --out FOLDER`, in "
            "Python rv.sample_into(FOLDER, RUN)."
        )


def stream(
    model: Source,
    n: int = 8,
    seed: int | Sequence[int] = 0,
    label: Labels = None,
    text: Texts = None,
    **options: Any,
) -> Iterator[Frame]:
    """The intermediate states of ``sample``, up to the samples themselves; ``frame.render()`` makes images of one.

    ``rv.view`` and ``reverie sample --trajectory`` make films and strips of them.

    Args:
        others: as for ``sample``.
    Raises:
        UsageError: as for ``sample``, or a model that samples in one pass.
    """
    model, noise, _, arguments = _prepared(model, "stream", n, seed, label, text, options)
    return _frames(model, noise, chunk_of(arguments, 0, len(noise)))


@torch.no_grad()  # which is off while the generator waits
def _frames(model: Model, noise: Noise, arguments: dict[str, Any]) -> Iterator[Frame]:
    with training_mode_kept(model):
        model.eval()
        for frame in model.stream(noise, **arguments):
            yield replace(frame, render=torch.no_grad()(frame.render))


def _prepared(
    source: Source,
    verb: str,
    n: int,
    seed: int | Sequence[int],
    labels: Labels,
    texts: Texts,
    options: dict[str, Any],
) -> tuple[Model, Noise, Sequence[int], dict[str, Any]]:
    """The model, a stream of noise for each sample, their seeds, and the verb's conditions and options."""
    model = model_of(source)
    need(model, verb)
    n = integer(argument("n"), n, least=1)
    check_memory(model, n)
    seeds, arguments = seeds_of(seed, n), complete(model, options)
    arguments |= conditions_of(model, guides_in(arguments), labels, texts, n)
    return model, Noise.of_seeds(seeds, device_of(model)), seeds, arguments
