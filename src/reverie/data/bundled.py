"""The two sets that ship with the package; ``scripts/make_bundled.py`` makes them, ``bundled/README.md`` says from what."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.data.arrays import Arrays

FOLDER = Path(__file__).parent / "bundled"
FILTERS = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26, "lc": 2, "lp": 2, "pb": 2}
]


def fashion() -> Arrays:
    """Fashion-MNIST in small: 12,000 training and 2,000 held-out grey 28 x 28 pictures, ten classes alike."""
    about = json.loads((FOLDER / "fashion.json").read_text("utf-8"))
    with Image.open(FOLDER / "fashion.webp") as image:
        mosaic = np.asarray(image.convert("RGB"))[..., 0]
    columns = mosaic.shape[1] // 28
    tiles = mosaic.reshape(-1, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    # The mosaic is turned (it packs better) and sorted by class; "order" leads back.
    images = np.ascontiguousarray(tiles[about["order"]].swapaxes(1, 2))[..., None]
    labels = np.frombuffer(about["labels"].encode(), np.uint8).astype(np.int64) - ord("0")
    return Arrays(images, labels, about["classes"], about["train"], checked=True)


def emoji() -> Arrays:
    """Base emoji, 64 x 64 RGB on white: Noto's drawing with Twemoji's as its source, name and category."""
    about = json.loads((FOLDER / "emoji.json").read_text("utf-8"))
    labels = np.array(about["labels"], np.int64)
    images, sources = (unpack((FOLDER / f"emoji-{name}.xz").read_bytes()) for name in ("noto", "twemoji"))
    return Arrays(
        images, labels, about["classes"], about["train"], about["names"], about["texts"], sources, checked=True
    )


def pack(pictures: np.ndarray) -> bytes:
    """uint8 (N, 64, 64, 3) to LZMA over (green, red - green, blue - green, 0): whole pixels of four bytes repeat often."""
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
