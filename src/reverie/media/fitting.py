"""The shape of stored images, and how images of other shapes are brought to it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from reverie.media import alpha
from reverie.media.profiles import Recolour
from reverie.media.values import Range


@dataclass(frozen=True)
class Form:
    """The shape of decoded images.

    Attributes:
        shape: (height, width) in pixels.
        channels: 1 (ITU-R 601 luma), 3 (RGB) or 4 (RGBA).
        fit: "crop" (cover ``shape``, keep the centre) or "pad" (fit inside ``shape``, pad with the background).
        background: RGB behind transparent pixels and in the padding; of RGBA both stay transparent.
        ends: values of 16-bit and float images that become 0 and 255; None: decided from the values.
    """

    shape: tuple[int, int]
    channels: int
    fit: str
    background: tuple[int, int, int]
    ends: Range | None = None

    @property
    def array(self) -> tuple[int, int, int]:
        """Shape of the array: (H, W, C)."""
        return (*self.shape, self.channels)

    def as_dict(self) -> dict[str, Any]:
        """For keys and fingerprints; the size of a square is its side."""
        height, width = self.shape
        size = height if height == width else [height, width]
        ends = {} if self.ends is None else {"ends": self.ends}
        return {"size": size, "channels": self.channels, "fit": self.fit, "background": self.background, **ends}


def warn_of_fit(size: tuple[int, int], form: Form) -> None:
    """Warn that one image, named by the user, is cropped or padded; a row or column of pixels is rounding."""
    (width, height), (rows, columns) = size, form.shape
    scales = columns / width, rows / height
    if max(width, height) * (max(scales) - min(scales)) >= 1:
        done = "cropped at its centre" if form.fit == "crop" else "padded"
        warnings.warn(
            f"An image of {width} x {height} pixels was {done}: the model's images have {columns} x {rows}.",
            stacklevel=4,
        )


def fit(image: Image.Image, form: Form, recolour: Recolour | None = None) -> np.ndarray:
    """An "L" or "RGB" image, or "RGBA" for a form of four channels, to uint8 (H, W, channels).

    It is resized by antialiased Lanczos, and recoloured before it is padded. RGBA is resized with premultiplied alpha,
    so that no transparent pixel's colour bleeds, and becomes canonical.
    """
    clear = form.channels == 4
    image = _resize(image, form, Image.Resampling.LANCZOS, (0, 0, 0, 0) if clear else form.background, recolour)
    mode = image.mode if clear else "RGB" if form.channels == 3 else "L"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return alpha.canonical(pixels) if clear else pixels.reshape(form.array)


def _resize(
    image: Image.Image,
    form: Form,
    resampling: Image.Resampling,
    background: tuple[int, ...],
    recolour: Recolour | None = None,
) -> Image.Image:
    (width, height), (rows, columns) = image.size, form.shape
    finish = recolour or (lambda image: image)
    if (height, width) == form.shape:
        return finish(image)
    if form.fit == "crop":
        inside = min(width, height * columns / rows), min(height, width * rows / columns)
        left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
        box = (left, top, left + inside[0], top + inside[1])
        return finish(image.resize((columns, rows), resampling, box=box))
    scale = min(columns / width, rows / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = finish(image.resize(inner, resampling))
    canvas = Image.new("RGBA" if resized.mode == "RGBA" else "RGB", (columns, rows), background).convert(resized.mode)
    corner = ((columns - inner[0]) // 2, (rows - inner[1]) // 2)
    canvas.paste(resized, corner)
    return canvas


def fit_mask(mask: np.ndarray, form: Form) -> np.ndarray:
    """uint8 (H, W, 1) to uint8 (H', W', 1) by nearest neighbour; padding is 0."""
    image = _resize(Image.fromarray(mask[..., 0]), form, Image.Resampling.NEAREST, (0, 0, 0))
    return np.asarray(image).reshape(*form.shape, 1)
