"""The listing of a source before decoding: files, and the label, text and split of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reverie.data.types import Problem

HELD_OUT_NAMES = ("test", "val", "valid", "validation", "held_out", "held-out")


@dataclass(frozen=True, slots=True)
class File:
    """Encoded bytes: a file, a part of one (a tar member), or the result of ``reader``.

    ``path``, ``offset``, and ``size`` and ``mtime_ns`` as listed identify it in the cache.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    offset: int = -1  # -1: the complete file
    reader: Callable[[], bytes] | None = None

    def read(self) -> bytes:
        if self.reader is not None:
            return self.reader()
        with Path(self.path).open("rb") as handle:
            if self.offset < 0:
                return handle.read()
            handle.seek(self.offset)
            return handle.read(self.size)


@dataclass(frozen=True, slots=True)
class Item:
    """One listed image.

    Attributes:
        name: printable path inside the source.
        label: class name or number, None for none.
        split: "train", "held_out", or None if the source has no split.
        source: the source image of the pair, None without pairs.
        attributes: one number for each of the listing's ``attributes``.
        frames: of a folder that is a film, in order; ``file`` is the first.
    """

    name: str
    file: File
    label: str | int | None = None
    text: str = ""
    split: str | None = None
    source: File | None = None
    attributes: tuple[float, ...] = ()
    frames: tuple[File, ...] = ()


@dataclass
class Listing:
    """A source's items in a fixed order, and the problems of listing them."""

    items: list[Item]
    problems: list[Problem] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts "2" before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts if part)


def index_labels(labels: Sequence[str | int | None]) -> tuple[np.ndarray, list[str]]:
    """Class names or numbers -> int64 (N,) indices with -1 for None, and the classes' names.

    Numbers from 0 to 9999 are kept; names are numbered in natural order.
    """
    distinct = {label for label in labels if label is not None}
    if distinct and all(isinstance(label, int) and 0 <= label < 10_000 for label in distinct):
        classes = [str(i) for i in range(max(int(label) for label in distinct) + 1)]
        return np.array([-1 if label is None else int(label) for label in labels], np.int64), classes
    classes = sorted({str(label) for label in distinct}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else index[str(label)] for label in labels], np.int64), classes
