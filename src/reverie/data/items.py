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
    """A source's items in a fixed order, and the problems of listing them."""

    items: list[Item]
    problems: list[Problem] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts "2" before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts if part)


NO_LABEL = (-1, -100)  # -100: what PyTorch's losses ignore


def index_labels(labels: Sequence[str | int | None]) -> tuple[np.ndarray, list[str]]:
    """Class names or numbers -> int64 (N,) indices with -1 for None, and the classes' names.

    The numbers 0 to K - 1 are kept. Others are names, such as those of the three classes 3, 7 and 250: in the order of
    the numbers. Names are numbered in natural order.
    """
    distinct = {label for label in labels if label is not None}
    if all(isinstance(label, int) for label in distinct):
        classes = [str(number) for number in sorted({int(label) for label in distinct})]
    else:
        classes = sorted({label_name(label) for label in distinct}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else index[label_name(label)] for label in labels], np.int64), classes


def label_name(label: str | int) -> str:
    """The name of a class that is a name or a number."""
    return str(int(label)) if isinstance(label, int) else str(label)


def number_problem(labels: Sequence[str | int | None], classes: Sequence[str]) -> Problem | None:
    """The report's line on numbers that are not 0 to K - 1."""
    numbers = [label for label in labels if label is not None]
    odd = [*classes] != [str(i) for i in range(len(classes))]
    if not odd or not numbers or not all(isinstance(label, int) for label in numbers):
        return None
    named = ", ".join(classes[:6]) + ("" if len(classes) <= 6 else f" ... {classes[-1]}")
    return Problem("*", "label-numbers", f"used: {len(classes)} classes, named by their numbers: {named}")


def signed_labels(values: Sequence[int]) -> list[int | None]:
    """Label numbers, None for -1 and -100; beside other negative numbers, or if all are -1 or 1, all are classes."""
    distinct = set(values)
    negative = {value for value in distinct if value < 0}
    if negative - {*NO_LABEL} or distinct == {-1, 1}:
        return [*values]
    return [None if value < 0 else value for value in values]
