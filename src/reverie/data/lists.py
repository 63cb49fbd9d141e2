"""Plain lists of images, a line for each: which are held out, and of which class they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from reverie.data.annotations import Annotations
from reverie.data.finder import composed
from reverie.data.items import kind_of, natural_key, split_of
from reverie.data.tree import stem

ENOUGH = 0.9  # share of the lines of a list that name different images
MOST = 200  # files that are looked at
SAMPLED = 1000  # different rests of lines by which captions are recognised
SIDES = ("", "train", "val", "test")
DEEPEST = 8  # folders above an image by which a line may name it; or all of them
_SPLIT = re.compile(
    r"(?:^|(?<=[-_. ]))(trainval|train|training|val|valid|validation|dev|test)(?:images|list|set)?(?=\d*(?:$|[-_. ]))"
)
_MAY_BE = re.compile(r"(?:train|val|dev|test|annotation|categor|class|label|names|images)[^/]*\.txt$")
_NAMES = re.compile(r"categor|class|label|names")
_LABEL = re.compile(r"\d+|(?=.*[^\W\d_])[^\s,.]+")  # a whole number, or a word with a letter
_BOXED = re.compile(r"([^\W\d_][^\s,.]*)(?: \d+){4}")  # a label and a box, as of Tiny ImageNet
_FLOAT = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)


@dataclass
class _List:
    """A file of the kind.

    Attributes:
        part: the word train, val ..., "" without one.
        group: the folder, and the rest of the name.
        images: the indices of those that its lines name, int32 (n,).
        rests: what follows the names: the different ones; of no use, an example.
        rest_of: the index of each image's in them, int32 (n,).
        form: of the rests: "", "label", "caption" or "other".
    """

    name: str
    part: str
    group: tuple[str, str]
    images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    rests: list[str] = field(default_factory=list)
    rest_of: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    form: str = ""


def read_lists(
    files: Iterable[str],
    images: Sequence[str],
    text_of: Callable[[str], str],
    notes: Annotations,
    rows: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[tuple[str, str]]:
    """Add to the annotations what lists of images say, and return (file, words) about what is used and what is not.

    ``train.txt`` and ``test.txt`` (also ``val.txt``, in one folder) are a split if they name most images. What follows
    the names is a label, if it is a word or a whole number on every line, or a caption; a list of numbers and names of
    classes names them. CUB has its own: the numbers of images, and files that speak of these.

    Args:
        rows: image -> what tables say, which counts.
    """
    files = [name for name in files if _MAY_BE.search(name.lower()) and name not in notes.used]
    paths = {name: PurePosixPath(name) for name in files}
    lists = [
        _List(
            name,
            part[1] if part else "",
            (str(path.parent), path.stem.lower()[: part.start()] + path.stem.lower()[part.end() :] if part else ""),
        )
        for name, path in paths.items()
        for part in [_SPLIT.search(path.stem.lower())]
        if part or "annotation" in path.stem.lower()
    ][:MOST]
    numbered = {str(path.parent): name for name, path in paths.items() if path.name.lower() == "images.txt"}
    if not lists and not numbered:
        return []
    tails = _tails(images)
    lists = [each for each in lists if _read(each, text_of(each.name), tails)]
    of_names = [name for name in files if _NAMES.search(paths[name].stem.lower())]
    words = _labels(lists, of_names, images, text_of, notes, rows or {})
    words += _captions(lists, images, notes, rows or {})
    if odd := [each for each in lists if each.form == "other"]:
        action = f"such as {odd[0].rests[0]!r:.60}, is neither a label on every line nor a caption"
        words.append((_names(odd), f"ignored: what follows the names, {action}"))
    words += _split(lists, images, notes)
    for folder, name in numbered.items():
        _cub(
            folder,
            name,
            {path: images[index] for path, index in tails.items()},
            {path.name.lower(): name for name, path in paths.items() if str(path.parent) == folder},
            text_of,
            notes,
        )
    return words


def _key(name: str) -> str:
    if name.isascii() and "\\" not in name and name[:1] not in "./":
        return name
    return composed(name.replace("\\", "/")).removeprefix("./").lstrip("/")


def _tails(images: Iterable[str]) -> dict[str, int]:
    """The ends of images' paths, with and without ending, that belong to one image -> its index; -1 in several."""
    tails: dict[str, int] = {}
    for index, image in enumerate(images):
        for path in {composed(image), composed(stem(image))}:
            tails[path] = -1 if path in tails else index
            parts = path.split("/")
            for first in range(max(1, len(parts) - DEEPEST), len(parts)):
                end = "/".join(parts[first:])
                tails[end] = -1 if end in tails else index
    return {path: index for path, index in tails.items() if index >= 0}


def _read(each: _List, text: str, tails: Mapping[str, int]) -> bool:
    """Fill in a list from its text; False if it is none."""
    rest_of, codes, lost = dict[int, int](), dict[str, int](), 0
    for line in filter(None, map(str.strip, text.splitlines())):
        rest = ""
        if (index := tails.get(_key(line))) is None:
            name, _, rest = line.partition("\t") if "\t" in line else line.partition(" ")
            index = tails.get(_key(name.strip()))
            if index is None:
                name, _, rest = line.replace("\t", " ").partition(" ")
                index = tails.get(_key(name))
        if index is None or (index in rest_of and not rest):
            lost += 1
        elif index not in rest_of:
            rest_of[index] = codes.setdefault(" ".join(rest.split()), len(codes))
    if not rest_of or len(rest_of) < ENOUGH * (len(rest_of) + lost):
        return False
    each.images = np.fromiter(rest_of, np.int32, len(rest_of))
    each.rests, each.form = _form([*codes], len(rest_of), tails)
    if each.form in ("label", "caption"):
        each.rest_of = np.fromiter(rest_of.values(), np.int32, len(rest_of))
    return True


def _form(rests: list[str], lines: int, tails: Mapping[str, int]) -> tuple[list[str], str]:
    """What the different rests of a number of lines are, without boxes behind a label, and their form."""
    if rests == [""]:
        return [], ""
    boxed = all(map(_BOXED.fullmatch, rests))
    labels = [rest.partition(" ")[0] for rest in rests] if boxed else rests
    several = len(labels) <= SAMPLED or 2 * len({*labels}) <= lines
    if several and all(
        _LABEL.fullmatch(label) and not _FLOAT.fullmatch(label) and (label.isdecimal() or _key(label) not in tails)
        for label in labels
    ):
        return labels, "label"
    some = rests[1] if rests[0] == "" else rests[0]
    fields = [rest.split() for rest in rests[:SAMPLED]]
    worded = sum(sum(any(map(str.isalpha, word)) for word in words) > 2 for words in fields)
    varied = len({len(words) for words in fields}) > 1
    if varied and 2 * worded >= len(fields) and not any(_key(word) in tails for words in fields for word in words):
        return rests, "caption"
    return [some], "other"


def _names(lists: Sequence[_List]) -> str:
    """Of the first lists."""
    return ", ".join(each.name for each in lists[:3]) + (f" and {len(lists) - 3} more" if len(lists) > 3 else "")


def _labels(
    lists: list[_List],
    of_names: list[str],
    images: Sequence[str],
    text_of: Callable[[str], str],
    notes: Annotations,
    rows: Mapping[str, Mapping[str, Any]],
) -> list[tuple[str, str]]:
    """The labels that occur several times."""
    labelled = [each for each in lists if each.form == "label"]
    several = {label for each in labelled if 2 * len({*each.rests}) <= len(each.images) for label in each.rests}
    used = [each for each in labelled if several.issuperset(each.rests)]
    labels = {
        images[index]: each.rests[code]
        for each in used
        for index, code in zip(each.images.tolist(), each.rest_of.tolist(), strict=True)
    }
    words = []
    if odd := [each for each in labelled if each not in used]:
        words.append((_names(odd), f"ignored: what follows the names, such as {odd[0].rests[0]}, hardly recurs"))
    if not labels:
        return words
    about, by = _names(used), ""
    some = next(iter(labels.values()))
    folders = {"/".join(part for part in image.split("/")[:-1] if not split_of(part)) for image in labels}
    if any(rows[image].get("label") not in (None, "", []) for image in labels if image in rows):
        return [*words, (about, f"ignored: labels, such as {some}; a table has labels, too")]
    if all(label.isdecimal() for label in labels.values()):
        tables = ((file, _named(text_of(file))) for file in of_names)
        by, names = next(((file, names) for file, names in tables if {*labels.values()} <= names.keys()), ("", {}))
        if not names and len({image.rpartition("/")[0] for image in labels}) > 1:
            return [*words, (about, f"ignored: labels without names, such as {some}, of images in several folders")]
        labels = {image: names.get(label, label) for image, label in labels.items()}
    for image, label in labels.items():
        notes.rows.setdefault(image, {})["label"] = label
    notes.used |= {each.name: len(each.images) for each in used}
    parts = [folder.split("/") for folder in folders]
    ends = {end for each in parts for k in range(len(each)) for end in (each[k], "/".join(each[k:]))}
    others = len(folders) > 1 and ends.isdisjoint(labels.values())
    action = f"used: labels from {about}, such as {some}" + f", named by {by}" * bool(by)
    return [*words, (about, action + ", instead of the folders' names" * others)]


def _captions(
    lists: list[_List], images: Sequence[str], notes: Annotations, rows: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """The captions of images to which no table gives one."""
    used = [each for each in lists if each.form == "caption"]
    for each in used:
        for index, code in zip(each.images.tolist(), each.rest_of.tolist(), strict=True):
            if (rest := each.rests[code]) and not rows.get(images[index], {}).get("text"):
                notes.rows.setdefault(images[index], {})["text"] = [rest]
        notes.used[each.name] = len(each.images)
    return [(_names(used), f"used: captions, such as {used[0].rests[0]!r:.60}")] if used else []


def _named(text: str) -> dict[str, str]:
    """Number -> name, from lines of both in either order; nothing if a line is anything else."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    names: dict[str, str] = {}
    for row in rows:
        if len(row) != 2 or sum(field.isdecimal() for field in row) != 1:
            return {}
        number, name = row if row[0].isdecimal() else row[::-1]
        names[number] = name.strip("/")
    return names


def _split(lists: list[_List], images: Sequence[str], notes: Annotations) -> list[tuple[str, str]]:
    """The split of the lists of a folder that name most images."""
    groups: dict[tuple[str, str], list[_List]] = {}
    for each in lists:
        if each.part:
            groups.setdefault(each.group, []).append(each)
    for folder in {folder for folder, _ in groups}:  # places365_train_standard.txt and places365_val.txt
        several = [group for group in groups if group[0] == folder]
        if all(len({entry.part for entry in groups[group]}) == 1 for group in several):
            groups[folder, ""] = [entry for group in several for entry in groups.pop(group)]
    counts = dict[tuple[str, str], int]()
    for group, entries in groups.items():
        parts = {each.part for each in entries}
        groups[group] = [each for each in entries if each.part != "trainval" or not {"train", "val"} <= parts]
        sides = _sides(groups[group], len(images))
        if {1} < {*np.unique(sides).tolist()} - {0}:
            counts[group] = int(np.count_nonzero(sides))
    if not counts:
        return []
    order = sorted(counts, key=lambda group: (-counts[group], len(group[1]), natural_key("/".join(group))))
    best = groups[order[0]]
    names = ", ".join(each.name for each in best)
    if 2 * counts[order[0]] < len(images):
        return [(names, f"ignored: of {len(images):,} images these lists of a split name {counts[order[0]]:,}")]
    sides = _sides(best, len(images))
    for index in np.flatnonzero(sides).tolist():
        notes.splits.setdefault(images[index], SIDES[sides[index]])
    notes.used |= {each.name: len(each.images) for each in best}
    words = []
    if len(order) > 1:
        words.append((names, f"used: the split, the first of {len(order)} that lists of images make"))
    notes.rest = "train"
    if rest := [
        image for image in images if image not in notes.splits and not any(map(split_of, image.split("/")[:-1]))
    ]:
        words.append((names, f"used to train on: {len(rest):,} images that are in none of these lists"))
    return words


def _sides(lists: Sequence[_List], n: int) -> np.ndarray:
    """Of each of n images the index in SIDES, uint8 (n,)."""
    sides = np.zeros(n, np.uint8)
    for each in sorted(lists, key=lambda each: kind_of(each.part) != "train"):
        sides[each.images] = SIDES.index(kind_of(each.part) or "val")  # dev, too
    return sides


def _cub(
    folder: str,
    name: str,
    tails: dict[str, str],
    files: dict[str, str],
    text_of: Callable[[str], str],
    notes: Annotations,
) -> None:
    """CUB-200: ``images.txt`` numbers the images, ``train_test_split.txt`` says 1 of those to train on."""
    by_number = {
        fields[0]: image
        for line in text_of(name).splitlines()
        if len(fields := line.split(maxsplit=1)) == 2 and (image := tails.get(_key(fields[1])))
    }
    split = files.get("train_test_split.txt")
    if not by_number or split is None:
        return
    rows = [line.split() for line in text_of(split).splitlines()]
    sides = {by_number[row[0]]: row[1] for row in rows if len(row) == 2 and row[0] in by_number}
    if {*sides.values()} == {"0", "1"}:
        notes.splits |= {image: "train" if side == "1" else "test" for image, side in sides.items()}
        notes.used |= {name: len(by_number), split: len(sides)}
