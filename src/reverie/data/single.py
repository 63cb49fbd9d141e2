"""Single images, named by the user."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from reverie.core.errors import UsageError
from reverie.core.files import exists, is_file
from reverie.data.options import WHITE, Background, parse_background
from reverie.media import Size, Spec, parse_size


def load_image(
    path: str | os.PathLike[str],
    size: Size,
    channels: int,
    fit: str = "crop",
    background: Background = WHITE,
) -> np.ndarray:
    """One image file as uint8 (H, W, channels), decoded as by intake.

    Raises:
        ReverieError: the file cannot be read or is no image.
    """
    from reverie.media.image import Image

    extents = parse_size(size)
    assert extents is not None
    spec = Spec("image", (extents[0], extents[-1]), channels)
    return Image().read(Path(path), spec, fit, parse_background(background))


def image_files(path: str | os.PathLike[str]) -> list[Path]:
    """An image file itself, or the image files of a folder in the order of their names.

    Raises:
        UsageError: neither, or a folder without images.
    """
    from reverie.media.decode import SUFFIXES

    path = Path(path)
    if is_file(path):
        return [path]
    inside = path.iterdir() if exists(path) else ()
    if images := sorted(file for file in inside if file.is_file() and file.suffix.lower() in SUFFIXES):
        return images
    raise UsageError(f"{path} is no image file and no folder of them. They end in {' '.join(sorted(SUFFIXES))}.")
