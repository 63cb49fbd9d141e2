"""Samples of other media than images in a folder: their labels, captions and splits, and the size they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from reverie.core.terminal import printable
from reverie.data.captions import Captions
from reverie.data.folder import by_split, ignored, label_names, walk
from reverie.data.intake import MIN_IMAGES, Seen, TooFew
from reverie.data.items import File, Item, Listing
from reverie.data.types import Problem, Report
from reverie.media.origin import NOTE


def files_of(source: Path, problems: list[Problem]) -> dict[str, File]:
    """Every visible file of a folder, see ``walk``; or a file alone, under its name."""
    if source.is_dir():
        return walk(source, problems)
    stat = source.stat()
    return {source.name: File(str(source), stat.st_size, stat.st_mtime_ns)}


def list_members(
    members: Mapping[str, tuple[File, ...]], others: Collection[str], files: dict[str, File], problems: list[Problem]
) -> Listing:
    """The samples as items: classes and splits from folder names, captions from ``NAME.txt`` and tables.

    Args:
        members: name of a sample (of a folder for a film of frames) -> its file, or its frames.
        others: files that are part of samples or were reported.
        files: all files.
    """
    captions = Captions(files | {name: parts[0] for name, parts in members.items()}, problems)
    used = captions.used(members).union(others, members)
    problems += ignored(name for name in files if name not in used and PurePosixPath(name).name != NOTE)
    items: list[tuple[str, Item]] = []
    branches = by_split(members)
    for split, prefix, names in branches:
        labels = label_names(prefix, names)
        for name in names:
            parts = members[name]
            item = Item(printable(name), parts[0], labels.get(name), "", split, frames=parts if len(parts) > 1 else ())
            items.append((name, item))
    inside = {name for name, _ in items}
    for name in members:
        if name not in inside:
            problems.append(Problem(printable(name), "outside-splits", "skipped: neither in train/ nor in test/"))
    names, numbers = captions.attributes(name for name, _ in items)
    described = [replace(captions.describe(item, name), attributes=numbers[name]) for name, item in items]
    return Listing(described, problems, names)


def check_enough(what: str, seen: list[Seen], problems: list[Problem], noun: str, part: str | None) -> None:
    """Raise TooFew if there are fewer samples, or fewer to train on in the source's own split, than needed."""
    splits = [row.item.split for row in seen]
    if len(seen) < MIN_IMAGES:
        raise TooFew(what, Report(len(seen), problems), noun=noun)
    if part is None and "held_out" in splits and splits.count("train") < MIN_IMAGES:
        raise TooFew(what, Report(len(seen), problems), splits.count("train"), noun=noun)
