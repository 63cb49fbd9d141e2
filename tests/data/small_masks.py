"""Small masks, and what a data set says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from small_pictures import save

from reverie.data import Dataset

COLOURS = [value for k in range(256) for value in ((k * 67) % 256, (k * 29) % 256, (k * 11) % 256)]  # 0 is black


def region(seed: int, width: int = 24, height: int = 24) -> np.ndarray:
    """A box, bool (H, W)."""
    x, y = np.random.default_rng(seed).integers(1, 12, 2)
    mask = np.zeros((height, width), bool)
    mask[y : y + 8, x : x + 9] = True
    return mask


def draw(path: Path, image: Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def grey(mask: np.ndarray, low: int = 0, high: int = 255) -> Image.Image:
    return Image.fromarray(np.where(mask, high, low).astype(np.uint8))


def palette(index: np.ndarray, colours: list[int] = COLOURS) -> Image.Image:
    image = Image.frombytes("P", index.shape[::-1], index.astype(np.uint8).tobytes())
    image.putpalette(colours)
    return image


def kinds(dataset: Dataset) -> dict[str, list[str]]:
    """Kind of problem -> files."""
    return {
        kind: [p.file for p in dataset.report.problems if p.kind == kind]
        for kind in {p.kind for p in dataset.report.problems}
    }


def rule(dataset: Dataset) -> str:
    return next(p.action for p in dataset.report.problems if p.kind == "mask-values")


def by_name(dataset: Dataset) -> dict[str, np.ndarray]:
    """Name -> mask (H, W)."""
    return {
        name: mask[..., 0]
        for side in (dataset.train, dataset.held_out)
        for name, mask in zip(side.names, side["mask"], strict=True)
    }


def folder_of_masks(folder: Path, n: int = 12) -> Path:
    for i in range(n):
        save(folder / "images" / f"{i}.jpg", i)
        draw(folder / "masks" / f"{i}.png", grey(region(i)))
    return folder
