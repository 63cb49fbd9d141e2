"""WebDataset shards: tar files in which KEY.jpg, KEY.cls, KEY.txt and KEY.json are one image."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from reverie.core import cache as home
from reverie.core.errors import UsageError, argument
from reverie.core.files import replacing
from reverie.core.terminal import count, printable
from reverie.data.items import LARGEST_CAPTION, File, Item, Listing, parts_of
from reverie.data.labels import labels_of, set_labels
from reverie.data.layouts import list_tree
from reverie.data.masks import masks_of
from reverie.data.naming import FOUND, Columns, captions_of
from reverie.data.tree import TWICE, Tree, hidden, ignored, is_hidden, suffix
from reverie.data.types import Problem
from reverie.data.words import decode_text, read_json
from reverie.media.decode import SUFFIXES

WORDS = (".cls", ".txt", ".json")
PACKED: dict[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MARGIN = 1 << 29  # bytes that stay free on the disk


def expand(pattern: str) -> list[Path]:
    """``a-{000..003}.tar`` -> the four paths, zero-padded as written."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [Path(pattern)]
    first, last = match.groups()
    if int(last) < int(first) or int(last) - int(first) > 1_000_000:
        raise UsageError(f"{pattern}: the numbers in braces must increase, as in {{000..003}}.")
    width = len(first)
    start, end = pattern[: match.start()], pattern[match.end() :]
    patterns = [f"{start}{i:0{width}d}{end}" for i in range(int(first), int(last) + 1)]
    return [path for expanded in patterns for path in expand(expanded)]


def list_shards(
    shards: list[Path], layout: str | None = None, masks: str | None = None, columns: Columns = FOUND
) -> Listing:
    """All images of the shards. A missing or truncated shard is reported; its readable images are used.

    A single tar without a word about any image (KEY.txt, KEY.cls, KEY.json) is a folder in a file, with a layout; so is
    any with a ``layout``.

    Raises:
        UsageError: a layout of several shards.
    """
    if layout is not None and len(shards) > 1:
        raise UsageError(
            f"{argument('layout', layout)} is for a folder, a zip or one tar, not for {len(shards)} shards."
        )
    listing = Listing([], read_as=f"WebDataset, {count(len(shards), 'shard')}", values=True)
    labels, names = list[Any](), set[str]()  # names of the columns of KEY.json
    parts = parts_of(shards, listing.problems, columns.rules) if columns.rules > 2 else dict.fromkeys(shards, "")
    for shard, part in parts.items():
        members = _members(shard, listing.problems)
        if len(shards) == 1 and (layout is not None or not _has_words(members)):
            return list_tree(Tree(str(shard), dict(sorted(members.items())), listing.problems), layout, masks, columns)
        labels += _list_members(printable(shard.name), members, listing, masks, columns, names)
        listing.parts += [part] * (len(listing.items) - len(listing.parts))
    listing.divide(listing.parts)
    if columns.mask:
        raise UsageError(f"{argument('columns')}: masks of shards are files KEY.mask.png, no column of KEY.json.")
    columns.check(sorted(names), "KEY.json")
    folders = {folder for item in listing.items if (folder := item.name.partition("/")[2].rpartition("/")[0])}
    if len(shards) == 1 and len(folders) > 1 and all(label is None for label in labels):
        hint = (
            f"used without labels: {len(folders)} folders are parts of its names; {argument('layout', 'classes')} reads"
        )
        listing.problems.append(Problem("*", "layout", f"{hint} them as classes"))
    set_labels(listing, labels)
    return listing


def folder_of(tar: Path) -> Tree | None:
    """The files of a tar that is a folder in a file; None if it is a shard."""
    problems: list[Problem] = []
    members = _members(tar, problems)
    return None if _has_words(members) else Tree(str(tar), dict(sorted(members.items())), problems)


class _Sound(tarfile.TarInfo):
    """A member whose header claims no negative size, at which tarfile before Python 3.13.6 loops for ever."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.HeaderError("negative size")
        return super()._block(count)  # type: ignore[misc]


def _members(shard: Path, problems: list[Problem]) -> dict[str, File]:
    """The files in a shard, by their names without "./"."""
    members: dict[str, File] = {}
    name = printable(shard.name)
    try:
        plain = _unpacked(shard) if suffix(shard.name) in PACKED else shard
        stat = plain.stat()
        with tarfile.open(plain, "r:", tarinfo=_Sound) as tar:
            for entry in tar:
                inside = entry.name.removeprefix("./").lstrip("/")
                if problem := _unfit(entry, inside, stat.st_size):
                    problems.append(Problem(f"{name}/{printable(inside)}", *problem))
                elif not entry.isdir():
                    if inside in members:
                        problems.append(Problem(f"{name}/{printable(inside)}", *TWICE))
                    members[inside] = File(str(plain), entry.size, stat.st_mtime_ns, entry.offset_data)
            broken = _is_broken(plain, tar.offset)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        broken = str(error) or type(error).__name__
    except OSError as error:
        problems.append(Problem(name, "unreadable", f"skipped: {error.strerror or error}"))
        return members
    if broken:
        kind = "truncated" if members else "not-an-image"
        action = f"used {count(len(members), 'file')} before the damage: not a complete .tar ({broken})"
        problems.append(Problem(name, kind, action))
    return members


def _unfit(entry: tarfile.TarInfo, name: str, size: int) -> tuple[str, str] | None:
    """Kind and action of a member of a tar of ``size`` bytes that cannot be used; None of others and of folders."""
    if entry.isdir():
        return None
    if is_hidden(name):
        return hidden(name, "tar")
    if not entry.isfile():
        return "not-a-file", "skipped: a link, pipe or device"
    if entry.issparse():  # its data are in pieces
        return "sparse", "skipped: stored without its zeros; pack the tar again with its zeros"
    if entry.offset_data + entry.size > size:
        return "truncated", "skipped: truncated"
    return None


def _has_words(members: dict[str, File]) -> bool:
    """Whether a member's name makes it a word about an image."""
    return any(
        key + word in members for name in members if suffix(name) in SUFFIXES for key in _keys(name) for word in WORDS
    )


def _is_broken(path: Path, offset: int) -> str:
    """Why tarfile stopped before the end, which is a block of zeros or that of the file; "" if it did not."""
    with path.open("rb") as handle:
        handle.seek(offset)
        return "a header that is none" if any(handle.read(512)) else ""


def _unpacked(shard: Path) -> Path:
    """A compressed tar, unpacked once into the cache, because members of a compressed one cannot be read alone.

    Raises:
        OSError: it is damaged, or the disk is full.
    """
    stat = shard.stat()
    key = hashlib.sha256(f"{shard.absolute()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:40]
    plain = home.home() / "unpacked" / f"{key}.tar"
    if plain.exists():
        return plain
    opener = PACKED[suffix(shard.name)]
    with opener(shard, "rb") as packed, replacing(plain) as temporary, temporary.open("wb") as handle:
        while part := packed.read(1 << 24):
            if shutil.disk_usage(plain.parent).free < MARGIN:
                raise OSError(28, "the disk of the cache is full")
            handle.write(part)
    os.utime(plain, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    return plain


def _list_members(
    name: str, members: dict[str, File], listing: Listing, masks: str | None, columns: Columns, names: set[str]
) -> list[Any]:
    """Append the images of a shard to the listing, and the columns of its words to ``names``; returns their labels."""
    regions, labels = masks_of(Tree(name, members), masks, listing.problems), []
    words = {member: file for member, file in members.items() if suffix(member) in WORDS}
    used, unlisted = set(), regions.files
    for member, file in members.items():
        if suffix(member) not in SUFFIXES or member in unlisted:
            continue
        label: Any = None
        texts: list[str] = []
        for word in WORDS:
            file_name = next((key + word for key in _keys(member) if key + word in words), None)
            if file_name is None:
                continue
            used.add(file_name)
            if words[file_name].size > LARGEST_CAPTION:
                action = f"skipped: over {LARGEST_CAPTION >> 20} MiB are no words about an image"
                listing.problems.append(Problem(f"{name}/{printable(file_name)}", "bad-caption", action))
                continue
            content = decode_text(words[file_name].read())[0].strip()
            if word == ".txt":
                texts = [content]
            elif word == ".cls":
                label = content
            else:
                row = read_json(content)
                if not isinstance(row, dict):
                    listing.problems.append(
                        Problem(f"{name}/{printable(file_name)}", "bad-caption", "skipped: no JSON object")
                    )
                    continue
                words_ = row.get(columns.text) if columns.text else row.get("caption") or row.get("text")
                texts = captions_of(words_) or texts
                label = row.get(columns.label or "label", label)
                names.update(row)
        labels.append(labels_of(label, numerals=True))
        text, several = texts[0] if texts else "", tuple(texts) if len(texts) > 1 else ()
        item = Item(f"{name}/{printable(member)}", file, None, text, texts=several)
        item = replace(item, masks=tuple(members[mask] for mask in regions.of.get(member, ())))
        listing.items.append(item)
    rest = [member for member in members if suffix(member) not in SUFFIXES and member not in used]
    listing.problems += ignored(rest)
    return labels


def _keys(member: str) -> list[str]:
    """What the names of an image's words may begin with: all before its ending, or before the first dot."""
    folder, slash, name = member.rpartition("/")
    return [member[: -len(suffix(member))], folder + slash + (name.partition(".")[0] or name)]
