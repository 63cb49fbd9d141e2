"""The types of data: a split, a data set, and its intake report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reverie.core.errors import UsageError, argument
from reverie.core.terminal import count
from reverie.media.spec import Spec

Column = np.ndarray | list[str] | list[list[str]]  # rows first
SPATIAL = ("x", "source", "mask")  # columns with the extents of a sample, which are augmented together


@dataclass(frozen=True, repr=False)
class Split:
    """One split: named columns of N rows, and a name for each row.

    Attributes:
        columns: ``x`` (N, *shape, C) in the medium's type, usually a read-only memory map; optionally ``label`` (N,)
            int64 (class index, -1 for none), ``text`` (N captions, "" for none), ``captions`` (all captions of each
            image, where one has several; ``text`` is then the first), ``attributes`` (N, A) float32,
            ``source`` (N, *shape, C') (the source of each pair), ``mask`` (N, *shape, 1) uint8 (255 where marked), or
            others.
        names: of the samples: paths inside the source, or row numbers (the default).
        spec: of ``x``; that of 8-bit images by default.
    """

    columns: Mapping[str, Column]
    names: Sequence[str] = ()
    spec: Spec = None  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        x = self.columns["x"]
        if not self.names:
            object.__setattr__(self, "names", [str(row) for row in range(len(x))])
        if self.spec is None:
            if not isinstance(x, np.ndarray) or x.ndim != 4 or x.dtype != np.uint8:
                raise ValueError("A split needs its spec unless x is uint8 (N, H, W, C).")
            object.__setattr__(self, "spec", Spec("image", x.shape[1:3], x.shape[3]))
        if lengths := {name: len(column) for name, column in self.columns.items() if len(column) != len(self.names)}:
            raise ValueError(f"A split of {len(self.names)} rows has columns of other lengths: {lengths}.")

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def get(self, column: str) -> Any:
        """A column, or None if there is none of this name."""
        return self.columns.get(column)

    def __or__(self, columns: Mapping[str, Column]) -> Split:
        """The same rows with other columns."""
        return replace(self, columns={**self.columns, **columns})

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,), all -1 if the data has no labels."""
        return self.columns["label"] if "label" in self.columns else np.full(len(self), -1, np.int64)  # type: ignore[return-value]

    @property
    def images(self) -> np.ndarray:
        """``x``: samples (N, *shape, C)."""
        return self.columns["x"]  # type: ignore[return-value]

    @property
    def texts(self) -> list[str] | None:
        """N captions, None if there are none."""
        return self.columns.get("text")  # type: ignore[return-value]

    @property
    def every_text(self) -> list[str]:
        """All captions of all rows, several of an image if it has them; empty without captions."""
        several, single = self.get("captions"), self.get("text")
        return [text for texts in several for text in texts] if several is not None else list(single or [])

    def take(self, rows: np.ndarray | slice) -> Split:
        """These rows as a split."""
        index = np.arange(len(self))[rows]
        columns: dict[str, Column] = {
            name: column[rows] if isinstance(column, np.ndarray) else [column[i] for i in index]
            for name, column in self.columns.items()
        }
        return replace(self, columns=columns, names=[self.names[i] for i in index])

    def __repr__(self) -> str:
        return f"<Split of {len(self):,} {self.spec.medium}s {self.spec}: {', '.join(self.columns)}>"


@dataclass(frozen=True)
class Problem:
    """One problem of intake: the file, the kind of problem, and the action taken."""

    file: str
    kind: str  # a slug from a fixed list: "truncated", "zero-byte", "not-an-image", "rgba", ...
    action: str  # "converted: ...", "skipped: ...", in words


@dataclass(frozen=True)
class Report:
    """The result of intake.

    Attributes:
        usable: number of samples.
        problems: every file that was skipped, converted or ignored.
        read_as: the layout in words; "" for arrays and other sources that have none.
        sizes: (width, height) of files' images in pixels -> number of images.
    """

    usable: int
    problems: list[Problem] = field(default_factory=list)
    read_as: str = ""
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Kind of problem -> number of files, most frequent first."""
        count: dict[str, int] = {}
        for problem in self.problems:
            count[problem.kind] = count.get(problem.kind, 0) + 1
        return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))

    def in_words(self) -> str:
        """ "3 duplicate, 2 rgba; mixed-sizes": kinds with their numbers of files, then those of lines on many files."""
        files = Report(0, [problem for problem in self.problems if not problem.file.startswith("*")]).counts()
        counts = ", ".join(f"{n:,} {kind}" for kind, n in files.items())
        others = ", ".join(kind for kind in self.counts() if kind not in files)
        return "; ".join(part for part in (counts, others) if part)

    def __repr__(self) -> str:
        return f"<Report: {self.usable:,} usable{'; ' * bool(self.problems)}{self.in_words()}>"


@dataclass(frozen=True, repr=False)
class Dataset:
    """Data for training: two splits without common samples.

    Attributes:
        source: the source as named by the user ("fashion", a folder ...), or the kind of object passed ("array").
        spec: of one sample.
        classes: names of the label numbers; empty without labels.
        train, held_out: the splits.
        fingerprint: hex sha256 over the content of both splits and the options.
        report: of intake.
        attributes: names of the columns of ``attributes``.
        opened: options for ``provenance``, see ``OpenOptions.opened``.
    """

    source: str
    spec: Spec
    classes: list[str]
    train: Split
    held_out: Split
    fingerprint: str
    report: Report
    attributes: list[str] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)

    @property
    def examples(self) -> Split:
        """Images to look at: the held-out split, or the training split where nothing is held out."""
        return self.held_out if len(self.held_out) else self.train

    def unseen(self, what: str) -> Split:
        """The held-out split, for ``what`` needs one.

        Raises:
            UsageError: nothing is held out.
        """
        if len(self.held_out):
            return self.held_out
        share = argument("held_out", 0.1)
        raise UsageError(
            f"{what} needs held-out images, and nothing of {self.source} is held out. Train with {share}, or name "
            f"other data with {argument('data')} where the command takes it."
        )

    def counts_of_classes(self) -> dict[str, tuple[int, int]]:
        """Class -> number of images to train on, and held out."""
        sides = [
            np.bincount(side.labels[side.labels >= 0], minlength=len(self.classes))
            for side in (self.train, self.held_out)
        ]
        return {name: (int(a), int(b)) for name, a, b in zip(self.classes, *sides, strict=True)}

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything needed to reopen the same data and to verify it; plain JSON values.

        ``source`` (absolute paths), ``reopenable`` (False for Python objects), the ``Spec``'s fields, ``fit``,
        ``background``, ``held_out`` (the fraction), ``requested`` (size and similar options), ``masks`` if there are,
        ``fingerprint``, ``classes``, ``attributes``, ``counts`` of both splits.
        """
        return {
            "source": self.source,
            "reopenable": False,
            **self.spec.as_dict(),
            **self.opened,
            "fingerprint": self.fingerprint,
            "classes": list(self.classes),
            "attributes": list(self.attributes),
            "counts": {"train": len(self.train), "held_out": len(self.held_out)},
        }

    def summary(self) -> dict[str, Any]:
        """The output of ``reverie data D --json``."""
        both = (self.train, self.held_out)
        return {
            "source": self.source,
            "read_as": self.report.read_as,
            "usable": len(self.train) + len(self.held_out),
            "medium": self.spec.medium,
            "shape": list(self.spec.shape),
            "channels": self.spec.channels,
            "classes": self.classes,
            "attributes": self.attributes,
            "captions": sum(sum(bool(text) for text in split.get("text") or []) for split in both),
            "pairs": sum(len(split) for split in both if "source" in split),
            "masks": sum(_marked(split["mask"]) for split in both if "mask" in split),
            "train": len(self.train),
            "held_out": len(self.held_out),
            "fingerprint": self.fingerprint,
            "problems": [vars(problem) for problem in self.report.problems],
        }

    def __repr__(self) -> str:
        classes = f", {count(len(self.classes), 'class')}" if self.classes else ""
        return (
            f"<Dataset {self.source}: {self.spec.medium}s {self.spec}, {len(self.train):,} to train on, "
            f"{len(self.held_out):,} held out{classes}>"
        )


def _marked(masks: np.ndarray) -> int:
    """How many masks (N, *shape, 1) mark anything."""
    return sum(
        int(masks[start : start + 1024].any(axis=tuple(range(1, masks.ndim))).sum())
        for start in range(0, len(masks), 1024)
    )
