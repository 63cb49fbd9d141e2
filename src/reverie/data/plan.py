"""What decides a store: which pictures, in which form, in which order; and its key and fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np

from reverie.data import split
from reverie.data.intake import Seen
from reverie.media import decode

VERSION = 1  # of the format and of everything that decides a stored pixel or the split


@dataclass(frozen=True)
class Plan:
    """Everything that decides a store's content.

    Attributes:
        rows: the pictures in building order (held-out ones last, as far as their own hashes say).
        form: the wanted shape; its channels are 3 while ``find_channels`` is set.
        find_channels: store one channel if every picture turns out grey.
        held_out: share of the images to hold out.
        attributes: names of the items' attributes.
    """

    rows: list[Seen]
    form: decode.Form
    find_channels: bool
    held_out: float
    attributes: list[str] = field(default_factory=list)

    @property
    def paired(self) -> bool:
        return self.rows[0].source_sha != ""

    def key(self) -> str:
        digest = hashlib.sha256(json.dumps([VERSION, self.form.as_dict(), self.find_channels, self.held_out]).encode())
        for row in self.rows:
            item = row.item
            digest.update(json.dumps([row.sha, row.source_sha, item.name, item.label, item.text, item.split]).encode())
            digest.update(self.digest_of(row))
        return digest.hexdigest()[:40]

    def digest_of(self, row: Seen) -> bytes:
        """What attributes add to keys and fingerprints: nothing where there are none."""
        return json.dumps([self.attributes, row.item.attributes]).encode() if self.attributes else b""


def make_plan(seen: list[Seen], form: decode.Form, find_channels: bool, held_out: float, attributes: list[str]) -> Plan:
    """Order the rows by content, so that neither names nor the file system's order matter."""
    shas = [row.sha for row in seen]
    held = held_rows(seen, np.arange(len(seen)), held_out)
    order = order_rows(held, np.array([split.second_fraction(sha) for sha in shas]), np.arange(len(seen)), shas)
    return Plan([seen[i] for i in order], form, find_channels, held_out, attributes)


def held_rows(rows: list[Seen], group: np.ndarray, held_out: float) -> np.ndarray:
    given = np.array([{"train": 0, "held_out": 1}.get(row.item.split or "", -1) for row in rows])
    return split.divide(np.array([split.fraction(row.sha) for row in rows]), group, held_out, given)


def order_rows(held: np.ndarray, seconds: np.ndarray, group: np.ndarray, shas: list[str]) -> np.ndarray:
    """Training rows first; within a split by content, groups together, so that any share of it is one slice."""
    return np.array(sorted(range(len(held)), key=lambda i: (held[i], seconds[i], group[i], shas[i])), np.int64)


def same_source(rows: list[Seen]) -> np.ndarray:
    """Links between pairs that share their source picture."""
    first: dict[str, int] = {}
    links = [(first.setdefault(row.source_sha, i), i) for i, row in enumerate(rows) if row.source_sha]
    return np.array(links, np.int64).reshape(-1, 2)


def fingerprint(wanted: Plan, rows: list[Seen], classes: list[str], channels: dict[str, int], train: int) -> str:
    """Over content and options, not over names: a folder moved or renamed keeps it."""
    digest = hashlib.sha256(json.dumps([VERSION, wanted.form.as_dict(), channels, classes, train]).encode())
    for row in rows:
        digest.update(json.dumps([row.sha, row.item.label, row.item.text]).encode() + wanted.digest_of(row))
    return digest.hexdigest()
