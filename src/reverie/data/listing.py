"""From the name of a source to the files that are in it, and their layout."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from reverie.core.errors import ReverieError, UsageError, argument, suggest
from reverie.core.files import exists, is_file
from reverie.data.items import HELD_OUT_NAMES, Item, Listing, asked_part, kind_of, side_in
from reverie.data.naming import FOUND, Columns

if TYPE_CHECKING:
    from reverie.data.tree import Tree

BUNDLED_NAMES = ("fashion", "emoji")
PUBLIC_NAMES = (
    "mnist",
    "binary-mnist",
    "binary-mnist:static",
    "binary-mnist:seeded",
    "fashion-mnist",
    "cifar10",
    "stacked-mnist",
    "photos",
)
_OF_PILE = re.compile(r"[-_]?[ABab]$")  # testA and testB
POSSIBLE = (
    f"a bundled set ({', '.join(BUNDLED_NAMES)}), a public set ({', '.join(PUBLIC_NAMES)}), hf:owner/name, "
    "a folder of images or a .zip of one, an .npz, .npy or .h5 file, a folder of idx or CIFAR files, or WebDataset "
    "shards (x.tar, a folder of them, x-{000..003}.tar)"
)


def split_name(text: str) -> tuple[str, str | None]:
    """("cifar10", "held_out") from "cifar10:test"; part is "train", "held_out" or None."""
    head, colon, tail = text.rpartition(":")
    if text.startswith("hf:"):  # the hub knows its splits
        return text, None
    if not colon or not head or text in PUBLIC_NAMES or path_exists(text):
        return text, None
    if tail == "train":
        return head, "train"
    if tail in HELD_OUT_NAMES:
        return head, "held_out"
    if head in BUNDLED_NAMES or head in PUBLIC_NAMES or (head != "hf" and path_exists(head)):
        kinds = [name for name in PUBLIC_NAMES if name.startswith(f"{head}:")]
        kind = f" There are also {' and '.join(kinds)}." if kinds else ""
        raise UsageError(f'"{tail}" is no split of {head}; its splits are train and held_out (or test, val).{kind}')
    return text, None


def keep_named(listing: Listing, split: str) -> bool:
    """Keep the images of test, or those of val, where the source divides the held-out images into the two.

    Args:
        split: "test" or a name of the other; any other text keeps both.

    Returns:
        whether images were left out; the others then have no split any more.
    """
    parts = _folders_of_splits(listing.items)
    if listing.parts:
        parts = [part or folder for part, folder in zip(listing.parts, parts, strict=True)]
    kind = kind_of(split)
    kinds = [
        kind_of(part) if item.split == "held_out" else None for item, part in zip(listing.items, parts, strict=True)
    ]
    held_out = {each for each in kinds if each is not None}
    some = kind in ("test", "val") and held_out == {"test", "val"}
    if some:
        listing.take([i for i, each in enumerate(kinds) if each == kind])
        listing.items = [replace(item, split=None) for item in listing.items]
    if words := asked_part(split, {kind} if some else held_out):
        listing.read_as += f"; {words}"
    return some


def _folders_of_splits(items: Sequence[Item]) -> list[str]:
    """Of each item the first folder whose name says a held-out split, also testA and cars_test; "" of none."""
    folders = [item.name.split("/")[:-1] for item in items]
    common = len(os.path.commonprefix(folders))  # noqa: RUF071 (of lists: their first equal parts)
    return [
        next((folder for folder in parts[common:] if side_in(_OF_PILE.sub("", folder)) == "held_out"), "")
        for parts in folders
    ]


def path_exists(path: str) -> bool:
    """Whether a text is the path of something."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long or with a null byte: no path
        return False


def explain(source: str | os.PathLike[str]) -> list[tuple[str, str, str]]:
    """Of every layout: its name, whether a source fits it ("yes", "no", "ask", "on request" ...), and why.

    Of a folder of arrays, of shards or of Parquet files, and of an LMDB: what it is read as.

    Raises:
        UsageError: no folder, zip or tar.
        ReverieError: a damaged zip.
    """
    from reverie.data import containers, layouts, shards, tree

    path = Path(source).expanduser()
    if exists(path) and path.is_dir():
        files = tree.of_folder(path)
        arrays, (kind, names) = containers.loader_of(str(path)), _packed(path, files)
        if arrays is None and not kind:
            return layouts.explain(files)
        words = f"it has {', '.join(names[:3])}{' ...' * (len(names) > 3)}"
        read = (containers.READ_AS[arrays], "yes", "they are named so") if arrays else (_WORDS[kind], "yes", words)
        others = layouts.explain(files) if files.images else []
        return [read, *((name, "on request" if fits == "yes" else fits, why) for name, fits, why in others)]
    if is_file(path) and path.suffix.lower() == ".zip":
        return layouts.explain(tree.of_zip(path))
    if is_file(path) and path.name.lower().endswith(shards.TARS):
        folder = shards.folder_of(path)
        why = "its KEY.txt, KEY.cls or KEY.json are about images"
        return layouts.explain(folder) if folder else [(_WORDS["tar"], "yes", why)]
    raise UsageError(f"{path} is no folder, no zip and no tar; other sources have no layouts.")


_WORDS = {"lmdb": "an LMDB of images", "tar": "WebDataset shards", "parquet": "Parquet files"}


def _packed(path: Path, files: Tree) -> tuple[str, list[str]]:
    """What a folder's images are packed in ("lmdb", "tar", "parquet" or ""), and the names of these files."""
    from reverie.data import lmdb, parquet, shards
    from reverie.data.intake import MIN_IMAGES

    if lmdb.is_lmdb(str(path)):
        return "lmdb", [*lmdb.NAMES]
    few = len(files.images) < MIN_IMAGES  # a preview beside shards is no data set
    tars = [name for name in files.files if few and name.lower().endswith(shards.TARS)]
    tables = [name for name in files.files if few and parquet.is_parquet(name)]
    return ("tar", tars) if tars else ("parquet", tables) if tables else ("", [])


def list_source(source: str, layout: str | None = None, masks: str | None = None, columns: Columns = FOUND) -> Listing:
    """The items of a folder, zip, tar, Parquet file, LMDB or ``hf:`` set.

    Args:
        source: without a split.
        layout, masks, columns: as of ``open_data``.

    Raises:
        UsageError: no such source, or another layout than it has.
        ReverieError: it cannot be read.
    """
    listing = _list(source, layout, masks, columns)
    listing.number_equal_names()
    return listing


def _list(source: str, layout: str | None, masks: str | None, columns: Columns) -> Listing:
    if source.startswith("hf:"):
        from reverie.data.hub import list_hub

        return list_hub(source[3:], columns, masks)
    from reverie.data import lmdb, parquet, shards, tree
    from reverie.data.intake import ONE_IMAGE
    from reverie.data.layouts import list_tree
    from reverie.media import decode

    path = Path(source)
    try:
        if path.is_dir():
            files = tree.of_folder(path)
            kind, names = _packed(path, files)
            paths = [path / name for name in names]
            if kind == "tar":
                return files.beside(shards.list_shards(paths, layout, masks, columns), names)
            if kind == "lmdb" and layout is None and columns == FOUND:
                return files.beside(lmdb.list_lmdb(path), names)
            if kind == "parquet" and layout is None:
                return files.beside(parquet.list_parquet(paths, masks, columns), names)
            return list_tree(files, layout, masks, columns)
        if source.lower().endswith(parquet.PARQUET) and path.is_file():
            return parquet.list_parquet([path], masks, columns)
        if source.lower().endswith(".zip") and path.is_file():
            files = tree.of_zip(path)
            return _with_images(list_tree(files, layout, masks, columns), source, files)
        if source.lower().endswith(shards.TARS):
            paths = shards.expand(source)
            if any(shard.exists() for shard in paths):
                listing = shards.list_shards(paths, layout, masks, columns)
                return _with_images(listing, source, None if paths[1:] or listing.items else shards.folder_of(paths[0]))
        exists = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ReverieError(f"{source} cannot be opened: {error.strerror or error}.") from None
        exists = False
    except UsageError:
        raise
    except ValueError:  # a null byte
        exists = False
    if exists:
        medium = tree.OTHER_MEDIA.get(tree.suffix(source))
        hint = f" {argument('medium', medium)} reads it." if medium else ""
        hint = (
            f" As for {tree.suffix(source)}: {remedy}." if (remedy := tree.CONVERT.get(tree.suffix(source))) else hint
        )
        hint = f" {ONE_IMAGE}" if tree.suffix(source) in decode.SUFFIXES else hint
        raise UsageError(f"{source} is no set of images.{hint} Possible: {POSSIBLE}.")
    names = [*BUNDLED_NAMES, *PUBLIC_NAMES]
    raise UsageError(f'There is no data called "{source}".{suggest(source, names)} Possible: {POSSIBLE}.')


def _with_images(listing: Listing, source: str, files: Tree | None) -> Listing:
    """The listing of an archive. Raises if it has no images, but files of arrays."""
    from reverie.data.containers import check_packed

    if not listing.items and files is not None:
        check_packed(source, files.files)
    return listing
