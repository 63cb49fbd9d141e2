"""The two bundled sets, built by ``scripts/make_bundled.py``; sources in ``bundled/README.md``."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.data.arrays import Arrays, of_images

FOLDER = Path(__file__).parent / "bundled"
FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26, "lc": 2, "lp": 2, "pb": 2}
]
FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
TRAIN, HELD_OUT = 1200, 200  # images of each class
UPRIGHT = (5, 7, 9)  # shoes; the other classes' tiles are transposed: both compress best this way


def fashion() -> Arrays:
    """A subset of Fashion-MNIST: 12,000 training and 2,000 held-out grey 28 x 28 images, classes in turn."""
    images = np.empty((10 * (TRAIN + HELD_OUT), 28, 28, 1), np.uint8)
    for label in range(10):
        with Image.open(FOLDER / f"fashion-{label}.webp") as image:
            mosaic = np.asarray(image.convert("RGB"))[..., 0]
        tiles = mosaic.reshape(-1, 28, mosaic.shape[1] // 28, 28).swapaxes(1, 2).reshape(-1, 28, 28)
        images[label::10, ..., 0] = tiles if label in UPRIGHT else tiles.swapaxes(1, 2)
    return of_images(images, np.arange(len(images)) % 10, FASHION_CLASSES, 10 * TRAIN)


def emoji() -> Arrays:
    """Base emoji, 64 x 64 RGB on white: Noto's design, Twemoji's as its source, its name and category."""
    meta = json.loads((FOLDER / "emoji.json").read_text("utf-8"))
    images, sources = (unpack((FOLDER / f"emoji-{name}.xz").read_bytes()) for name in ("noto", "twemoji"))
    columns = {"text": meta["texts"], "source": sources}
    return of_images(images, meta["labels"], meta["classes"], meta["train"], meta["names"], **columns)


def pack(images: np.ndarray) -> bytes:
    """uint8 (N, 64, 64, 3) to LZMA over (green, red - green, blue - green, 0): aligned pixels repeat often."""
    four = np.zeros((*images.shape[:3], 4), np.uint8)
    four[..., 0] = images[..., 1]
    four[..., 1] = images[..., 0] - images[..., 1]
    four[..., 2] = images[..., 2] - images[..., 1]
    return lzma.compress(four.tobytes(), lzma.FORMAT_XZ, filters=FILTERS)


def unpack(data: bytes) -> np.ndarray:
    """The inverse of ``pack``."""
    four = np.frombuffer(lzma.decompress(data), np.uint8).reshape(-1, 64, 64, 4)
    images = np.empty((*four.shape[:3], 3), np.uint8)
    images[..., 1] = four[..., 0]
    np.add(four[..., 1], four[..., 0], out=images[..., 0])
    np.add(four[..., 2], four[..., 0], out=images[..., 2])
    return images


BUNDLED = {"fashion": fashion, "emoji": emoji}
