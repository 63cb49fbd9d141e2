"""What a source lists before anything is decoded: files to read, and what is known of each."""

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
    """Encoded bytes somewhere: a file, a stretch of one (a tar member), or whatever ``reader`` returns.

    ``size`` and ``mtime_ns`` are as listed; with ``path`` and ``offset`` they say whether it was seen before.
    """

    path: str
    size: int = 0
    mtime_ns: int = 0
    offset: int = -1  # -1: the whole file
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
    """One picture to be.

    Attributes:
        name: printable path inside the source.
        label: class name or number, None for none.
        split: "train", "held_out", or None where the source does not say.
        source: the other side of the pair, None without pairs.
        attributes: one number for each of the listing's ``attributes``.
    """

    name: str
    file: File
    label: str | int | None = None
    text: str = ""
    split: str | None = None
    source: File | None = None
    attributes: tuple[float, ...] = ()


@dataclass
class Listing:
    """A source's items in a fixed order, and what was met while listing them."""

    items: list[Item]
    problems: list[Problem] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)


def printable(name: str) -> str:
    r"""A file name that prints and goes into JSON: undecodable bytes and control characters become ``\xff``."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}"

    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", escape, name)


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key by which "2" comes before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts if part)


def index_labels(labels: Sequence[str | int | None]) -> tuple[np.ndarray, list[str]]:
    """Class names or numbers -> int64 (N,) indices with -1 for None, and the classes' names.

    Numbers from 0 to 9999 stay as they are; names are numbered in natural order.
    """
    known = {label for label in labels if label is not None}
    if known and all(isinstance(label, int) and 0 <= label < 10_000 for label in known):
        classes = [str(i) for i in range(max(int(label) for label in known) + 1)]
        return np.array([-1 if label is None else int(label) for label in labels], np.int64), classes
    classes = sorted({str(label) for label in known}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else index[str(label)] for label in labels], np.int64), classes
