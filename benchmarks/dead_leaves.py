"""Synthetic photographs by the dead leaves model: folders of JPEG files of any number, without a download.

Leaves of all sizes that cover one another, with texture, have the scale invariance, the edges and the power spectrum of
natural images (Lee, Mumford and Huang, IJCV 2001), and so compress and decode as these do.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = 10
QUALITY = 85
COVER = 4  # layers of leaves
RADII = (3.0, 400.0)  # pixels; their density falls with the cube


def canvas(seed: int, side: int = 2048) -> np.ndarray:
    """One large image, uint8 (side, side, 3), of which photographs are crops."""
    rng = np.random.default_rng(seed)
    low, high = RADII[0] ** -2, RADII[1] ** -2
    area = 2 * np.pi * np.log(RADII[1] / RADII[0]) / (low - high)  # of a leaf, expected
    count = int(COVER * side * side / area)
    radius = (low - rng.random(count) * (low - high)) ** -0.5
    centre = rng.random((count, 2)) * side
    grey, chroma = rng.uniform(15, 240, (count, 1)), rng.normal(0, 22, (count, 3))
    colours = np.clip(grey + chroma, 0, 255).astype(np.uint8)
    image = Image.new("RGB", (side, side), (110, 110, 100))
    draw = ImageDraw.Draw(image)
    for (x, y), r, colour in zip(centre, radius, colours, strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(map(int, colour)))
    texture = 9 * _pink(rng, side) + rng.normal(0, 0.7, (side, side)).astype(np.float32)
    image = image.filter(ImageFilter.GaussianBlur(0.7))
    return np.clip(np.asarray(image, np.float32) + texture[..., None], 0, 255).astype(np.uint8)


def _pink(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise (side, side) whose power falls with the square of the frequency, of standard deviation 1."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / side)
    amplitude[0, 0] = 0
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) * amplitude, (side, side))
    return (noise / noise.std()).astype(np.float32)


def make_folder(folder: Path, count: int, wide: tuple[int, int] = (400, 640), threads: int = 2) -> int:
    """``count`` JPEG files in ten class folders; returns their bytes.

    Args:
        wide: least and most width in pixels; the height is three quarters of it.
    """
    side = 2048 if wide[1] <= 1024 else 2 * wide[1]
    canvases = [canvas(seed, side) for seed in range(4)]
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)

    def make(number: int) -> int:
        rng = np.random.default_rng([7, number])
        width = int(rng.integers(wide[0], wide[1] + 1))
        height = width * 3 // 4
        top, left = rng.integers(0, side - height), rng.integers(0, side - width)
        pixels = canvases[number % 4][top : top + height, left : left + width]
        pixels = pixels[:: rng.choice([-1, 1]), :: rng.choice([-1, 1]), rng.permutation(3)]
        path = folder / f"class-{number % CLASSES}" / f"{number:06}.jpg"
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, quality=QUALITY)
        return path.stat().st_size

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(make, range(count), chunksize=64))
