"""JPEG XL files by pyjpegxl, as a format of Pillow. Importing this raises ImportError without that package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyjpegxl
from PIL import Image, ImageFile


class JpegXLFile(ImageFile.ImageFile):
    """A JPEG XL image: its header is read when it is opened, its pixels by ``load``. The decoder turns it upright."""

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        assert self.fp is not None
        self.data: bytes | None = self.fp.read()
        header = pyjpegxl.probe(self.data)
        self._size = (header.width, header.height)
        alpha = "A" if header.has_alpha else ""
        self._mode = ("L" if header.num_color_channels == 1 else "RGB") + alpha
        if profile := getattr(header, "icc", None):
            self.info["icc_profile"] = profile
        self.tile = []

    def load(self) -> Any:
        if self.data is not None:
            data, self.data = self.data, None
            _, pixels = pyjpegxl.decode_to_numpy(data)
            pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
            if pixels.dtype != np.uint8 and pixels.ndim == 3:  # Pillow has no deep colour
                pixels = _to_bytes(pixels)
                self.info["reverie_raw"] = ";16"
            image = Image.fromarray(pixels)
            self.im, self._mode, self._size = image.im, image.mode, image.size
        return super().load()


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """16-bit integers, or floats in [0, 1], to their first 8 bits."""
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    return (pixels.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
