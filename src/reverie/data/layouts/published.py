"""Layouts that tools of the field write, recognised by their own files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reverie.core.terminal import count, printable
from reverie.core.values import is_finite
from reverie.data.items import Item
from reverie.data.layouts.base import Layout, Match, Reading
from reverie.data.tree import Tree
from reverie.data.types import Problem


def _stylegan(tree: Tree) -> Match:
    name = f"{tree.root}dataset.json" if f"{tree.root}dataset.json" in tree.files else "dataset.json"
    if name not in tree.files:
        return Match("no dataset.json")
    try:
        content = json.loads(tree.files[name].read())
    except (OSError, ValueError, RecursionError) as error:
        return Match(f"{name} is no JSON: {str(error)[:80]}")
    if not isinstance(content, dict) or "labels" not in content:
        return Match(f'{name} has no "labels"')
    return Match.yes(f"{name} has labels", lambda: _read_stylegan(tree, name, content["labels"]))


def _read_stylegan(tree: Tree, table: str, rows: Any) -> Reading:
    problems: list[Problem] = []
    labels: dict[str, Any] = {}
    folder = table.rpartition("/")[0]
    for row in rows if isinstance(rows, list) else []:
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
            problems.append(Problem(printable(table), "bad-caption", f"skipped: {row!r:.60} is no name and label"))
            continue
        path = f"{folder}/{row[0]}".lstrip("/").replace("\\", "/")
        if path not in tree.files:
            action = f"skipped: it names {printable(path)}, which does not exist"
            problems.append(Problem(printable(table), "bad-caption", action))
        elif path in labels:
            problems.append(
                Problem(printable(table), "bad-caption", f"used: it repeats {printable(path)}; the last row counts")
            )
        if row[1] is not None and not _is_label(row[1]) and not _is_vector(row[1]):
            action = f"used without a label: {printable(path)} has {row[1]!r:.60}, no number, name or list of numbers"
            problems.append(Problem(printable(table), "bad-caption", action))
        labels[path] = row[1]
    vectors: dict[str, Sequence[float]] = {name: value for name, value in labels.items() if _is_vector(value)}
    hot = all(sorted(value)[-1] == 1 and sum(map(bool, value)) == 1 for value in vectors.values())
    width = max((len(value) for value in vectors.values()), default=0)
    names = [] if hot else [str(i) for i in range(width)]
    items = {}
    for name in tree.images:
        value = labels.get(name)
        label = value if _is_label(value) else None
        vector = vectors.get(name, ())
        if hot and vector:
            label, vector = vector.index(1), ()
        numbers = (*map(float, vector), *[0.0] * (len(names) - len(vector))) if names else ()
        items[name] = Item(printable(name), tree.files[name], label, attributes=numbers)
    missing = sum(name not in labels for name in tree.images) if labels else 0
    if missing:
        problems.append(Problem(printable(table), "bad-caption", f"used without a label: {count(missing, 'image')}"))
    what = "labels" if labels else "no labels"
    title = f"StyleGAN's dataset.json with {what}, {count(len(items), 'image')}; folders are parts, not classes"
    return Reading(title, items, {table}, problems, names)


def _is_label(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_vector(value: Any) -> bool:
    """Whether it is a list of numbers that float32 holds."""
    return isinstance(value, list) and bool(value) and all(is_finite(number) for number in value)


STYLEGAN = Layout("stylegan", "dataset.json with labels beside 00000/, 00001/ ..., in a folder or a zip", _stylegan)
