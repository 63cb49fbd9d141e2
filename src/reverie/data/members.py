"""Samples of other media than images in a folder: their labels, captions and splits, and the size they share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from reverie.core.cache import Progress
from reverie.core.errors import ReverieError
from reverie.core.files import sha256_of
from reverie.core.terminal import printable
from reverie.data.captions import Captions
from reverie.data.choose import choose_items, limited
from reverie.data.intake import CHANGED_NOTE, MIN_IMAGES, Memory, Seen, TooFew, joint_sha, parallel
from reverie.data.items import File, Item, Listing
from reverie.data.labels import clear_negatives
from reverie.data.layouts.base import divided
from reverie.data.layouts.splits import by_split
from reverie.data.options import OpenOptions
from reverie.data.plan import Decoded
from reverie.data.records import unusable
from reverie.data.tree import Tree, ignored, of_folder
from reverie.data.types import Problem, Report
from reverie.media import decode
from reverie.media.origin import NOTE


def files_of(source: Path, problems: list[Problem]) -> dict[str, File]:
    """Every visible file of a folder, see ``tree.of_folder``; or a file alone, under its name."""
    if source.is_dir():
        tree = of_folder(source)
        problems += tree.problems
        return tree.files
    stat = source.stat()
    return {source.name: File(str(source), stat.st_size, stat.st_mtime_ns)}


def inspect_files(
    source: Path,
    what: str,
    files: Mapping[str, File],
    inspect: Callable[[str], list[Any]],
    problems: list[Problem],
    progress: Progress | None,
) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Name -> (sha256, what ``inspect`` says of its path) of the files that can be read, remembered by their times.

    Args:
        what: they are, in the key of that memory.
        inspect: raises Unusable, or ReverieError if an extra is missing.
    """

    def look(file: File) -> list[Any]:
        try:
            if not file.size:
                raise decode.Unusable("zero-byte", "skipped: the file is empty")
            return [sha256_of(Path(file.path)), *inspect(file.path)]
        except OSError as error:
            action = f"skipped: cannot be read ({error.strerror or error})"
            raise decode.Unusable("unreadable", action) from None
        except ReverieError as error:
            raise decode.Unusable("needs-extra", f"skipped: {error}") from None

    memory, usable = Memory(f"{source}:{what}", inspect=look), {}
    with decode.quiet():
        for i, (name, result) in enumerate(zip(files, parallel(memory.inspected, files.values(), 8), strict=True)):
            if progress and (i % 64 == 63 or i + 1 == len(files)):
                progress(i + 1, len(files), "reading")
            if isinstance(result, decode.Unusable):
                problems.append(Problem(printable(name), result.kind, result.action))
            else:
                usable[name] = result
    memory.save()
    return usable


def unless_changed(row: Seen, decoded: Decoded) -> Decoded:
    """What was decoded of a film's last clip or of a volume; unusable if a file is no longer that of the survey.

    Decoders read files by their path, so the digest is that of the files after it: one more reading of each, which
    takes 1 to 3 % of a film's decoding, and less than a volume's inspection in the survey.
    """
    files = row.item.frames or (row.item.file,)
    try:
        same = joint_sha([sha256_of(Path(file.path)) for file in files]) == (row.film or row.sha)
    except OSError:
        same = False
    return decoded if same else (unusable([CHANGED_NOTE]), decoded[1])


def without_copies(
    items: list[Item], shas: Mapping[str, str], options: OpenOptions, problems: list[Problem]
) -> Iterator[Item]:
    """The items without exact copies of earlier ones; ``shas`` are by the paths of their files."""
    first: dict[str, str] = {}
    for item in items:
        if (name := first.setdefault(shas[item.file.path], item.name)) != item.name and not options.copies:
            problems.append(Problem(item.name, "duplicate", f"skipped: the same content as {name}"))
        else:
            yield item


def list_members(
    members: Mapping[str, tuple[File, ...]],
    others: Collection[str],
    files: dict[str, File],
    problems: list[Problem],
    noun: str,
    options: OpenOptions,
) -> Listing:
    """The samples as items: classes and splits from folder names, captions from ``NAME.txt`` and tables.

    Of them those that ``options`` choose by class and condition.

    Args:
        members: name of a sample (of a folder for a film of frames) -> its file, or its frames.
        others: files that are part of samples or were reported.
        files: all files.
        noun: what a sample is.
    """
    captions = Captions(files, problems, options.columns, members)
    used = captions.used(members).union(others, members)
    problems += ignored(name for name in files if name not in used and PurePosixPath(name).name != NOTE)
    items: list[tuple[str, Item]] = []
    tree = Tree("", {name: parts[0] for name, parts in members.items()})
    tree.images = list(members)
    for split, prefix, names, _ in by_split(tree, members, problems):
        labels = _class_names(prefix, names)
        for name in names:
            parts = members[name]
            item = Item(printable(name), parts[0], labels.get(name), "", split, frames=parts if len(parts) > 1 else ())
            items.append((name, item))
    names, numbers = captions.attributes(name for name, _ in items)
    described = [replace(captions.describe(item, name), attributes=numbers[name]) for name, item in items]
    rows: list[Mapping[str, Any]] = [captions.columns_of(name) for name, _ in items]
    listing = Listing(described, problems, names, f"{noun}s, {len(items):,}{captions.summary()}", rows)
    listing = divided(listing, captions, {name: item.split for name, item in items})
    clear_negatives(listing)
    choose_items(options.choice, listing, noun)
    return listing


def _class_names(prefix: str, names: list[str]) -> dict[str, str]:
    """Name -> class, from the top-level folders under ``prefix``, if there are two or more."""
    label = {name: rest.partition("/")[0] for name in names if "/" in (rest := name.removeprefix(prefix))}
    return {name: printable(top) for name, top in label.items()} if len(set(label.values())) > 1 else {}


def first_by_content(
    seen: list[Seen], options: OpenOptions, problems: list[Problem], noun: str = "image"
) -> tuple[list[Seen], float]:
    """As many of the samples as ``options`` allow, and the end of their numbers: see ``choose.limited``."""
    kept, end = limited(options.choice, [row.sha for row in seen], problems, noun)
    return [row for row, inside in zip(seen, kept, strict=True) if inside], end


def check_enough(what: str, seen: list[Seen], problems: list[Problem], noun: str, part: str | None) -> None:
    """Raise TooFew if there are fewer samples, or fewer to train on in the source's own split, than needed."""
    splits = [row.item.split for row in seen]
    if len(seen) < MIN_IMAGES:
        raise TooFew(what, Report(len(seen), problems), noun=noun)
    if part is None and "held_out" in splits and splits.count("train") < MIN_IMAGES:
        raise TooFew(what, Report(len(seen), problems), splits.count("train"), noun=noun)
