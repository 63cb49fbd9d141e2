"""Plain lists of images, a line for each: which are held out, and of which class they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from reverie.data.annotations import Annotations
from reverie.data.finder import composed
from reverie.data.items import natural_key, split_of
from reverie.data.tree import stem

ENOUGH = 0.9  # share of the lines of a list that name images
MOST = 200  # files that are looked at
_SPLIT = re.compile(
    r"(?:^|(?<=[-_. ]))(trainval|train|training|val|valid|validation|dev|test)(?:images|list|set)?(?=\d*(?:$|[-_. ]))"
)
_MAY_BE = re.compile(r"(?:train|val|dev|test|annotation|categor|class|label|names|images)[^/]*\.txt$")
_NAMES = re.compile(r"categor|class|label|names")


@dataclass
class _List:
    """A file of the kind.

    Attributes:
        part: the word train, val ..., "" without one.
        group: the folder, and the rest of the name.
        images: that its lines name -> the other fields.
        lost: number of lines that name none.
    """

    name: str
    part: str
    group: tuple[str, str]
    images: dict[str, list[str]] = field(default_factory=dict)
    lost: int = 0


def read_lists(
    files: Iterable[str], images: Sequence[str], text_of: Callable[[str], str], notes: Annotations
) -> list[tuple[str, str]]:
    """Add to the annotations what lists of images say, and return (file, words) about lists that are not used.

    ``train.txt`` and ``test.txt`` (also ``val.txt``, in one folder) are a split if they name most images. Second fields
    that occur several times are labels; a list of numbers and names of classes names them. CUB has its own: the
    numbers of images, and files that speak of these.
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
    for each in lists:
        for line in text_of(each.name).splitlines():
            fields = line.replace("\t", " ").split()
            if not fields:
                continue
            image = tails.get(_key(line.strip())) or tails.get(_key(fields[0]))
            each.lost += image is None
            if image is not None:
                each.images.setdefault(image, fields[1:])
    lists = [each for each in lists if len(each.images) >= ENOUGH * (len(each.images) + each.lost) and each.images]
    _labels(lists, [name for name in files if _NAMES.search(paths[name].stem.lower())], text_of, notes)
    words = _split(lists, images, notes)
    for folder, name in numbered.items():
        _cub(
            folder,
            name,
            tails,
            {path.name.lower(): name for name, path in paths.items() if str(path.parent) == folder},
            text_of,
            notes,
        )
    return words


def _key(name: str) -> str:
    return composed(name.replace("\\", "/")).removeprefix("./").lstrip("/")


def _tails(images: Iterable[str]) -> dict[str, str]:
    """The ends of images' paths, with and without ending, that belong to one image -> the image."""
    tails: dict[str, str | None] = {}
    for image in images:
        for path in {composed(image), composed(stem(image))}:
            while path:
                tails[path] = None if path in tails else image
                path = path.partition("/")[2]
    return {path: image for path, image in tails.items() if image is not None}


def _labels(lists: list[_List], of_names: list[str], text_of: Callable[[str], str], notes: Annotations) -> None:
    """The second fields, unless they are boxes, numbers of the lines, or yes and no."""
    labels: dict[str, str] = {}
    for each in lists:
        if not all(each.images.values()):
            continue
        firsts = Counter(fields[0] for fields in each.images.values())
        boxes = any(len(fields) > 1 for fields in each.images.values())
        if boxes and any(re.fullmatch(r"-?[\d.]+", first) for first in firsts):
            continue
        if 2 * len(firsts) > len(each.images) or "-1" in firsts:
            continue
        labels |= {image: fields[0] for image, fields in each.images.items()}
        notes.used[each.name] = len(each.images)
    if labels and all(label.isdecimal() for label in labels.values()):
        names = next((names for file in of_names if {*labels.values()} <= (names := _named(text_of(file))).keys()), {})
        folders = {image.rpartition("/")[0] for image in labels}
        if not names and len(folders) > 1:  # they have better names
            return
        labels = {image: names.get(label, label) for image, label in labels.items()}
    for image, label in labels.items():
        notes.rows.setdefault(image, {})["label"] = label


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
    splits: dict[tuple[str, str], dict[str, str]] = {}
    for group, entries in groups.items():
        parts = {each.part for each in entries}
        entries = [each for each in entries if each.part != "trainval" or not {"train", "val"} <= parts]
        held_out = {image for each in entries if not each.part.startswith("train") for image in each.images}
        trained = {image for each in entries if each.part.startswith("train") for image in each.images} - held_out
        if held_out and trained:
            sides = {image: "test" if each.part == "test" else "val" for each in entries for image in each.images}
            splits[group] = {image: "train" if image in trained else side for image, side in sides.items()}
    if not splits:
        return []
    order = sorted(splits, key=lambda group: (-len(splits[group]), len(group[1]), natural_key("/".join(group))))
    best, split = order[0], splits[order[0]]
    names = ", ".join(each.name for each in groups[best])
    if 2 * len(split) < len(images):
        return [(names, f"ignored: of {len(images):,} images these lists of a split name {len(split):,}")]
    notes.splits |= {image: side for image, side in split.items() if image not in notes.splits}
    notes.used |= {each.name: len(each.images) for each in groups[best]}
    words = []
    if len(order) > 1:
        words.append((names, f"used: the split, the first of {len(order)} that lists of images make"))
    notes.rest = "train"
    if rest := [
        image for image in images if image not in notes.splits and not any(map(split_of, image.split("/")[:-1]))
    ]:
        words.append((names, f"used to train on: {len(rest):,} images that are in none of these lists"))
    return words


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
