"""The two sets that ship with the package; made by ``scripts/make_bundled.py``, sources in ``bundled/README.md``."""

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
TRAIN, HELD_OUT = 1200, 200  # pictures of each class
UPRIGHT = (5, 7, 9)  # shoes; the other classes' mosaics lie on their side: both as they pack best


def fashion() -> Arrays:
    """Fashion-MNIST in small: 12,000 training and 2,000 held-out grey 28 x 28 pictures, the ten classes in turn."""
    images = np.empty((10 * (TRAIN + HELD_OUT), 28, 28, 1), np.uint8)
    for label in range(10):
        with Image.open(FOLDER / f"fashion-{label}.webp") as image:
            mosaic = np.asarray(image.convert("RGB"))[..., 0]
        tiles = mosaic.reshape(-1, 28, mosaic.shape[1] // 28, 28).swapaxes(1, 2).reshape(-1, 28, 28)
        images[label::10, ..., 0] = tiles if label in UPRIGHT else tiles.swapaxes(1, 2)
    return of_images(images, np.arange(len(images)) % 10, FASHION_CLASSES, 10 * TRAIN)


def emoji() -> Arrays:
    """Base emoji, 64 x 64 RGB on white: Noto's drawing with Twemoji's as its source, name and category."""
    about = json.loads((FOLDER / "emoji.json").read_text("utf-8"))
    labels = np.array(about["labels"], np.int64)
    images, sources = (unpack((FOLDER / f"emoji-{name}.xz").read_bytes()) for name in ("noto", "twemoji"))
    return of_images(
        images, labels, about["classes"], about["train"], about["names"], text=about["texts"], source=sources
    )


def pack(pictures: np.ndarray) -> bytes:
    """uint8 (N, 64, 64, 3) to LZMA over (green, red - green, blue - green, 0): pixels of four bytes repeat often."""
    four = np.zeros((*pictures.shape[:3], 4), np.uint8)
    four[..., 0] = pictures[..., 1]
    four[..., 1] = pictures[..., 0] - pictures[..., 1]
    four[..., 2] = pictures[..., 2] - pictures[..., 1]
    return lzma.compress(four.tobytes(), lzma.FORMAT_XZ, filters=FILTERS)


def unpack(data: bytes) -> np.ndarray:
    """The inverse of ``pack``."""
    four = np.frombuffer(lzma.decompress(data), np.uint8).reshape(-1, 64, 64, 4)
    made = np.empty((*four.shape[:3], 3), np.uint8)
    made[..., 1] = four[..., 0]
    np.add(four[..., 1], four[..., 0], out=made[..., 0])
    np.add(four[..., 2], four[..., 0], out=made[..., 2])
    return made


BUNDLED = {"fashion": fashion, "emoji": emoji}
