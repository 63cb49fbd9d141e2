"""Class folders, and images without any arrangement."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from dataclasses import replace

from reverie.core.terminal import count, printable
from reverie.data.items import Item, split_of
from reverie.data.layouts.base import Layout, Match, Reading
from reverie.data.layouts.splits import PLAIN, by_split, split_words
from reverie.data.tree import Tree, stem
from reverie.data.types import Problem

_WORD = re.compile(r"([^\W\d_][^\d]*?)[-_. ]*\d+")
MANY = 8  # folders; so many with one image each are no classes
_PART = re.compile(r"((?:.*[-_ ])?(?:part|chunk|shard|batch|bucket|images?|imgs?))[-_ ]?\d+", re.IGNORECASE)


def _classes(tree: Tree) -> Match:
    folders = _folders(tree)
    if len(folders) < 2:
        splits = _folders(tree, others=False)
        if len(splits) < 2:
            return Match("there are no two folders side by side that hold images")
        why = f"the folders {_some(splits)} are a split, and may be classes"
        return Match(why, lambda: _read_classes(tree, others=False), "possible")
    if why := _no_classes(tree, folders):
        return Match(f"{why}, and may be classes", lambda: _read_classes(tree), "on request")
    return Match.yes(f"{len(folders)} folders with images: {_some(folders)}", lambda: _read_classes(tree))


def _leaves(tree: Tree) -> Match:
    folders, leaves = _folders(tree), _folders(tree, leaves=True)
    deep = [leaf for leaf in leaves if "/" in leaf and leaf.rpartition("/")[2].lower() not in PLAIN]
    if not deep or (len(folders) > 1 and _are_parts([leaf.rpartition("/")[2] for leaf in deep])):
        return Match("no folder of images has others inside" if not deep else "the folders inside are numbered parts")
    if len(folders) > 1 and _are_buckets(tree):
        return Match("folders are named by what their images' names begin with")
    why = f"the {count(len(deep), 'folder')} inside ({_some(deep)}) may be classes"
    if len(folders) < 2:
        return Match(why, lambda: _read_classes(tree, leaves=True), "possible")
    level = f"classes are the {len(folders)} folders of the first level ({_some(folders)})"
    return Match(f"{level}; {why}", lambda: _read_classes(tree, leaves=True), "on request")


def _prefixes(tree: Tree) -> Match:
    if len(_folders(tree)) > 1:
        return Match("there are folders")
    words = {name: match[1] for name in tree.images if (match := _WORD.fullmatch(stem(name.rpartition("/")[2])))}
    counts = Counter(
        words[name] for branch in by_split(tree, tree.images, [])[-1:] for name in branch.names if name in words
    )
    n = sum(counts.values())
    if (
        not 2 <= len(counts) <= n / 4
        or min(counts.values()) < 2
        or any(map(split_of, counts))
        or 2 * len(words) < len(tree.images)
    ):
        return Match("names do not begin with one of a few words, as cat.0.jpg and dog.0.jpg do")
    why = f"names begin with one of {len(counts)} words ({_some(sorted(counts))}), which may be classes"
    return Match(why, lambda: _read_prefixes(tree, words), "on request")


def _images(tree: Tree) -> Match:
    return Match.yes("images in any folders", lambda: _read_images(tree))


CLASSES = Layout("classes", "a folder for each class: cat/1.jpg, dog/2.jpg; also in train/ and test/", _classes)
LEAVES = Layout("leaves", "a folder for each class, at any depth: animals/cat/1.jpg", _leaves)
PREFIXES = Layout("prefixes", "a class before a number in each name: cat.0.jpg, dog.0.jpg", _prefixes)
IMAGES = Layout("images", "images in any folders, without classes; also in train/ and test/", _images)


def _folders(tree: Tree, leaves: bool = False, others: bool = True) -> list[str]:
    """Names of the folders that would be classes."""
    heads: set[str] = set()
    for _, prefix, names, _ in by_split(tree, tree.images, [], others):
        heads |= {head for name in names if (head := _class_of(name, prefix, leaves))}
    return sorted(heads)


def _class_of(name: str, prefix: str, leaves: bool = False) -> str:
    """The folder of the first level, or all of them."""
    inside = name[len(prefix) :]
    return sys.intern(inside.rpartition("/")[0] if leaves else inside.partition("/")[0] if "/" in inside else "")


def _no_classes(tree: Tree, folders: list[str]) -> str:
    """Why folders side by side are no classes, "" if they are."""
    if _are_parts(folders):
        return f"folders {printable(min(folders))} to {printable(max(folders))} look like numbered parts of one set"
    if _are_buckets(tree):
        return f"folders such as {printable(folders[0])} are named by what their images' names begin with"
    branches = by_split(tree, tree.images, [])
    counts = Counter(head for _, prefix, names, _ in branches for name in names if (head := _class_of(name, prefix)))
    if len(folders) >= MANY and max(counts.values()) == 1:
        return f"each of the {len(folders):,} folders has one image"
    return ""


def _are_parts(folders: list[str]) -> bool:
    """Whether the names are numbers of one width from 0 or one step on: 00000, 01000 ...; or part-1, part-2 ..."""
    parts = [_PART.fullmatch(name) for name in folders]
    if len({match and match[1].lower() for match in parts}) == 1 and parts[0]:
        return True
    if len({len(name) for name in folders}) > 1 or not all(re.fullmatch(r"\d{4,}", name) for name in folders):
        return False
    numbers = [int(name) for name in folders]
    step = math.gcd(*numbers) or 1
    return min(numbers) <= step and max(numbers) < 2 * step * len(numbers)


def _are_buckets(tree: Tree) -> bool:
    """Whether images named by hexadecimal digests are in folders of the first digits: 3/f/3f09a....webp."""
    for name in tree.images:
        folder, _, file = tree.below(name).rpartition("/")
        head = folder.rpartition("/")[2].lower()
        digest = stem(file).lower()
        if not re.fullmatch(r"[0-9a-f]{1,3}", head) or not re.fullmatch(r"[0-9a-f]{16,}", digest):
            return False
        if not digest.startswith((head, folder.replace("/", "").lower()[-3:])):
            return False
    return True


def _read_classes(tree: Tree, leaves: bool = False, others: bool = True) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, tree.images, problems, others)
    items = {
        name: Item(printable(name), tree.files[name], printable(label) if label else None, "", split)
        for split, prefix, names, _ in branches
        for name in names
        for label in [_class_of(name, prefix, leaves)]
    }
    kinds = {item.label for item in items.values() if item.label is not None}
    splits = split_words(branches)
    title = f"class folders, {count(len(kinds), 'class')}, {count(len(items), 'image')}{splits}"
    return Reading(title, items, problems=problems, splits=splits)


def _read_prefixes(tree: Tree, words: dict[str, str]) -> Reading:
    reading = _read_images(tree)
    items = {
        name: replace(item, label=printable(words[name])) if name in words else item
        for name, item in reading.items.items()
    }
    return replace(reading, items=items, title=f"classes by names, {len({*words.values()})}; {reading.title}")


def _read_images(tree: Tree) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, tree.images, problems)
    items = {
        name: Item(printable(name), tree.files[name], None, "", split)
        for split, _, names, _ in branches
        for name in names
    }
    splits = split_words(branches)
    return Reading(f"images, {len(items):,}{splits}", items, problems=problems, splits=splits)


def _some(names: list[str]) -> str:
    return ", ".join(map(printable, names[:4])) + (" ..." if len(names) > 4 else "")
