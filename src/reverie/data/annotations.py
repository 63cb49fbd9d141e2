"""Annotation files of well-known sets, by the names and forms of their files: CelebA, Oxford-IIIT Pet, ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

PARTS = {"0": "train", "1": "val", "2": "test"}  # of CelebA


@dataclass
class Annotations:
    """What such files say.

    Attributes:
        rows: image -> columns: "label", attributes.
        splits: image -> "train", "val" or "test".
        used: file -> number of images that it is about.
        lost: file -> number of its lines about images that do not exist.
        rest: the split of other images that no folder puts into one.
    """

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    rest: str | None = None


def read_annotations(
    files: list[str], text_of: Callable[[str], str], find: Callable[[PurePosixPath, str], str | None]
) -> Annotations:
    """The annotations in a source.

    Args:
        files: paths of all its files.
        text_of: reads one of them.
        find: the image of a name in a file of a folder.
    """
    notes = Annotations()
    for file in files:
        reader = READERS.get(file.rpartition("/")[2].lower())
        if reader is None and file.lower().endswith(".token.txt") and ".lemma." not in file.lower():
            reader = _tokens
        if reader is None:
            continue
        path = PurePosixPath(file)

        def image(name: str, folder: PurePosixPath = path.parent, file: str = file) -> str | None:
            where = find(folder, name)
            count = notes.used if where else notes.lost
            count[file] = count.get(file, 0) + 1
            return where

        text = text_of(file).replace(",", " ") if file.endswith(".csv") else text_of(file)
        reader([line.split() for line in text.splitlines()], image, notes, path)
        if file not in notes.used:
            notes.lost.pop(file, None)
    if "train" not in notes.splits.values():  # test.txt without trainval.txt
        notes.splits.clear()
    return notes


Line = list[str]
Find = Callable[[str], str | None]


def _attributes(lines: list[Line], image: Find, notes: Annotations, _: PurePosixPath) -> None:
    """A count, a line of names, then a file and 1 or -1 for each."""
    names = lines[1] if len(lines) > 1 else []
    for line in lines[2:]:
        if len(line) == len(names) + 1 and (where := image(line[0])):
            notes.rows.setdefault(where, {}).update(
                {name: int(value == "1") for name, value in zip(names, line[1:], strict=True)}
            )


def _identities(lines: list[Line], image: Find, notes: Annotations, _: PurePosixPath) -> None:
    for line in lines:
        if len(line) == 2 and (where := image(line[0])):
            notes.rows.setdefault(where, {})["label"] = line[1]


def _parts(lines: list[Line], image: Find, notes: Annotations, _: PurePosixPath) -> None:
    for line in lines:
        if len(line) == 2 and line[1] in PARTS and (where := image(line[0])):
            notes.splits[where] = PARTS[line[1]]


def _pets(lines: list[Line], image: Find, notes: Annotations, path: PurePosixPath) -> None:
    """NAME_12, the number of the breed, that of the species, and of the breed within it; the name is the class.

    Other files have such lines, too: here is a header, or each of several names has a number of its own.
    """
    rows = [line for line in lines if len(line) == 4 and all(part.isdecimal() for part in line[1:])]
    breeds = {(line[0].rpartition("_")[0], line[1]) for line in rows if not line[0].startswith("#")}
    headed = any(line[:2] == ["#Image", "CLASS-ID"] for line in lines)
    if not headed and not 1 < len(breeds) == len({name for name, _ in breeds}) == len({number for _, number in breeds}):
        return
    for line in rows:
        if not line[0].startswith("#") and (where := image(line[0])):
            notes.rows.setdefault(where, {})["label"] = line[0].rpartition("_")[0]
            if path.stem.lower() in ("trainval", "test"):
                notes.splits[where] = "test" if path.stem.lower() == "test" else "train"


def _boxes(lines: list[Line], image: Find, notes: Annotations, _: PurePosixPath) -> None:
    """ImageNet's validation images: a name, a class, a box, perhaps more classes and boxes."""
    for line in lines[1:]:
        if len(line) > 1 and (where := image(line[0])):
            notes.rows.setdefault(where, {})["label"] = line[1]


def _tokens(lines: list[Line], image: Find, notes: Annotations, _: PurePosixPath) -> None:
    """Flickr8k's captions: NAME.jpg#0, and the words."""
    several: dict[str, list[str]] = {}
    for line in lines:
        name, mark, number = line[0].rpartition("#") if line else ("", "", "")
        if mark and number.isdecimal():
            several.setdefault(name, []).append(" ".join(line[1:]))
    for name, texts in several.items():
        if where := image(name):
            notes.rows.setdefault(where, {})["text"] = texts


READERS: dict[str, Callable[[list[Line], Find, Annotations, PurePosixPath], None]] = {
    "list_attr_celeba.txt": _attributes,
    "celebamask-hq-attribute-anno.txt": _attributes,
    "identity_celeba.txt": _identities,
    "list_eval_partition.txt": _parts,
    "list_eval_partition.csv": _parts,
    "loc_val_solution.csv": _boxes,
    "loc_train_solution.csv": _boxes,
    "list.txt": _pets,
    "trainval.txt": _pets,
    "test.txt": _pets,
}
