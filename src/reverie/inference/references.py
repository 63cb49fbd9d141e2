"""Images and latents by name: a file, a Pillow image, an array, "held-out:3", "train:3", "seed:7", a class,
a caption.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.card import card_of, info_of, name_of
from reverie.core.errors import UsageError
from reverie.core.files import is_file
from reverie.core.noise import Noise
from reverie.core.options import accepted
from reverie.core.verbs import Model, verbs_of
from reverie.data import Split, load_image, provenance
from reverie.data.batches import in_order
from reverie.inference.conditions import label_index, seeds_of
from reverie.inference.load import data_of, spec_of
from reverie.inference.rows import chunk_of, conditioning, device_of
from reverie.inference.sampling import sample
from reverie.media import Spec, decode, medium_of
from reverie.media.images import Images

Reference = Any  # text, a path, a Pillow image, an array (H, W, C), a tensor (C, H, W) in [-1, 1]
_SPLITS = ("held-out", "train")


def find_image(model: Model, reference: Reference, channels: int | None = None) -> Tensor:
    """(C, *shape) in [-1, 1] of a reference.

    Args:
        channels: of an image file, where others than the model's samples have.
    Raises:
        UsageError: nothing of that name.
        ReverieError: a file that is no image.
    """
    spec = spec_of(model)
    medium = medium_of(spec)
    if isinstance(reference, Tensor):
        return reference
    if isinstance(reference, PILImage.Image | np.ndarray):
        return medium.to_float(_row(reference, spec, _record(model))[None], spec)[0]
    reference = str(reference)
    if is_file(reference):
        record = _record(model)
        if spec.medium == "image":
            size, colours = spec.shape, channels or spec.channels
            row = load_image(Path(reference), size, colours, record["fit"], record["background"])
        else:
            row = medium.read(Path(reference), spec)
        return medium.to_float(row[None], spec)[0]
    kind, _, number = reference.partition(":")
    if kind == "seed" and number.isdigit():
        return medium.to_float(sample(model, 1, int(number)).array, spec)[0]
    split, index = find_row(model, reference)
    return medium.to_float(split["x"][[index]], spec)[0]


def _row(image: PILImage.Image | np.ndarray, spec: Spec, record: dict[str, Any]) -> np.ndarray:
    """A Pillow image or an array as one stored row (*shape, C)."""
    if isinstance(image, np.ndarray) and image.shape == (*spec.shape, spec.channels):
        return image
    if spec.medium != "image" or (
        isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim not in (2, 3))
    ):
        what = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else "a Pillow image"
        raise UsageError(f"{what} is no {spec.medium} of {spec}. Arrays are stored rows (*shape, C), uint8 for images.")
    height, width = spec.shape
    form = decode.Form((height, width), spec.channels, record["fit"], tuple(record["background"]))
    if isinstance(image, np.ndarray):
        return decode.fit_array(image if image.ndim == 3 else image[..., None], form)
    flat = decode.fit(decode.from_pillow(image, form.background, []), form).convert(
        "RGB" if form.channels == 3 else "L"
    )
    return np.asarray(flat).reshape(form.array)


def _record(model: Model) -> dict[str, Any]:
    """How the run's data was opened, as far as that is known."""
    return provenance.upgraded(info_of(model).get("data") or provenance.unknown(spec_of(model), []))


def batch_of(model: Model, images: Any = None, n: int = 32) -> Batch:
    """Named images, or the first held-out ones with all their columns, on the model's device.

    Args:
        images: references, ``Images``, an array (N, *shape, C), a tensor (N, C, *shape) in [-1, 1]; None or nothing:
            held-out images.
        n: how many held-out images.
    """
    device, spec = device_of(model), spec_of(model)
    if images is None or (isinstance(images, list | tuple) and not images):
        if n < 1:
            raise UsageError(f"The number of images must be at least 1, not {n}.")
        held_out = data_of(model).held_out
        return next(in_order(held_out, min(n, len(held_out)), device))
    if isinstance(images, Images | np.ndarray) and images.shape[1:] == (*spec.shape, spec.channels):
        return Batch({"x": medium_of(spec).to_float(np.asarray(images), spec).to(device)})
    if isinstance(images, Tensor) and images.ndim == 2 + len(spec.shape):
        return Batch({"x": images.to(device)})
    several = isinstance(images, Iterable) and not isinstance(images, str | Path | PILImage.Image | np.ndarray | Tensor)
    references = list(images) if several else [images]
    return Batch({"x": torch.stack([find_image(model, reference) for reference in references]).to(device)})


@torch.no_grad()
def find_latent(model: Model, reference: Reference, space: str | None = None) -> Tensor:
    """The latent (1, ...) of a reference: encoded, or, of seed:N and of a class, what the model samples from.

    Args:
        space: one of the card's latent spaces; by default the first.
    Raises:
        UsageError: a model that does not encode, and no seed.
    """
    verbs, device = verbs_of(model), device_of(model)
    options = {} if space is None else {"space": space}
    if isinstance(reference, Tensor) and reference.ndim != 1 + len(spec_of(model).shape):
        return reference.to(device)
    kind, _, number = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if "latent" in verbs and kind == "seed" and number.isdigit():
        return model.latent(Noise.of_seeds(seeds_of(int(number), 1), device), **options)
    if "encode" in verbs:
        return model.encode(find_image(model, reference)[None].to(device), **options)
    if "latent" in verbs and isinstance(reference, str) and card_of(model).classes:
        label = torch.tensor([label_index(model, reference)], device=device)
        return model.latent(Noise.of_seeds([0], device), label=label, **options)
    raise UsageError(
        f"{name_of(model)} samples images, but does not encode them: name seeds, as seed:3 and seed:7"
        + (", or classes." if card_of(model).classes else ".")
    )


def find_pair(model: Model, reference: Reference, **options: Any) -> tuple[Tensor, Tensor | None]:
    """The source that a reference is for a translating model, and the truth where there is one, both (1, C, H, W).

    Args:
        reference: as for ``find_image``; of held-out:N and train:N the data's own pair is taken.
        options: the model's own: which direction.
    """
    options, device = chunk_of(accepted(model, "translation_pair", options), 0, 1), device_of(model)
    in_data = isinstance(reference, str) and not is_file(reference)
    if in_data:
        split, index = find_row(model, reference)
        batch = next(in_order(split.take(np.array([index])), 1, device))
        return model.translation_pair(batch, **options)
    image = find_image(model, reference)[None].to(device)
    source, truth = model.translation_pair(Batch({"x": image, "source": image}), **options)
    if source is not image:
        return source, truth
    channels = max(image.shape[1], card_of(model).conditions.get("source", 0))  # the model itself makes it grey
    if channels != image.shape[1]:
        source = find_image(model, reference, channels)[None].to(device)
    return source, None


def find_row(model: Model, reference: str) -> tuple[Split, int]:
    """Where in the run's data an image is: held-out:N, train:N, a caption, a name, or the first held-out of a class."""
    kind, _, number = reference.partition(":")
    dataset = data_of(model)
    splits = {"held-out": dataset.held_out, "train": dataset.train}
    if kind in splits and number.isdigit():
        if int(number) >= len(splits[kind]):
            raise UsageError(f"{kind} has images 0 to {len(splits[kind]) - 1}, not {number}.")
        return splits[kind], int(number)
    for split in splits.values():
        for names in (split.get("text") or [], split.names):
            if reference in names:
                return split, names.index(reference)
    folded = [name.casefold() for name in dataset.classes]
    if reference.casefold() in folded:
        rows = np.flatnonzero(np.asarray(dataset.held_out.labels) == folded.index(reference.casefold()))
        if len(rows):
            return dataset.held_out, int(rows[0])
    raise UsageError(
        f"There is no file {reference!r}, and the run's data has no image of that name, caption or class. "
        "Other references: held-out:3, train:3, seed:3."
    )


def conditions_in(model: Model, batch: Batch) -> dict[str, Any]:
    """The columns of a batch that are conditions of the model."""
    return conditioning(model, batch)
