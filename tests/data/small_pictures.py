"""Small images to fill folders with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, width: int = 24, height: int = 24, channels: int = 3) -> np.ndarray:
    """Smooth random colours, uint8 (H, W, C): no two seeds look alike, and JPEG keeps them nearly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), np.uint8)
    image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.asarray(image).reshape(height, width, channels)


def save(path: Path, seed: int, width: int = 24, height: int = 24, channels: int = 3, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(seed, width, height, channels)
    Image.fromarray(array[..., 0] if channels == 1 else array).save(path, **options)
    return path


def fill(folder: Path, count: int, first: int = 0, **options) -> Path:
    """``count`` different pictures under ``folder``."""
    for seed in range(first, first + count):
        save(folder / f"{seed:04d}.png", seed, **options)
    return folder
