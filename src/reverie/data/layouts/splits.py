"""The splits that folders are: train/ and test/, cars_train/ and cars_test/."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from reverie.core.terminal import printable
from reverie.data import items
from reverie.data.items import split_in, split_of
from reverie.data.tree import Tree
from reverie.data.types import Problem

PLAIN = ("images", "image", "imgs", "img", "jpegimages", "data")  # folders between a split or class and its images


class Branch(NamedTuple):
    """The images of a split, or all.

    Attributes:
        prefix: the folders, with "/", below which classes are.
        folder: of the split, "" without one.
    """

    split: str | None
    prefix: str
    names: list[str]
    folder: str = ""


def by_split(tree: Tree, names: Iterable[str], problems: list[Problem], others: bool = True) -> list[Branch]:
    """Branches of train/ and one of test/, val/ ... if both contain images, else all images as one.

    With ``others``, the folders may have other words in common: cars_train/ and cars_test/. Held-out images come first,
    so that an image in both splits is dropped from training.
    """
    names = list(names)
    tops: dict[str, list[str]] = {}
    for name in names:
        head, slash, _ = tree.below(name).partition("/")
        tops.setdefault(head if slash else "", []).append(name)
    sides = {top: side for top in tops if (side := split_of(top))}
    if {*sides.values()} != {"train", "held_out"}:
        sides = _sides_in_words({top: len(names) for top, names in tops.items()}) if others else {}
    if not sides:
        return [Branch(None, tree.root, names)]
    trained = min((top for top in tops if sides.get(top) == "train"), key=lambda top: (len(top), top))
    held_out = min((top for top in tops if sides.get(top) == "held_out"), key=lambda top: (len(top), top))
    for top in tops.keys() - sides.keys():
        action = f"skipped: neither in {printable(trained)}/ nor in {printable(held_out)}/"
        problems += [Problem(printable(name), "outside-splits", action) for name in tops[top]]
    order = sorted(sides, key=lambda top: sides[top] == "train")
    skipped = _lone({top: [tree.below(name)[len(top) + 1 :] for name in tops[top]] for top in order})
    return [Branch(sides[top], f"{tree.root}{top}/{skipped[top]}", tops[top], top) for top in order]


def _sides_in_words(tops: dict[str, int]) -> dict[str, str]:
    """The splits of folders (with counts of images) whose names are equal but for the word train, test ...; or none."""
    marks = {top: mark for top in tops if (mark := split_in(top))}
    rests = {rest for _, rest in marks.values()}
    most = 2 * sum(tops[top] for top in marks) >= sum(tops.values())
    sides = {top: side for top, (side, _) in marks.items()}
    return sides if len(rests) == 1 and most and {*sides.values()} == {"train", "held_out"} else {}


def _lone(inside: dict[str, list[str]]) -> dict[str, str]:
    """Below the folder of each split, the lone folder with "/" that is no class, else "".

    That is images/, one of the split's own name, or the same one in all splits that holds folders only.
    """
    heads = {top: {rest.partition("/")[0] if "/" in rest else "" for rest in rests} for top, rests in inside.items()}
    lone = {top: next(iter(names)) if len(names) == 1 else "" for top, names in heads.items()}
    same = len({*lone.values()}) == 1 and all(rest.count("/") > 1 for rests in inside.values() for rest in rests)
    return {
        top: f"{head}/" if head and (same or head.lower() in (*PLAIN, top.lower())) else ""
        for top, head in lone.items()
    }


def unused_splits(names: Iterable[str]) -> list[Problem]:
    """A line on folders train and test, or cats_train and cats_test, side by side, whose images have no split."""
    beside: dict[tuple[str, str], dict[str, set[str]]] = {}  # (folder above, rest of the name) -> side -> folders
    lowest = {name.rpartition("/")[0] for name in names}
    for folder in {each for path in lowest for each in (path, *map(str, PurePosixPath(path).parents))}:
        above, _, last = folder.rpartition("/")
        if mark := split_in(last):
            beside.setdefault((above, mark[1]), {}).setdefault(mark[0], set()).add(folder)
    both = [sides for sides in beside.values() if len(sides) > 1]
    if not both:
        return []
    first = min((sorted(sides["train"])[0], sorted(sides["held_out"])[0]) for sides in both)
    some = " and ".join(f"{printable(folder)}/" for folder in first)
    remedy = "train/ and test/ above all classes, or a table's column split, are one"
    return [Problem("*", "no-split", f"not used as a split: folders such as {some}; {remedy}")]


def split_words(branches: list[Branch]) -> str:
    """ ", train 100 / test 20" of named splits, else ""."""
    return items.split_words({branch.folder: len(branch.names) for branch in branches if branch.split})
