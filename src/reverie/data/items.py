"""The listing of a source before decoding: files, and the label, text and split of each."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from reverie.core.terminal import printable
from reverie.data.types import Problem

HEADER = 1 << 18  # bytes, in which an image's size stands
TRAIN_NAMES = ("train", "training")
LARGEST_IMAGE = 2 << 30  # bytes of a file that is read as an image
LARGEST_CAPTION = 1 << 20  # bytes of a file that is the caption of an image
HELD_OUT_NAMES = ("test", "testing", "val", "valid", "validation", "held_out", "held-out")
_SPLIT = re.compile(rf"(?<![^/\-_. ])({'|'.join([*TRAIN_NAMES, *HELD_OUT_NAMES])})[-_]?\d*(?![^/\-_. ])")


@dataclass(frozen=True, slots=True)
class Packing:
    """How a zip holds a member.

    Attributes:
        size: bytes in the zip.
        crc: CRC-32 of the unpacked bytes.
        deflated: or stored.
    """

    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True, slots=True)
class File:
    """Encoded bytes: a file, a part of one (a member of a tar or zip), or the result of ``reader``.

    ``path``, ``offset``, and ``size`` and ``mtime_ns`` as listed identify it in the cache.

    Attributes:
        name: path below ``folder``: of many files, that of the item; a path alone where there is no ``folder``.
        offset: of the bytes in the file; of a zip's member, of its header; -1: the complete file.
        half: "left" or "right" half of the image in it, "" for all of it.
    """

    name: str
    size: int = 0
    mtime_ns: int = 0
    offset: int = -1
    reader: Callable[[], bytes] | None = None
    packing: Packing | None = None
    half: str = ""
    folder: str = ""

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.name)  # noqa: PTH118 (half of the time of Path)

    def head(self, size: int = HEADER) -> bytes:
        """The first bytes, enough for the header of an image; all of a zip's member. Raises as ``read`` does."""
        if self.reader is not None or self.packing is not None:
            return self.read()
        with Path(self.path).open("rb") as handle:
            handle.seek(max(self.offset, 0))
            return handle.read(size if self.offset < 0 else min(size, self.size))

    def read(self) -> bytes:
        """All bytes. Raises OSError, or what the reader raises."""
        if self.reader is not None:
            return self.reader()
        if self.offset < 0:
            with open(self.path, "rb", buffering=0) as handle:  # noqa: PTH123 (half of the time of Path.open)
                data = handle.read(self.size + 1)  # at once, with the end of the file
                return data if len(data) == self.size else data + handle.read()
        with Path(self.path).open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size) if self.packing is None else _unpack(handle, self.size, self.packing)


def _unpack(handle: BinaryIO, size: int, packing: Packing) -> bytes:
    """A zip's member, at its local header. Raises OSError if it is damaged."""
    header = handle.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise OSError("its place in the zip holds something else")
    handle.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)  # behind its name and extra field
    data = handle.read(packing.size)
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1) if packing.deflated else data
    except zlib.error as error:
        raise OSError(f"damaged in the zip: {error}") from None
    if len(data) != size or zlib.crc32(data) != packing.crc:
        raise OSError("damaged in the zip: its checksum differs")
    return data


@dataclass(frozen=True, slots=True)
class Item:
    """One listed image.

    Attributes:
        name: printable path inside the source.
        label: class name or number, None for none.
        split: "train", "held_out", or None if the source has no split.
        source: the source image of the pair, None without pairs.
        attributes: one number for each of the listing's ``attributes``.
        texts: all captions if there are several, the first of which is ``text``.
        frames: of a folder that is a film, in order; ``file`` is the first.
        masks: of the image, which mark a region together.
    """

    name: str
    file: File
    label: str | int | None = None
    text: str = ""
    split: str | None = None
    source: File | None = None
    attributes: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    frames: tuple[File, ...] = ()
    masks: tuple[File, ...] = ()


@dataclass
class Listing:
    """A source's items in a fixed order, and the problems of listing them."""

    items: list[Item]
    problems: list[Problem] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    read_as: str = ""  # the layout in words, for the report
    rows: list[Mapping[str, Any]] = field(default_factory=list)  # columns of each item, for conditions; empty: none
    read_columns: Callable[[Sequence[str]], list[Mapping[str, Any]]] | None = None  # rows that are read when needed
    values: bool = False  # whether labels are values of a column, and no names of folders
    part: str | None = None  # the split that is asked for, where the source knows its own: "train", "held_out"
    parts: list[str] = field(default_factory=list)  # the source's name of each item's split; empty: that of its folder

    def take(self, index: Sequence[int]) -> None:
        """Keep these items, in this order."""
        self.items = [self.items[i] for i in index]
        self.rows = [self.rows[i] for i in index] if self.rows else []
        self.parts = [self.parts[i] for i in index] if self.parts else []
        if (read := self.read_columns) is not None:
            self.read_columns = lambda names: [*map(read(names).__getitem__, index)]

    def divide(self, parts: Sequence[str]) -> None:
        """Split the items as the source does, held-out ones first: of a copy in both splits, that one stays.

        Args:
            parts: of each item the name of its split, "" where the source has none.
        """
        counts = Counter(filter(None, parts))
        if not counts:
            return
        rest = Counter(item.split for item, part in zip(self.items, parts, strict=True) if item.split and not part)
        self.items = [replace(item, split=split_of(p) or item.split) for item, p in zip(self.items, parts, strict=True)]
        outside = [part for part in counts if not split_of(part)]
        lines = [f"skipped: {printable(p)} is neither training nor test (images: {counts[p]:,})" for p in outside]
        inside = [i for i, part in enumerate(parts) if part not in outside]
        if lost := sum(self.items[i].split is None for i in inside):
            lines.append(f"used: divided by content, as nothing says their split (images: {lost:,})")
        self.problems += [Problem("*", "outside-splits", line) for line in lines]
        self.parts = [*parts]
        self.take(sorted(inside, key=lambda i: self.items[i].split == "train"))
        self.read_as += split_words({part: n for part, n in (counts + rest).items() if part not in outside})

    def number_equal_names(self) -> None:
        """Names that are printed alike, such as of undecodable bytes, become NAME, NAME (2) ...: names are keys."""
        names = {item.name for item in self.items}
        if len(names) == len(self.items):
            return
        taken = set[str]()
        for i, item in enumerate(self.items):
            name, number = item.name, 1
            while name in taken or (number > 1 and name in names):
                number += 1
                name = f"{item.name} ({number})"
            taken.add(name)
            self.items[i] = item if name == item.name else replace(item, name=name)

    def columns(self) -> list[Mapping[str, Any]]:
        """Of each item: its row, label, text, attributes and file name."""
        rows = self.rows or [{}] * len(self.items)
        return [
            {"file_name": item.name, "label": item.label, "text": item.texts or item.text}
            | dict(zip(self.attributes, item.attributes, strict=False))
            | {str(name): value for name, value in row.items() if name not in ("label", "text")}
            for item, row in zip(self.items, rows, strict=True)
        ]


def split_of(folder: str) -> str | None:
    """ "train" or "held_out" by a folder's name, such as train, val2017, test1; None if it names no split."""
    name = re.sub(r"[-_]?(19|20)\d\d$|(?<=[a-z])\d$", "", folder.lower())
    return "train" if name in TRAIN_NAMES else "held_out" if name in HELD_OUT_NAMES else None


def are_both(parts: Iterable[str]) -> bool:
    """Whether names of splits, among others, are of training and of held-out ones."""
    return {*map(split_of, parts)} >= {"train", "held_out"}


def split_words(counts: Mapping[str, int]) -> str:
    """ ", train 100 / test 20 / val 10 held out" of names of splits, else ""."""
    parts = sorted((side_in(part) != "train", part) for part in counts)
    words = ", " * bool(parts) + " / ".join(f"{printable(part)} {counts[part]:,}" for _, part in parts)
    return words + " held out" * (sum(held_out for held_out, _ in parts) > 1)


def kind_of(part: str) -> str:
    """ "train", "test" or "val" of the name of a split, or of the word in it, as of cars_test; "" of held_out."""
    words = [part.lower(), *filter(split_of, _words(part))]
    return next((kind for word in words for kind in ("train", "test", "val") if word.startswith(kind)), "")


def asked_part(name: str, parts: Collection[str]) -> str:
    """What the report says of a split that is asked for by its name; "" of "held_out" and others without a kind.

    Args:
        parts: "test", "val" or "" (another name) of the held-out splits of the source.
    """
    kind = kind_of(name)
    if kind not in ("test", "val"):
        return ""
    if not parts:
        return f"nothing in it is named {kind}: held out by content"
    if {*parts} == {kind}:
        return f"{kind} alone"
    return f"no {kind}: its {' and '.join(parts)}" if all(parts) else ""


def parts_of(paths: Sequence[Path], problems: list[Problem], rules: int) -> dict[Path, str]:
    """The splits that the names of files or of their folders say: "val" of x-val-0001.tar and of val/x.parquet.

    Held-out files come first. Where there are not both training and held-out files, the order stays, and all have "".
    Of others, those whose names say no split are left out and reported.

    Args:
        rules: as of ``Columns``; before 3, names say a split by what they begin with, up to "-" or ".".
    """
    above = Path(os.path.commonpath([path.parent for path in paths]))
    parts = {path: part_of(path.relative_to(above).as_posix().lower()) for path in paths}
    if rules < 3:
        words = {path: re.split("[-.]", path.name.lower())[0] for path in paths}
        parts = {path: word if word == "train" or word in HELD_OUT_NAMES else "" for path, word in words.items()}
    if not are_both(parts.values()):
        return dict.fromkeys(paths, "")
    for path in (path for path, part in parts.items() if not part):
        problems.append(Problem(printable(path.name), "outside-splits", "skipped: neither train nor test"))
    order = sorted(filter(parts.get, paths), key=lambda path: split_of(parts[path]) == "train")
    return {path: parts[path] for path in order}


def part_of(path: str) -> str:
    """The split of the last name in a path that says one; "" of none, or if a name says both sides, as train-val."""
    for name in reversed(path.split("/")):
        if words := _SPLIT.findall(name):
            return words[0] if len({*map(split_of, words)}) == 1 else ""
    return ""


def split_in(name: str) -> tuple[str, str] | None:
    """The split that a word in a name says, and the rest of the name: ("train", "cars") of cars_train; else None."""
    words = _words(name)
    sides = [split_of(word) for word in words]
    if len({*sides} - {None}) != 1:
        return None
    split = next(side for side in sides if side)
    return split, "_".join(word for word, side in zip(words, sides, strict=True) if not side)


def side_in(name: str) -> str | None:
    """ "train" or "held_out" by a word in a name; None if it names no split, or both."""
    mark = split_in(name)
    return mark and mark[0]


def _words(name: str) -> list[str]:
    return re.split(r"[-_. ]+", name.lower())


def natural_key(name: str) -> tuple[tuple[Any, ...], str]:
    """Sort key that puts "2" before "10", and "2" and "02" in one order always."""
    parts = (part for part in re.split(r"([0-9]+)", name) if part)
    keys = ((0, len(digits := part.lstrip("0")), digits) if "0" <= part[0] <= "9" else (1, 0, part) for part in parts)
    return tuple(keys), name
