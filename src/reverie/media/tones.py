"""Tones that Pillow reads otherwise than the file means: TIFFs of more than 8 bits, 16-bit transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from reverie.media import values


def tiff_tags(image: Image.Image) -> tuple[bool, int]:
    """Whether 0 is white, and the sample format: 1 unsigned, 2 signed; 0 of no TIFF. (TIFF 6.0, tags 262 and 339)"""
    if "reverie_tiff" in image.info:
        return image.info["reverie_tiff"]
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return False, 0
    formats = tags.get(339, (1,))
    return tags.get(262) == 0, formats[0] if isinstance(formats, tuple) else formats


def odd_tones(image: Image.Image) -> str:
    """What is converted of an open image, beside its range; "" for most."""
    white_is_zero, sample_format = tiff_tags(image)
    if white_is_zero and (image.mode == "F" or image.mode.startswith("I")):
        return "converted: in it 0 is white"
    if image.mode == "L" and sample_format == 2:
        return "converted: from signed 8 bits"
    if image.mode == "I" and sample_format == 1 and np.asarray(image).min(initial=0) < 0:
        return "converted: from unsigned 32 bits"
    return ""


def numbers_of(image: Image.Image) -> np.ndarray:
    """The values of a grey image beyond 8 bits, white the largest: uint16, int32, uint32 or float32 (H, W)."""
    array = np.asarray(image)
    white_is_zero, sample_format = tiff_tags(image)
    if image.mode == "I" and sample_format == 1:
        array = array.view(np.uint32)  # Pillow reads them as signed
    if white_is_zero and image.mode == "F":
        low, high = values.range_of([values.tally(array, "float")]).range
        array = low + high - array
    elif white_is_zero:  # Pillow inverts 8 bits only
        array = ~array
    return array.astype(np.uint16, copy=False) if array.dtype.itemsize == 2 else array


def unsigned(image: Image.Image) -> Image.Image:
    """The image; one of signed 8 bits, which Pillow reads as unsigned, from -128 as 0."""
    if image.mode != "L" or tiff_tags(image)[1] != 2:
        return image
    image = image.point([value ^ 128 for value in range(256)])
    image.info.pop("reverie_tiff", None)
    return image


def opacity_of_16_bits(image: Image.Image) -> Image.Image | None:
    """Where an image of 16-bit grey has another value than its transparent one, "L"; None if it has none."""
    clear = image.info.get("transparency")
    if not isinstance(clear, int) or not image.mode.startswith("I"):
        return None
    opaque = np.asarray(image) != clear
    return None if opaque.all() else Image.fromarray(opaque.astype(np.uint8) * 255)
