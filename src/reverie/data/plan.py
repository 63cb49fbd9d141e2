"""The plan of a store: its images, their form and order; its key and fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from reverie.data import split
from reverie.data.classes import index_labels
from reverie.data.intake import Seen
from reverie.data.marking import Marking
from reverie.data.types import Problem
from reverie.media.formats import PIXEL_LIMIT

VERSION = 1  # of the format, and of all code that determines stored pixels or the split
RULES = (
    4  # of conversions to 8 bits: stores of older rules are built again; only data whose pixels differ are other data
)

Decoded = tuple[dict[str, Any], list[np.ndarray]]  # a row's record, see ``store``, and its arrays


class Form(Protocol):
    """The form of stored rows: ``decode.Form`` of images, and those of other media.

    Attributes:
        channels: values per position.
        array: (*shape, channels) of one row.
    """

    @property
    def channels(self) -> int: ...

    @property
    def array(self) -> tuple[int, ...]: ...

    def as_dict(self) -> dict[str, Any]:
        """For keys and fingerprints, with the shape as ``size``."""
        ...


@dataclass(frozen=True)
class Plan:
    """Everything that determines a store's content.

    Attributes:
        rows: the images in building order (held-out ones last, by their hashes alone).
        form: the stored shape; its channels are 3 while ``find_channels`` is set.
        find_channels: store one channel if every image is grey.
        held_out: fraction of the images to hold out.
        attributes: names of the items' attributes.
        dedupe: keep one of the images that look the same.
        max_pixels: of an image; no part of the key.
        keep_classes: classes that would be held out completely keep images to train on; False where there is none.
        medium: of the rows.
        decoded: rows to their records and arrays, in order, if they are no images.
        marking: of the rows' masks; None without masks.
        seconds_end: of the rows' second fractions, see ``choose.limited``; no part of the key.
    """

    rows: list[Seen]
    form: Form
    find_channels: bool
    held_out: float
    attributes: list[str] = field(default_factory=list)
    dedupe: bool = False
    max_pixels: int = PIXEL_LIMIT
    keep_classes: bool = False
    medium: str = "image"
    decoded: Callable[[Sequence[Seen]], Iterator[Decoded]] | None = None
    marking: Marking | None = None
    seconds_end: float = 1.0

    @property
    def paired(self) -> bool:
        return self.rows[0].source_sha != ""

    def key(self) -> str:
        digest = hashlib.sha256(json.dumps([RULES, self.form.as_dict(), self.find_channels, self.held_out]).encode())
        if self.dedupe:
            digest.update(b"dedupe")
        if self.keep_classes:
            digest.update(b"keep classes")
        for row in self.rows:
            item = row.item
            digest.update(json.dumps([row.sha, row.source_sha, item.name, item.label, item.text, item.split]).encode())
            digest.update(self.digest_of(row))
        return digest.hexdigest()[:40]

    def digest_of(self, row: Seen) -> bytes:
        """The part of attributes, several captions and masks in keys and fingerprints: empty without them."""
        attributes = json.dumps([self.attributes, row.item.attributes]).encode() if self.attributes else b""
        regions = json.dumps([self.marking.as_json(), row.mask_shas]).encode() if self.marking else b""
        return attributes + (json.dumps(row.item.texts).encode() if row.item.texts else b"") + regions


def make_plan(
    seen: list[Seen],
    form: Form,
    find_channels: bool,
    held_out: float,
    attributes: list[str],
    keep_classes: bool = True,
    **more: Any,
) -> Plan:
    """Order the rows by content, independent of names and of the file system's order."""
    shas = [row.sha for row in seen]
    group = split.groups(same_source(seen) if seen[0].film else np.zeros((0, 2), np.int64), len(seen))
    is_held_out = held_out_rows(seen, group, held_out)
    keep_classes = keep_classes and _may_lose_a_class(seen, held_out)
    order = order_rows(is_held_out, np.array([split.second_fraction(sha) for sha in shas]), np.arange(len(seen)), shas)
    return Plan([seen[i] for i in order], form, find_channels, held_out, attributes, keep_classes=keep_classes, **more)


def held_out_rows(rows: list[Seen], group: np.ndarray, held_out: float, keep_classes: bool = False) -> np.ndarray:
    """Whether each row is held out, bool (N,)."""
    sides = np.array([{"train": 0, "held_out": 1}.get(row.item.split or "", -1) for row in rows])
    if one_film(rows, group):
        return np.arange(len(rows)) >= len(rows) - (max(1, round(held_out * len(rows))) if held_out else 0)
    fractions = np.array([split.fraction(row.sha) for row in rows])
    labels = index_labels([row.item.label for row in rows])[0] if keep_classes else None
    return split.divide(fractions, group, held_out, sides, labels)


def _may_lose_a_class(rows: list[Seen], held_out: float) -> bool:
    """Whether all images of a class might be held out, once near duplicates are known.

    These only take images out of the held-out split, unless no image's number is below ``held_out``: then one of the
    groups is held out.
    """
    labels, classes = index_labels([row.item.label for row in rows])
    if not held_out or not classes or any(row.item.split for row in rows):
        return False
    fractions, highest = np.array([split.fraction(row.sha) for row in rows]), np.zeros(len(classes))
    np.maximum.at(highest, labels[labels >= 0], fractions[labels >= 0])
    return bool((fractions >= held_out).all() or (highest < held_out).any())


def one_film(rows: list[Seen], group: np.ndarray) -> bool:
    """Whether all rows are clips of one film, or of films that look the same: these are divided in time."""
    return bool(rows[0].film) and rows[0].item.split is None and len({*group}) == 1


def order_rows(is_held_out: np.ndarray, seconds: np.ndarray, group: np.ndarray, shas: list[str]) -> np.ndarray:
    """Training rows first; within a split by content, groups together, so that any fraction of it is one slice."""
    return np.lexsort((np.array(shas, np.bytes_), group, seconds, is_held_out)).astype(np.int64, copy=False)


def same_source(rows: list[Seen]) -> np.ndarray:
    """Links between pairs with the same source image, and between the clips of a film."""
    first: dict[str, int] = {}
    sources = [row.source_sha or row.film for row in rows]
    links = [(first.setdefault(source, i), i) for i, source in enumerate(sources) if source]
    return np.array(links, np.int64).reshape(-1, 2)


def leaders(held_out: list[bool], group: np.ndarray, problems: list[Problem], rows: list[Seen]) -> np.ndarray:
    """Of each group of near duplicates one row, a held-out one if there is one; the others are reported."""
    leader: dict[int, int] = {}
    for i in sorted(range(len(rows)), key=lambda i: not held_out[i]):
        first = leader.setdefault(int(group[i]), i)
        if first != i:
            action = f"left out as asked: looks like {rows[first].item.name}"
            problems.append(Problem(rows[i].item.name, "near-duplicate", action))
    return np.array(sorted(leader.values()), np.int64)


def fingerprint(
    plan: Plan, rows: list[Seen], classes: list[str], channels: dict[str, int], train: int, changed: list[str]
) -> str:
    """Hash of content and options, not of names: a moved or renamed folder keeps it.

    ``changed``: the conversions whose pixels are not those of the first rules.
    """
    digest = hashlib.sha256(json.dumps([VERSION, plan.form.as_dict(), channels, classes, train]).encode())
    for row in rows:
        digest.update(json.dumps([row.sha, row.item.label, row.item.text]).encode() + plan.digest_of(row))
    if changed:
        digest.update(json.dumps(changed).encode())
    return digest.hexdigest()
