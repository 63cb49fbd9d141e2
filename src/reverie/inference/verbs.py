"""Encode, decode, reconstruct and translate: any images in, ``Images`` out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.core.card import name_of, reconstructs
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.core.values import integer
from reverie.inference.conditions import Labels, Texts, complete, conditions_of, seeds_of
from reverie.inference.load import Source, data_of, model_of, need, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import batch_of, examples_of, find_pair
from reverie.inference.rows import (
    checked_latents,
    chunk_of,
    conditioning,
    evaluating,
    in_chunks,
    space_option,
    translated,
)
from reverie.inference.rows import reconstruct as reconstruct_rows
from reverie.media import medium_of
from reverie.media.images import Images, Sheet


def encode(
    model: Source, images: Any = None, space: str | None = None, label: Labels = None, text: Texts = None, n: int = 32
) -> Tensor:
    """Latents (N, ...) of images, on the CPU.

    Args:
        model: a loaded model, or a run.
        images: references (files, Pillow images, arrays, "held-out:3" ...), ``Images``, an array (N, H, W, C) or a
            tensor (N, C, H, W) in [-1, 1]; by default the first held-out images.
        space: one of the card's latent spaces; by default the first.
        label, text: conditions, one for all images or one for each.
        n: how many held-out images.
    Raises:
        UsageError: a model that does not encode, an unknown space, class or reference.
    """
    model = model_of(model)
    need(model, "encode")
    batch, options = batch_of(model, images, n), space_option(model, space)
    cond = conditioning(model, batch) | conditions_of(model, (), label, text, len(batch["x"]))
    with evaluating(model):
        parts = [
            model.encode(batch["x"][low:high], **chunk_of(cond, low, high), **options)
            for low, high in in_chunks(batch["x"].shape[2:], batch["x"].device, len(batch["x"]))
        ]
    return torch.cat(parts).cpu()


def decode(model: Source, latents: Any, space: str | None = None, label: Labels = None, text: Texts = None) -> Images:
    """The images of latents (N, ...).

    Args:
        model: a loaded model, or a run.
        latents: of ``encode``, or an array.
        space, label, text: as for ``encode``.
    Raises:
        UsageError: a model that does not decode, an unknown space or class, latents of another shape.
    """
    model = model_of(model)
    need(model, "decode")
    options, z, spec = space_option(model, space), checked_latents(model, latents, space), spec_of(model)
    cond = conditions_of(model, (), label, text, len(z))
    with evaluating(model):
        parts = [
            model.decode(z[low:high], **chunk_of(cond, low, high), **options)
            for low, high in in_chunks(spec.shape, z.device, len(z))
        ]
    made_by = origin("decode", model, space=space, label=label, text=text)
    return Images(medium_of(spec).to_storage(torch.cat(parts), spec), spec, origin=made_by)


def reconstruct(model: Source, images: Any = None, n: int = 32) -> Sheet:
    """Images and their reconstructions; of a denoising model also its corrupted input.

    Args:
        model: a loaded model, or a run.
        images, n: as for ``encode``.
    Returns:
        rows "image", ("corrupted") and "reconstruction".
    Raises:
        UsageError: a model that does not encode and decode, or that encodes by a search.
    """
    model = model_of(model)
    need(model, "encode", "decode")
    batch, spec = batch_of(model, images, n), spec_of(model)
    if not reconstructs(model):  # by inversion
        latents = encode(model, batch["x"])
        rows = [batch["x"], medium_of(spec).to_float(decode(model, latents).array, spec)]
    else:
        rows = reconstruct_rows(model, batch)
    names = ("image", "reconstruction") if len(rows) == 2 else ("image", "corrupted", "reconstruction")
    by_name = {name: Images(medium_of(spec).to_storage(x, spec), spec) for name, x in zip(names, rows, strict=True)}
    return Sheet(by_name, origin=origin("reconstruct", model, images=images, n=n if images is None else None))


def translate(model: Source, images: Any = None, seed: int = 0, n: int = 8, **options: Any) -> Sheet:
    """Images of a domain translated to the other.

    Args:
        model: a loaded model, or a run.
        images: references (files, Pillow images, arrays, "held-out:3" ...); by default the first held-out images.
        seed: of the first image's noise.
        n: how many held-out images.
        options: of the model's own ``translate``.
    Returns:
        rows "source", "translation" and, where it is known for all of them, "truth".
    Raises:
        UsageError: a model that does not translate, an unknown option or reference.
    """
    model = model_of(model)
    need(model, "translate")
    spec, chosen = spec_of(model), complete(model, options)
    several = isinstance(images, Sequence) and not isinstance(images, str)
    n = integer(argument("n"), n, 1, 10_000)
    if images is None:
        data = data_of(model)
        split = "held-out" if examples_of(data) is data.held_out else "train"
        images, several = [f"{split}:{i}" for i in range(n)], True
    references = list(images) if several else [images]
    if not references:
        raise UsageError(f"{name_of(model)} has no images to translate.")
    pairs = [find_pair(model, reference, **chosen) for reference in references]
    channels = max(source.shape[1] for source, _ in pairs)  # a file may be in colour where the data's sources are grey
    source = torch.cat([source.expand(-1, channels, *source.shape[2:]) for source, _ in pairs])
    truths = [truth for _, truth in pairs if truth is not None]
    truth = torch.cat(truths) if len(truths) == len(pairs) else None
    seeds = seeds_of(seed, len(source))
    rows = translated(model, source, truth, Noise.of_seeds(seeds, source.device), **chosen)
    medium = medium_of(spec)
    names = ("source", "translation", "truth")
    by_name = {name: Images(medium.to_storage(row, spec), spec) for name, row in zip(names, rows, strict=False)}
    return Sheet(by_name, origin=origin("translate", model, seeds, options, images=references))
