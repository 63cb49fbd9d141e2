"""Image folders: walk the tree, and read classes, splits and pairs from folder names."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from reverie.core.errors import argument
from reverie.core.terminal import printable
from reverie.data.captions import Captions
from reverie.data.items import HELD_OUT_NAMES, File, Item, Listing
from reverie.data.types import Problem
from reverie.media.decode import SUFFIXES
from reverie.media.films import VIDEO_SUFFIXES
from reverie.media.origin import NOTE

OTHER_MEDIA = dict.fromkeys(VIDEO_SUFFIXES, "video") | dict.fromkeys((".npy", ".nii", ".nii.gz"), "volume")


def list_folder(root: Path) -> Listing:
    """All images under ``root``, sorted by path, with labels, captions, pairs and splits from its folders."""
    problems: list[Problem] = []
    files = walk(root, problems)
    images = {name: file for name, file in files.items() if suffix(name) in SUFFIXES}
    captions = Captions(files, problems)
    used = captions.used(images)
    problems += ignored(
        name for name in files if name not in images and name not in used and PurePosixPath(name).name != NOTE
    )

    items: list[Item] = []
    branches = by_split(images)
    for split, prefix, names in branches:
        pairs = pair_up(prefix, names, problems)
        if pairs is not None:
            for target, source in pairs:
                items.append(Item(printable(target), images[target], None, "", split, images[source]))
        else:
            labels = label_names(prefix, names)
            items += [Item(printable(name), images[name], labels.get(name), "", split) for name in names]
    if len(branches) > 1:
        for name in images:
            if not name.startswith(tuple(prefix for _, prefix, _ in branches)):
                problems.append(Problem(printable(name), "outside-splits", "skipped: neither in train/ nor in test/"))
    by_path = {file.path: name for name, file in images.items()}
    names, numbers = captions.attributes(by_path[item.file.path] for item in items)
    described = [
        replace(captions.describe(item, name), attributes=numbers[name])
        for item, name in ((item, by_path[item.file.path]) for item in items)
    ]
    return Listing(described, problems, names)


def suffix(name: str) -> str:
    """The lower-case suffix, such as ".png" and ".nii.gz"."""
    return ".nii.gz" if name.lower().endswith(".nii.gz") else PurePosixPath(name).suffix.lower()


def walk(root: Path, problems: list[Problem]) -> dict[str, File]:
    """Every visible regular file under ``root``: relative path, with "/", -> File; sorted by path.

    Links are followed; a folder reached twice (a loop, or two links) is entered once. Run directories below ``root``
    are skipped: their images are generated.
    """
    files: dict[str, File] = {}
    seen: set[tuple[int, int]] = set()
    todo: list[tuple[str, str]] = [(os.fspath(root), "")]
    while todo:
        folder, prefix = todo.pop()
        try:
            identity = Path(folder).stat()
            if (identity.st_dev, identity.st_ino) in seen and identity.st_ino:
                problems.append(Problem(printable(prefix), "symlink-loop", "skipped: this folder was reached before"))
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            problems.append(Problem(printable(prefix or "."), "unreadable", f"skipped: {error.strerror or error}"))
            continue
        if prefix and _is_run(Path(folder)):
            problems.append(Problem(printable(prefix), "run", "skipped: a run directory of reverie, not data"))
            continue
        folders = []
        for entry in listed:
            name = prefix + entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                problems.append(Problem(printable(name), "hidden", "skipped: hidden"))
                continue
            try:
                if entry.is_dir():
                    folders.append((entry.path, name + "/"))
                elif entry.is_file():
                    stat = entry.stat()
                    files[name] = File(entry.path, stat.st_size, stat.st_mtime_ns)
                elif entry.is_symlink():
                    problems.append(Problem(printable(name), "broken-link", "skipped: the link is broken"))
                else:
                    problems.append(Problem(printable(name), "not-a-file", "skipped: a pipe, socket or device"))
            except OSError as error:  # ELOOP: a link to itself
                problems.append(Problem(printable(name), "broken-link", f"skipped: {error.strerror or error}"))
        todo += reversed(folders)
    return dict(sorted(files.items(), key=lambda pair: os.fsencode(pair[0])))


def _is_run(folder: Path) -> bool:
    """Whether it has a run.json of reverie."""
    try:
        info = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and {"reverie", "model"} <= info.keys()


def ignored(names: Iterable[str]) -> list[Problem]:
    """One problem per extension of files that are neither images nor captions."""
    count = Counter(suffix(name) for name in names)
    problems = []
    for extension, n in sorted(count.items()):
        kind, action = "ignored", f"ignored: {n} file{'s' * (n > 1)}"
        if medium := OTHER_MEDIA.get(extension):
            kind, action = "other-medium", f"{action}; {argument('medium', medium)} reads {extension} files"
        problems.append(Problem(f"*{extension}" if extension else "(no extension)", kind, action))
    return problems


def by_split(names: Iterable[str]) -> list[tuple[str | None, str, list[str]]]:
    """(split, its folder, names): train/ and one of test/, val/ ... if both contain images, else all as one.

    Held-out images come first, so that an image in both splits is dropped from training.
    """
    tops: dict[str, list[str]] = {}
    for name in names:
        tops.setdefault(name.partition("/")[0] if "/" in name else "", []).append(name)
    held_out = [top for top in tops if top.lower() in HELD_OUT_NAMES]
    train = [top for top in tops if top.lower() == "train"]
    if not (held_out and train):
        return [(None, "", list(names))]
    sides = [("held_out", top) for top in held_out] + [("train", top) for top in train]
    return [(side, f"{top}/", tops[top]) for side, top in sides]


def label_names(prefix: str, names: list[str]) -> dict[str, str]:
    """Name -> class, from the top-level folders under ``prefix``, if two or more of them contain images."""
    label = {name: rest.partition("/")[0] for name in names if "/" in (rest := name.removeprefix(prefix))}
    return {name: printable(top) for name, top in label.items()} if len(set(label.values())) > 1 else {}


def pair_up(prefix: str, names: list[str], problems: list[Problem]) -> list[tuple[str, str]] | None:
    """(target, source) from B/ and A/ with equal relative stems; None if there are no such pairs."""
    sides: dict[str, dict[str, str]] = {"A": {}, "B": {}}
    for name in names:
        side, _, rest = name.removeprefix(prefix).partition("/")
        if side in sides and rest:
            sides[side].setdefault(os.fspath(PurePosixPath(rest).with_suffix("")), name)
    if not sides["A"].keys() & sides["B"].keys():
        return None
    paired = [(target, sides["A"][stem]) for stem, target in sides["B"].items() if stem in sides["A"]]
    used = {name for pair in paired for name in pair}
    for name in names:
        if name not in used:
            problems.append(Problem(printable(name), "unpaired", "skipped: no image of the same name in A/ and B/"))
    return paired
