"""Layouts of folders and zips: recognised by what they are, named in the report, chosen by ``layout``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.terminal import count
from reverie.data.captions import Captions
from reverie.data.items import Listing
from reverie.data.layouts import folders, pairs, published, restoration
from reverie.data.layouts.base import Layout, Reading, described, divided
from reverie.data.masks import add_table, find_masks, masks_of
from reverie.data.naming import FOUND, Columns
from reverie.data.tree import Tree, ignored
from reverie.data.types import Problem
from reverie.media.origin import NOTE

LAYOUTS: dict[str, Layout] = {  # in the order in which they are tried; the last one fits every tree
    layout.name: layout
    for layout in (
        published.STYLEGAN,
        pairs.UNPAIRED,
        pairs.PAIRS,
        restoration.RESTORATION,
        pairs.NAMES,
        pairs.SIDE_BY_SIDE,
        folders.LEAVES,
        folders.CLASSES,
        folders.PREFIXES,
        folders.IMAGES,
    )
}


def check_layout(name: str | None) -> str | None:
    """The name itself. Raises UsageError for an unknown one."""
    if name is not None and name not in [*LAYOUTS]:
        possible = ", ".join(LAYOUTS)
        raise UsageError(f"{argument('layout')} {name!r:.80} is none of {possible}.{suggest(str(name), list(LAYOUTS))}")
    return name


def explain(tree: Tree) -> list[tuple[str, str, str]]:
    """(name, "yes", "no", "ask" or "on request", why) of every layout, in the order in which they are tried.

    Masks, where some files may be these, come first: layouts see the other files.
    """
    masks = find_masks(tree)
    tree = masks.without(tree)
    matches = {name: layout.match(tree) for name, layout in LAYOUTS.items()}
    answers = [(name, match.answer, match.why) for name, match in matches.items()]
    return [("masks", masks.answer, masks.why), *answers] if masks.why else answers


def list_tree(tree: Tree, layout: str | None = None, masks: str | None = None, columns: Columns = FOUND) -> Listing:
    """The items of a tree in this layout, or in the first that fits, without the masks, which are columns of items.

    Args:
        masks: "yes", "no" or None, as for ``masks_of``.

    Raises:
        UsageError: the layout does not fit, or two fit and only the user can tell which one is meant.
    """
    problems = list(tree.problems)
    complete, regions = tree, masks_of(tree, masks, problems)
    tree = regions.without(tree)
    captions = Captions(tree.files, problems, columns)
    if masks != "no":
        regions = add_table(regions, captions.rows, tree, problems, columns.mask)
        tree = regions.without(tree)
    reading = _first_that_fits(tree, problems) if layout is None else _in_layout(tree, layout)
    used = captions.used(tree.images) | reading.used
    problems += reading.problems
    used.update(tree.images)
    problems += ignored(name for name in tree.files if name not in used and not name.endswith(NOTE))
    reading.items = regions.added(reading.items, complete)
    items, attributes = described(reading, captions)
    none = sum(item.label is None for item in items)
    if any(item.label is not None for item in reading.items.values()) and none:
        problems.append(Problem("*", "unlabelled", f"used: {count(none, 'image')} in no folder of a class"))
    rows: list[Mapping[str, Any]] = []
    if captions.rows:
        rows = [captions.columns_of(name) for name in reading.items]
    title = reading.title + regions.summary + captions.summary()
    return divided(Listing(items, problems, attributes, title, rows), captions, reading.items)


def _first_that_fits(tree: Tree, problems: list[Problem]) -> Reading:
    for name, layout in LAYOUTS.items():
        match = layout.match(tree)
        if match.answer == "ask":
            raise UsageError(f"{tree.name}: {match.why}.")
        if match.answer == "yes" and match.read is not None:
            return match.read()
        if match.answer == "on request":
            hint = f"used as the first line says; {match.why}: {argument('layout', name)} reads it so"
            problems.append(Problem("*", "layout", hint))
    raise AssertionError("the last layout fits every tree")


def _in_layout(tree: Tree, name: str) -> Reading:
    match = LAYOUTS[name].match(tree)
    if match.read is None:
        raise UsageError(f"{tree.name} cannot be read with {argument('layout', name)}: {match.why}.")
    return match.read()
