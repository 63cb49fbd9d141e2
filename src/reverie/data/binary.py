"""MNIST in black and white: the field's static binarisation, or a seeded one. Scores on them cannot be compared."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from reverie.core import cache as home
from reverie.core.errors import ReverieError, argument
from reverie.core.fetching import download, expect, first_good
from reverie.core.files import replacing
from reverie.data.arrays import Arrays, of_images

STATIC, SEEDED = "binary-mnist:static", "binary-mnist:seeded"
ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
PINS = {  # the training and the test rows; the 10,000 rows for validation are not used
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}

Files = dict[str, bytes]  # by name


def binary_mnist(grey: Callable[[], Arrays], progress: home.Progress | None = None) -> Arrays:
    """The binarisation that ``binary-mnist`` stands for here: static if its files can be fetched, else seeded.

    The first use decides, and a note in the cache folder keeps the decision for all later ones.

    Args:
        grey: opens MNIST.

    Raises:
        ReverieError: neither can be opened, the noted one cannot, or the cache folder cannot be written.
    """
    note = home.home() / "public" / "binary-mnist.txt"
    kinds = {STATIC: lambda: static(progress), SEEDED: lambda: seeded(grey())}
    if (name := _read(note)) in kinds:
        return kinds[name]()
    try:
        with home.locked(note.with_suffix(".lock")):  # processes of one training open the same data
            if (name := _read(note)) in kinds:
                return kinds[name]()
            try:
                arrays = static(progress)
            except ReverieError:
                arrays = seeded(grey())
                warnings.warn(
                    "The static binarisation of MNIST could not be fetched, so binary-mnist is the seeded one, from "
                    f"now on; their scores cannot be compared. {argument('data', STATIC)} tries again.",
                    stacklevel=2,
                )
            with replacing(note) as temporary:
                temporary.write_text(arrays.name, "utf-8")
            return arrays
    except OSError as error:
        raise home.cannot_write(error, "which binarisation binary-mnist is") from error


def _read(note: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return note.read_text("utf-8").strip()
    return ""


def static(progress: home.Progress | None = None) -> Arrays:
    """The field's fixed draws, without labels (Larochelle and Murray, AISTATS 2011).

    50,000 rows to train on and the 10,000 test rows, held out, uint8 (N, 28, 28, 1), 0 or 255.

    Raises:
        ReverieError: no source has both files unchanged; the message names each, and what to do by hand.
    """
    folder = home.home() / "public" / "binary-mnist"
    sources: list[tuple[str, Callable[[home.Progress | None], Files]]] = [
        (f"files ({folder})", lambda _: {name: (folder / name).read_bytes() for name in PINS}),
        (ADDRESS, lambda progress: {name: download(f"{ADDRESS}/{name}", progress) for name in PINS}),
    ]
    by_hand = (
        f"By hand: put {' and '.join(PINS)} into {folder}.\n"
        f"Or take {argument('data', SEEDED)}: other draws, so its scores cannot be compared with published ones."
    )
    source, files = first_good(STATIC, sources, check, by_hand, progress)
    if source == ADDRESS:
        with contextlib.suppress(OSError):  # they are fetched again next time
            for name, data in files.items():
                with replacing(folder / name) as temporary:
                    temporary.write_bytes(data)
    train, test = (read_amat(files[name]) for name in PINS)
    images = np.concatenate([train, test])
    return replace(of_images(images, np.full(len(images), -1), [], len(train)), name=STATIC)


def check(files: Files) -> None:
    """Raise ValueError unless both files are unchanged."""
    for name, pin in PINS.items():
        expect(hashlib.sha256(files[name]).hexdigest(), pin)


def read_amat(data: bytes) -> np.ndarray:
    """Lines of 784 digits, 0 or 1, to uint8 (N, 28, 28, 1), 0 or 255. Raises ValueError."""
    text = np.frombuffer(data, np.uint8)
    digits = text[text > ord(" ")] - ord("0")
    if digits.size % 784 or (digits > 1).any():
        raise ValueError("not lines of 784 digits, 0 or 1")
    return digits.reshape(-1, 28, 28, 1) * np.uint8(255)


def seeded(grey: Arrays) -> Arrays:
    """Each pixel is 255 with its brightness as probability, drawn once from a fixed seed."""
    from reverie.core.noise import Noise, fold  # imports torch, which only draws need

    images, chunk = grey.rows["x"], 8192
    parts = [
        Noise.of_step(fold(0, "binary"), low, len(images[low : low + chunk])).uniform(*images.shape[1:]).numpy()
        for low in range(0, len(images), chunk)
    ]
    on = np.concatenate([part < images[i * chunk : (i + 1) * chunk] / 255 for i, part in enumerate(parts)])
    binary = of_images(on.astype(np.uint8) * 255, grey.rows.labels, grey.classes, grey.cut)
    return replace(binary, name=SEEDED)
