"""WebDataset shards: tar files in which KEY.jpg, KEY.cls, KEY.txt and KEY.json are one image."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

from reverie.core.errors import UsageError
from reverie.core.terminal import printable
from reverie.data.items import File, Item, Listing
from reverie.data.tree import ignored, suffix
from reverie.data.types import Problem
from reverie.media.decode import SUFFIXES

WORDS = (".cls", ".txt", ".json")


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


def list_shards(shards: list[Path]) -> Listing:
    """All images of the shards. A missing or truncated shard is reported; its readable images are used."""
    listing = Listing([], read_as=f"WebDataset, {len(shards):,} shard{'s' * (len(shards) != 1)}")
    for shard in shards:
        _list_shard(shard, listing)
    return listing


def _list_shard(shard: Path, listing: Listing) -> None:
    members: dict[str, File] = {}
    name = printable(shard.name)
    try:
        stat = shard.stat()
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                end = entry.offset_data + entry.size
                if entry.isfile() and end <= stat.st_size:
                    members[entry.name] = File(str(shard), entry.size, stat.st_mtime_ns, entry.offset_data)
                elif entry.isfile():
                    listing.problems.append(
                        Problem(f"{name}/{printable(entry.name)}", "truncated", "skipped: truncated")
                    )
    except tarfile.TarError as error:
        kind = "truncated" if members else "not-an-image"
        listing.problems.append(
            Problem(name, kind, f"used {len(members)} files before the damage: not a complete .tar ({error})")
        )
    except OSError as error:
        listing.problems.append(Problem(name, "unreadable", f"skipped: {error.strerror or error}"))
    words = {member: file for member, file in members.items() if suffix(member) in WORDS}
    used = set()
    for member, file in members.items():
        if suffix(member) not in SUFFIXES:
            continue
        key = _key(member)
        label: Any = None
        text = ""
        for word in WORDS:
            if (file_name := key + word) not in words:
                continue
            used.add(file_name)
            content = words[file_name].read().decode("utf-8", "replace").strip()
            if word == ".txt":
                text = content
            elif word == ".cls":
                label = content
            else:
                row = _json(content)
                if row is None:
                    listing.problems.append(
                        Problem(f"{name}/{printable(file_name)}", "bad-caption", "skipped: no JSON object")
                    )
                    continue
                text = str(row.get("caption") or row.get("text") or text)
                label = row.get("label", label)
        label = int(label) if isinstance(label, str) and re.fullmatch(r"\d{1,9}", label) else label
        label = label if label is None or (isinstance(label, int) and not isinstance(label, bool)) else str(label)
        listing.items.append(
            Item(f"{name}/{printable(member.removeprefix('./'))}", file, None if label == "" else label, text)
        )
    rest = [member for member in members if suffix(member) not in SUFFIXES and member not in used]
    listing.problems += ignored(rest)


def _key(member: str) -> str:
    folder, slash, name = member.rpartition("/")
    return folder + slash + (name.partition(".")[0] or name)


def _json(content: str) -> dict[str, Any] | None:
    try:
        row = json.loads(content)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
