"""Class folders, and images without any arrangement."""

from __future__ import annotations

import re
import sys

from reverie.core.terminal import count, printable
from reverie.data.items import Item
from reverie.data.layouts.base import Layout, Match, Reading, by_split, split_words
from reverie.data.tree import Tree
from reverie.data.types import Problem


def _classes(tree: Tree) -> Match:
    folders = _folders(tree)
    if len(folders) < 2:
        return Match("there are no two folders side by side that hold images")
    if _are_parts(folders):
        first, last = min(folders), max(folders)
        why = f"folders {first} to {last} look like numbered parts of one set, and may be classes"
        return Match(why, lambda: _read_classes(tree), "on request")
    return Match.yes(f"{len(folders)} folders with images: {_some(folders)}", lambda: _read_classes(tree))


def _leaves(tree: Tree) -> Match:
    folders, leaves = _folders(tree), _folders(tree, leaves=True)
    deep = [leaf for leaf in leaves if "/" in leaf]
    if not deep or (len(folders) > 1 and _are_parts([leaf.rpartition("/")[2] for leaf in deep])):
        return Match("no folder of images has others inside" if not deep else "the folders inside are numbered parts")
    why = f"the {count(len(deep), 'folder')} inside ({_some(deep)}) may be classes"
    if len(folders) < 2:
        return Match(why, lambda: _read_classes(tree, leaves=True), "possible")
    level = f"classes are the {len(folders)} folders of the first level ({_some(folders)})"
    return Match(f"{level}; {why}", lambda: _read_classes(tree, leaves=True), "on request")


def _images(tree: Tree) -> Match:
    return Match.yes("images in any folders", lambda: _read_images(tree))


CLASSES = Layout("classes", "a folder for each class: cat/1.jpg, dog/2.jpg; also in train/ and test/", _classes)
LEAVES = Layout("leaves", "a folder for each class, at any depth: animals/cat/1.jpg", _leaves)
IMAGES = Layout("images", "images in any folders, without classes; also in train/ and test/", _images)


def _folders(tree: Tree, leaves: bool = False) -> list[str]:
    """Names of the folders that would be classes."""
    heads: set[str] = set()
    for _, prefix, names in by_split(tree, tree.images, []):
        heads |= {head for name in names if (head := _class_of(name, prefix, leaves))}
    return sorted(heads)


def _class_of(name: str, prefix: str, leaves: bool = False) -> str:
    """The folder of the first level, or all of them."""
    inside = name[len(prefix) :]
    return sys.intern(inside.rpartition("/")[0] if leaves else inside.partition("/")[0] if "/" in inside else "")


def _are_parts(folders: list[str]) -> bool:
    """Whether the names are numbers from 0 or 1 on, of one width: 00000, 00001 ... as StyleGAN's tools write."""
    if len({len(name) for name in folders}) > 1 or not all(re.fullmatch(r"\d{4,}", name) for name in folders):
        return False
    numbers = [int(name) for name in folders]
    return min(numbers) <= 1 and max(numbers) < 2 * len(numbers)


def _read_classes(tree: Tree, leaves: bool = False) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, tree.images, problems)
    items = {
        name: Item(printable(name), tree.files[name], printable(label) if label else None, "", split)
        for split, prefix, names in branches
        for name in names
        for label in [_class_of(name, prefix, leaves)]
    }
    kinds = {item.label for item in items.values() if item.label is not None}
    title = f"class folders, {count(len(kinds), 'class')}, {count(len(items), 'image')}{split_words(branches)}"
    return Reading(title, items, problems=problems)


def _read_images(tree: Tree) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, tree.images, problems)
    items = {
        name: Item(printable(name), tree.files[name], None, "", split) for split, _, names in branches for name in names
    }
    return Reading(f"images, {len(items):,}{split_words(branches)}", items, problems=problems)


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:4])) + (" ..." if len(names) > 4 else "")
