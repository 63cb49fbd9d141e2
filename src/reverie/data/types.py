"""What the rest of the house knows about pictures: a split, a data set, and the report of how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pictures:
    """One split: pictures and what is known of each, row by row.

    Attributes:
        images: uint8 (N, H, W, C), C = 1 (grey) or 3 (RGB); usually a read-only memory map.
        labels: int64 (N,), class index or -1 for none.
        names: N names (a path inside the source, or an index), for reports and for picking a picture.
        texts: N captions ("" for none), or None where the data has no captions.
        sources: uint8 (N, H, W, C'), the other side of each pair, or None where there are no pairs.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str]
    texts: list[str] | None = None
    sources: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Problem:
    """One thing that intake met: which file, what kind of trouble, and what was done about it."""

    file: str
    kind: str  # a slug from a fixed list: "truncated", "zero-byte", "not-a-picture", "rgba", ...
    action: str  # "converted ...", "skipped: ...", in words


@dataclass(frozen=True)
class Report:
    """What intake found: every file that is not simply a good picture appears in ``problems``."""

    usable: int
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Kind of trouble -> number of files, most frequent first."""
        count: dict[str, int] = {}
        for problem in self.problems:
            count[problem.kind] = count.get(problem.kind, 0) + 1
        return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Dataset:
    """Pictures ready for training: two splits that share no picture.

    Attributes:
        spec: what the user asked for ("fashion", a folder ...).
        size: side of the square pictures in pixels.
        channels: 1 (grey) or 3 (RGB).
        classes: names of the class indices; empty where there are no labels.
        fingerprint: hex sha256 over the content of both splits and the options that made them.
    """

    spec: str
    size: int
    channels: int
    classes: list[str]
    train: Pictures
    held_out: Pictures
    fingerprint: str
    report: Report

    def summary(self) -> dict[str, Any]:
        """The fixed shape of ``reverie data D --json``."""
        both = (self.train, self.held_out)
        return {
            "usable": len(self.train) + len(self.held_out),
            "classes": self.classes,
            "captions": sum(sum(bool(t) for t in split.texts) for split in both if split.texts is not None),
            "pairs": sum(len(split) for split in both if split.sources is not None),
            "train": len(self.train),
            "held_out": len(self.held_out),
            "fingerprint": self.fingerprint,
            "problems": [vars(problem) for problem in self.report.problems],
        }
