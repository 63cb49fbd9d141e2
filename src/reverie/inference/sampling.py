"""Sample a model: all at once, in chunks, or as a stream of intermediate states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from reverie.core.card import info_of
from reverie.core.noise import Noise
from reverie.core.values import integer
from reverie.core.verbs import Frame, Model
from reverie.inference.conditions import Labels, Texts, complete, conditions_of, guides_in, seeds_of
from reverie.inference.load import Source, model_of, need, spec_of
from reverie.inference.rows import chunk_of, device_of, draw, training_mode_kept
from reverie.media.images import Images


def sample(
    model: Source,
    n: int = 64,
    seed: int | Sequence[int] = 0,
    label: Labels = None,
    text: Texts = None,
    chunk: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Images:
    """New samples. Sample i is that of seed + i, whatever ``n`` (to rounding).

    Args:
        model: a loaded model, or a run.
        n: how many.
        seed: the first sample's seed, or one seed for each.
        label: a class for all samples, or a list whose classes take turns; None is the null condition.
        text: a caption for all samples, or a list whose captions take turns, for a model of captions.
        chunk: samples computed at once.
        progress: called after each chunk, (done, total, description).
        options: of the model's own ``sample`` (of a diffusion model sampler, steps, guidance ...); None is its default.
            One that is a model is a loaded one or a run.
    Raises:
        UsageError: a model that does not sample, an unknown class or option, a value that is not of its type or not
            finite, n below 1, a guide that does not fit.
    """
    model, noise, seeds, arguments = _prepared(model, "sample", n, seed, label, text, options)
    chunk = integer("chunk", chunk, least=1)
    spec = spec_of(model) if info_of(model) else None
    return Images(draw(model, noise, chunk, progress, spec, **arguments), spec, seeds)


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
) -> tuple[Model, Noise, list[int], dict[str, Any]]:
    """The model, a stream of noise for each sample, their seeds, and the verb's conditions and options."""
    model = model_of(source)
    need(model, verb)
    n = integer("n", n, least=1)
    seeds, arguments = seeds_of(seed, n), complete(model, options)
    arguments |= conditions_of(model, guides_in(arguments), labels, texts, n)
    return model, Noise.of_seeds(seeds, device_of(model)), seeds, arguments
