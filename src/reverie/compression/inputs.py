"""What is compressed, by name: files and images of a data set, as they are in their source."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reverie.compression.pictures import open_image
from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import exists, is_file
from reverie.core.values import integer
from reverie.core.verbs import Model, verbs_of
from reverie.data import Dataset, Split, originals
from reverie.inference.load import data_of
from reverie.inference.references import find_row
from reverie.media.images import Images

_KINDS = (
    'a file, "held-out:3", a Pillow image, an array uint8 (H, W) or (H, W, C), Images, a split of data, or a list of '
    "the first four"
)


def open_images(model: Model, images: Any) -> list[np.ndarray]:
    """Images uint8 (H, W, C) of files, references, arrays, ``Images`` or a split.

    Raises:
        UsageError: none at all, something else, or pixels that are not 8-bit grey or RGB.
        ReverieError: a file that cannot be read.
    """
    if isinstance(images, Split):
        images = list(images["x"])
    elif isinstance(images, Images):
        images = list(images.array)
    elif not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise UsageError("There are no images to compress.")
    return [_open(model, image) for image in images]


def _open(model: Model, image: Any) -> np.ndarray:
    if isinstance(image, Image.Image | np.ndarray):
        return open_image(image)
    if not isinstance(image, str | Path):
        raise UsageError(f"{type(image).__name__} is no image. Possible: {_KINDS}.")
    check_reference(image)
    if is_file(image):
        return open_image(image)
    split, index = find_row(model, str(image))
    return _of_split(model, data_of(model), split.take(np.array([index])))[0]


def check_reference(image: str | Path) -> None:
    """Raise a UsageError for a name of neither a file nor an image of the run's data."""
    kind, colon, number = str(image).partition(":")
    if is_file(image):
        return
    if exists(image):
        split = argument("data", str(image))
        raise UsageError(f"{image} is a folder. Name its files one by one, or compress a split of them with {split}.")
    if not colon or kind not in ("held-out", "train"):
        raise UsageError(f"There is no image file {str(image)!r:.200}. Of the run's data: held-out:3, train:3.")
    if not number.isdecimal():
        raise UsageError(f"{image}: images of the run's data are numbered from 0, as {kind}:3.")


def open_data_images(model: Model, data: str, split: str = "held-out", number: int | None = None) -> list[np.ndarray]:
    """Images uint8 (H, W, C) of a split of data, in its order.

    Args:
        split: "held-out" or "train".
        number: the first so many; None is all.
    Raises:
        UsageError: no such data, a number below 1, or pixels that are not 8-bit grey or RGB.
    """
    number = None if number is None else integer(argument("number"), number, 1)
    opened = data_of(model, data)
    rows = opened.unseen("This") if split == "held-out" else opened.train
    return _of_split(model, opened, rows.take(slice(number)))


def _of_split(model: Model, data: Dataset, rows: Split) -> list[np.ndarray]:
    """As the source holds them, or for a model of one size, with a warning, as its data has them."""
    sources = originals(data, rows)
    if "portable" in verbs_of(model):
        return [open_image(image, name) for name, image in zip(rows.names, sources, strict=True)]
    if any(isinstance(image, bytes) or image.shape != rows["x"].shape[1:] for image in sources):
        warnings.warn(
            f"Images of {data.source} are converted to {card_of(model).output}, the only form that {name_of(model)} "
            "compresses: the file does not hold the originals. A codec keeps them: reverie train codec.",
            stacklevel=5,
        )
    return [open_image(image) for image in rows["x"]]
