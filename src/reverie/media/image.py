"""Images of any height and width, grey, RGB or RGBA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError
from reverie.media import decode, montage
from reverie.media.medium import Medium, save_arrays, save_folder
from reverie.media.origin import Origin, ending_of
from reverie.media.spec import Spec


class Image(Medium):
    """uint8 (N, H, W, C), C = 1 (grey), 3 (RGB) or 4 (RGBA, straight alpha)."""

    name = "image"
    noun = "images"
    dims = 2
    augmentations = ("flip", "translate", "color")
    suffixes = tuple(sorted(decode.SUFFIXES))
    ending = ".png"

    def read(
        self, path: Path, spec: Spec, fit: str = "crop", background: tuple[int, int, int] = (255, 255, 255)
    ) -> np.ndarray:
        """One image file as uint8 (H, W, C), decoded as by intake.

        Raises:
            ReverieError: the file cannot be read or is no image.
        """
        height, width = spec.shape
        form = decode.Form((height, width), spec.channels, fit, background)
        try:
            with decode.quiet():
                data = path.read_bytes()
                image, _ = decode.decode(data, form)
                size = decode.upright_size(data)
            decode.warn_of_fit(size, form)
            return image
        except OSError as error:
            raise ReverieError(f"{path} cannot be read: {error.strerror or error}.") from None
        except decode.Unusable as error:
            raise ReverieError(f"{path} {error.message}") from None

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        return rows, "images"

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        return montage.grid(rows, columns)

    def save(
        self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None = None
    ) -> None:
        """A grid (.png ...), an archive (.npz) of ``images`` and ``meta``, or a folder of numbered images."""
        ending = ending_of(path)
        if ending == ".npz":
            save_arrays(path, {"images": rows, **meta}, origin)
        elif ending:
            montage.save(path, montage.grid(rows), origin)
        else:
            save_folder(self, path, rows, spec, origin)

    def save_row(self, path: Path, row: np.ndarray, spec: Spec, origin: Origin | None = None) -> None:
        montage.save(path, row, origin)
