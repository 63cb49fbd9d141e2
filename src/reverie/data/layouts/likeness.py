"""Whether two images show the same: their edges are at the same places, whatever their colours."""

from __future__ import annotations

import numpy as np
from PIL import Image

from reverie.data.items import File
from reverie.media import decode

LOOKED_AT = 32  # images, or pairs of them, that are compared
FEWEST = 4  # of them
GRID = 24  # cells of a side, on which they are
ALIKE = 0.15  # correlation of the edges of two images that show the same


def read_grey(file: File, across: int = 1) -> np.ndarray | None:
    """A file's image in grey, float64 (4 GRID, 4 GRID ``across``); None if it cannot be decoded."""
    try:
        image = decode.read(file.read())
    except (OSError, decode.Unusable):
        return None
    size = (4 * GRID * across, 4 * GRID)
    return np.asarray(image.convert("L").resize(size, Image.Resampling.BOX), np.float64)


def edges(pair: np.ndarray) -> np.ndarray:
    """Strength of the edges of two grey images (2, 4 GRID, 4 GRID), without what all rows or all columns share.

    Returns:
        float64 (2, GRID * GRID).
    """
    strength = np.hypot(*np.gradient(pair, axis=(1, 2)))
    cells = strength.reshape(2, GRID, 4, GRID, 4).mean(axis=(2, 4))
    cells = cells - cells.mean(1, keepdims=True) - cells.mean(2, keepdims=True) + cells.mean((1, 2), keepdims=True)
    flat = cells.reshape(2, -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def likeness(pairs: np.ndarray) -> tuple[float, float]:
    """Mean correlation of the edges (N, 2, D) of pairs, and, in size, of images of different pairs."""
    table = pairs[:, 0] @ pairs[:, 1].T
    n = len(table)
    return float(np.trace(table) / n), float(abs((table.sum() - np.trace(table)) / (n * (n - 1))))
