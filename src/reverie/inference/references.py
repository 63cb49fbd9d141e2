"""Images and latents by name: a file, a Pillow image, an array, "held-out:3", "train:3", "seed:7", a class,
a caption.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.card import card_of, info_of, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import is_file
from reverie.core.noise import Noise
from reverie.core.options import accepted
from reverie.core.values import integer
from reverie.core.verbs import Model, verbs_of
from reverie.data import Dataset, Split, load_image, provenance
from reverie.data.batches import in_order
from reverie.inference.conditions import label_index, seeds_of
from reverie.inference.load import data_of, spec_of
from reverie.inference.rows import checked_latents, chunk_of, device_of, space_option
from reverie.inference.sampling import sample
from reverie.media import Spec, decode, medium_of
from reverie.media.images import Images

Reference = Any  # text, a path, a Pillow image, an array (H, W, C), a tensor (C, H, W) in [-1, 1]
_CHANNELS = ((), (1,), (3,), (4,))  # of arrays (H, W, ...) that are fitted to the model's images


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
    if isinstance(reference, Tensor):  # a source may have channels of its own
        return _checked(reference[None], spec, card_of(model).conditions.get("source", spec.channels))[0]
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
    if kind == "seed" and number.isdecimal():
        return medium.to_float(sample(model, 1, int(number)).array, spec)[0]
    split, index = find_row(model, reference)
    return medium.to_float(split["x"][[index]], spec)[0]


def _row(image: PILImage.Image | np.ndarray, spec: Spec, record: dict[str, Any]) -> np.ndarray:
    """A Pillow image or an array as one stored row (*shape, C)."""
    if isinstance(image, np.ndarray) and _is_stored(image, spec, image.shape):
        return image
    if spec.medium != "image" or (
        isinstance(image, np.ndarray)
        and (image.dtype != np.uint8 or not image.size or image.ndim not in (2, 3) or image.shape[2:] not in _CHANNELS)
    ):
        what = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else "a Pillow image"
        raise UsageError(f"{what} is no {spec.medium} of {spec}. Arrays are stored rows (*shape, C), uint8 for images.")
    height, width = spec.shape
    form = decode.Form((height, width), spec.channels, record["fit"], tuple(record["background"]))
    if isinstance(image, np.ndarray):
        decode.warn_of_fit((image.shape[1], image.shape[0]), form)
        return decode.fit_array(image if image.ndim == 3 else image[..., None], form)
    upright = decode.from_pillow(image, form.background, [], clear=form.channels == 4)
    decode.warn_of_fit(upright.size, form)
    return decode.fit(upright, form)


def _is_stored(rows: Images | np.ndarray, spec: Spec, shape: tuple[int, ...]) -> bool:
    """Whether rows of such a shape are as a model's data is stored."""
    return shape == (*spec.shape, spec.channels) and (spec.medium != "image" or rows.dtype == np.uint8)


def _checked(x: Tensor, spec: Spec, *channels: int) -> Tensor:
    """Images (N, C, *shape) of the model's shape, finite, in float32.

    Args:
        channels: C, where it may differ from the model's.
    Raises:
        UsageError: any others, or none.
    """
    if not len(x) or x.shape[2:] != spec.shape or x.shape[1] not in (spec.channels, *channels):
        sides = ", ".join(map(str, (spec.channels, *spec.shape)))
        raise UsageError(f"Tensors of images must have the shape (N, {sides}), not {tuple(x.shape)}.")
    if not x.is_floating_point() or not x.isfinite().all():
        raise UsageError("Tensors of images must be finite floats in [-1, 1].")
    return x.float()


def _record(model: Model) -> dict[str, Any]:
    """How the run's data was opened, as far as that is known."""
    return provenance.upgraded(info_of(model).get("data") or provenance.unknown(spec_of(model), []))


def batch_of(model: Model, images: Any = None, n: int = 32) -> Batch:
    """Named images, or the first held-out ones with all their columns, on the model's device.

    Args:
        images: references, ``Images``, an array (N, *shape, C), a tensor (N, C, *shape) in [-1, 1]; None or nothing:
            held-out images.
        n: how many held-out images.
    Raises:
        UsageError: no images, of another shape, or not finite; n below 1; an unknown reference.
    """
    n = integer(argument("n"), n, 1, 10_000)
    device, spec = device_of(model), spec_of(model)
    if images is None or (isinstance(images, list | tuple) and not images):
        examples = examples_of(data_of(model))
        return next(in_order(examples, min(n, len(examples)), device))
    if isinstance(images, Images | np.ndarray) and _is_stored(images, spec, images.shape[1:]):
        x = medium_of(spec).to_float(np.asarray(images), spec)
    elif isinstance(images, Tensor) and images.ndim == 2 + len(spec.shape):
        x = images
    else:
        single = isinstance(images, str | Path | PILImage.Image | np.ndarray | Tensor)
        references = list(images) if isinstance(images, Iterable) and not single else [images]
        rows = [_checked(find_image(model, reference)[None], spec) for reference in references]
        x = torch.cat(rows) if rows else torch.empty(0, spec.channels, *spec.shape)
    return Batch({"x": _checked(x, spec).to(device)})


def examples_of(data: Dataset) -> Split:
    """Images to look at: the held-out split, or, with a warning, the training split where nothing is held out."""
    if not len(data.held_out):
        warnings.warn(f"Nothing of {data.source} is held out: these are training images.", stacklevel=4)
    return data.examples


@torch.no_grad()
def find_latent(model: Model, reference: Reference, space: str | None = None) -> Tensor:
    """The latent (1, ...) of a reference: encoded, or, of seed:N and of a class, what the model samples from.

    A tensor of other dimensions than an image's is a latent itself, and so is any of a model that does not encode.

    Args:
        space: one of the card's latent spaces; by default the first.
    Raises:
        UsageError: a model that does not encode, and no seed; not one image or latent; an unknown space.
    """
    verbs, device, options = verbs_of(model), device_of(model), space_option(model, space)
    if isinstance(reference, Tensor) and ("encode" not in verbs or reference.ndim != 1 + len(spec_of(model).shape)):
        return checked_latents(model, reference, space, 1)
    kind, _, number = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if "latent" in verbs and kind == "seed" and number.isdecimal():
        return model.latent(Noise.of_seeds(seeds_of(int(number), 1), device), **options)
    if "encode" in verbs:
        x = batch_of(model, reference if isinstance(reference, Images | np.ndarray) else [reference])["x"]
        if len(x) != 1:
            raise UsageError(f"One image is needed, not {len(x)}.")
        return model.encode(x, **options)
    in_data = kind in ("held-out", "train") and number.isdecimal()
    if "latent" in verbs and isinstance(reference, str) and card_of(model).classes and not in_data:
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
    """Where in the run's data an image is: held-out:N, train:N, a caption, a name, or the first of a class.

    Held-out images come first. Raises UsageError if there is none.
    """
    kind, _, number = reference.partition(":")
    dataset = data_of(model)
    splits = {"held-out": dataset.held_out, "train": dataset.train}
    if kind in splits and number.isdecimal():
        if not len(splits[kind]):
            raise UsageError(f"Nothing of {dataset.source} is held out; its training images are train:0 and so on.")
        if int(number) >= len(splits[kind]):
            raise UsageError(f"{kind} has images 0 to {len(splits[kind]) - 1}, not {number}.")
        return splits[kind], int(number)
    for split in splits.values():
        for names in (split.get("text") or [], split.names):
            if reference in names:
                return split, names.index(reference)
    folded = [name.casefold() for name in dataset.classes]
    if reference.casefold() in folded:
        for split in splits.values():
            rows = np.flatnonzero(np.asarray(split.labels) == folded.index(reference.casefold()))
            if len(rows):
                return split, int(rows[0])
    raise UsageError(
        f"There is no file {reference!r}, and the run's data has no image of that name, caption or class. "
        "Other references: held-out:3, train:3, seed:3."
    )
