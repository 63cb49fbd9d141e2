"""Images to compress: as they are in a file, without any conversion of a pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import is_file
from reverie.media import decode

Planes = tuple[np.ndarray, int]  # uint8 (C, H, W), and how many of its channels are coded: 1 where all are equal


def open_image(image: Any, name: str = "The image") -> np.ndarray:
    """uint8 (H, W, C) of a file, its bytes, a Pillow image or an array; C is 1, 2 (with alpha), 3 or 4 (with alpha).

    Palettes become the colours that they stand for, and images are turned upright as their EXIF orientation says.

    Args:
        name: of what is no file, for messages.
    Raises:
        UsageError: something else, or an image whose pixels are not 8-bit grey or RGB.
        ReverieError: a file that cannot be read as an image.
    """
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if array.ndim != 3 or array.dtype != np.uint8 or array.shape[2] not in (1, 2, 3, 4) or not array.size:
            raise UsageError(f"An array of {image.dtype} {image.shape} is no image: uint8 (H, W) or (H, W, 1 to 4).")
        return array
    if isinstance(image, Image.Image):
        return _pixels(image, name)
    if not isinstance(image, bytes):
        name = str(image)
        if not is_file(image):
            raise UsageError(f"There is no image file {name!r:.200}.")
    try:
        with decode.quiet():
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
            decode.inspect(data)
            return _pixels(Image.open(io.BytesIO(data)), name)
    except decode.Unusable as error:
        raise ReverieError(f"{name} {error.message}") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's decoders, of damaged data
        if isinstance(error, ReverieError):
            raise
        raise ReverieError(f"{name} cannot be read as an image: {error}.") from None


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    kind = str(getattr(image, "tile", ""))
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UsageError(f"{name} has several frames, which compress does not hold: save the frames one by one.")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA") or ";16" in kind:
        mode = "16-bit" if ";16" in kind or image.mode.startswith("I") else image.mode
        raise UsageError(f"{name} has {mode} pixels: only 8-bit grey and RGB images are compressed. Convert it first.")
    if "transparency" in image.info or image.mode in ("P", "PA"):
        clear = "transparency" in image.info or image.mode == "PA"
        image = image.convert(("LA" if image.mode == "L" else "RGBA") if clear else "RGB")
    image = image.convert("L") if image.mode == "1" else image
    return open_image(np.asarray(ImageOps.exif_transpose(image)))


def planes_of(image: np.ndarray, channels: int) -> list[Planes]:
    """An image as the images of a model with 1 or 3 channels that stand for it: colours together where it can.

    What a model of the other kind has to code is a grey image: alpha, grey for a model of colours (as equal channels,
    of which one is coded), each colour for a model of grey.
    """
    together = channels if image.shape[2] >= 3 else 1
    first = [(image[..., :3].transpose(2, 0, 1), 3)] if together == 3 else []
    alone = range(3 if first else 0, image.shape[2])
    return first + [(np.broadcast_to(image[..., c], (channels, *image.shape[:2])), 1) for c in alone]


def image_of(planes: Sequence[np.ndarray], coded: int) -> np.ndarray:
    """The image (H, W, C) for which planes (C, H, W) stand, of whose first ``coded`` channels were coded."""
    parts = [planes[0][:coded], *(plane[:1] for plane in planes[1:])]
    return np.concatenate(parts).transpose(1, 2, 0)
