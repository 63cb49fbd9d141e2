"""How small and how fast is lossless compression: a codec's run beside PNG, WebP and JPEG XL (effort 7)?

Held-out images of the run's data, evenly spaced: each a file of its own, all in one file of ours (``reverie compress
--data``), and, where they are small, side by side as one mosaic, which every format codes as one image. Every file is
decoded and compared with the pixels. Seconds are of one process that has the threads given, per million pixels.

The last line is the bytes of JPEG XL over ours: of files where images are large, of mosaics where they are small.

Run:  python benchmarks/compress.py RUN [-n 64] [--threads 2]
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch

import reverie as rv
from reverie.compression.formats import jpeg_xl, png, webp
from reverie.data import Split
from reverie.evaluation.likelihood import evenly
from reverie.inference.load import data_of

SMALL = 64  # pixels of a side below which a mosaic is measured


def mosaic(images: np.ndarray) -> np.ndarray:
    """As many images side by side as make a square."""
    side = math.isqrt(len(images))
    height, width, channels = images.shape[1:]
    tiles = images[: side * side].reshape(side, side, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(side * height, side * width, channels)


def ours(model, images) -> tuple[int, float, float, float]:
    """Bytes, ideal bytes, and seconds of compression and of decompression, which is checked."""
    began = time.perf_counter()
    compressed = rv.compress(model, images)
    middle = time.perf_counter()
    back = rv.decompress(compressed, model)
    end = time.perf_counter()
    assert all(map(np.array_equal, back, compressed.images))
    return len(compressed.data), compressed.bits / 8, middle - began, end - middle


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("--data")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = rv.load(arguments.run, device="cpu")
    split: Split = evenly(data_of(model, arguments.data).held_out, arguments.n)
    images = np.asarray(split["x"])
    encoders = {"PNG": png, "WebP": webp} | ({"JPEG XL": encode} if (encode := jpeg_xl()) else {})
    cases = {"files": list(images)} | ({"mosaic": [mosaic(images)]} if images.shape[1] < SMALL else {})
    ratio = math.nan
    for case, rows in cases.items():
        values, pixels = sum(row.size for row in rows), sum(row[..., 0].size for row in rows)
        sizes = {}
        for name, encode in encoders.items():
            began = time.perf_counter()
            sizes[name] = sum(len(encode(row)) for row in rows)
            seconds = (time.perf_counter() - began) / pixels * 1e6
            print(f"{case}: {name} {8 * sizes[name] / values:.3f} bits/dim, {seconds:.2f} s/Mpixel")
        results = np.array([ours(model, row) for row in rows]).sum(0)
        size, ideal, there, back = results
        print(
            f"{case}: ours {8 * size / values:.3f} bits/dim (ideal {8 * ideal / values:.3f}), "
            f"{there / pixels * 1e6:.2f} s/Mpixel there, {back / pixels * 1e6:.2f} back"
        )
        ratio = sizes.get("JPEG XL", math.nan) / size
    size, ideal, there, back = ours(model, split)
    values, pixels = images.size, images[..., 0].size
    print(
        f"one file: ours {8 * size / values:.3f} bits/dim (ideal {8 * ideal / values:.3f}), "
        f"{there / pixels * 1e6:.2f} s/Mpixel there, {back / pixels * 1e6:.2f} back"
    )
    print(f"ratio: {ratio:.3f}")


if __name__ == "__main__":
    main()
