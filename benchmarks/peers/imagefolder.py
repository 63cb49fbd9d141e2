"""Class folders as others read them: torchvision's ImageFolder with a DataLoader, and datasets' imagefolder.

Both shrink the short side to the size by a filter of Pillow, usually the bilinear one, and keep the centre.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = (
    "datasets==5.2.0",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "xxhash",
    "pandas",
    "python-dateutil",
    "six",
    "httpx",
    "httpcore",
    "h11",
    "anyio",
    "certifi",
    "idna",
    "sniffio",
    "fsspec",
    "tqdm",
)
WORKERS = 2


def fetch(folder: Path) -> None:
    """The peers by pip, without dependencies: nothing of theirs can replace this environment's torch."""
    import torch

    if (folder / "datasets").is_dir():
        return
    minor = int(torch.__version__.split(".")[1])
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PACKAGES, f"torchvision==0.{minor + 15}.*"], check=True)


def torchvision_batches(folder: Path, size: int, batch: int, filter_name: str) -> Iterator[Any]:
    """Batches of (B, 3, size, size) in [0, 1] and labels, in random order, of one epoch."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # else import torchvision fails on a CPU build
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    resize = transforms.Resize(size, transforms.InterpolationMode(filter_name))
    transform = transforms.Compose([resize, transforms.CenterCrop(size), transforms.ToTensor()])
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(folder), transform), batch_size=batch, shuffle=True, num_workers=WORKERS
    )
    yield from loader


def datasets_intake(folder: Path, size: int, filter_name: str, cache: Path) -> int:
    """Decode and resize a folder into an Arrow file of raw pixels; returns the number of images."""
    import datasets
    from PIL import Image

    datasets.disable_progress_bars()
    resampling = Image.Resampling[filter_name.upper()]

    def shrink(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pixels = []
        for image in rows["image"]:
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            pixels.append(image.convert("RGB").resize((size, size), resampling, box=box).tobytes())
        return {"pixels": pixels}

    data = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(cache))
    return len(data.map(shrink, batched=True, batch_size=128, num_proc=WORKERS, remove_columns=["image"]))


def timed(iterator: Iterator[Any]) -> tuple[int, float, float]:
    """(images, seconds, seconds until the first batch) of an iterator over batches."""
    began = time.perf_counter()
    count, first = 0, 0.0
    for images, _ in iterator:
        first = first or time.perf_counter() - began
        count += len(images)
    return count, time.perf_counter() - began, first
