"""The forgiving door: reads every file once, sets aside what cannot be a picture, drops copies, and says so."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from reverie import home
from reverie.core.errors import ReverieError
from reverie.core.files import replacing
from reverie.data.items import File, Item, Listing
from reverie.data.types import Problem, Report
from reverie.media import decode

MIN_PICTURES = 8
FRESH_NS = 2_000_000_000  # a file changed this recently may change again within the clock's grain: not remembered

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Seen:
    """One item that passed: its content, and its size before anything is done to it.

    Attributes:
        item: as listed.
        sha: hex sha256 of the file's bytes; of both files' digests for a pair.
        source_sha: that of the pair's source file, "" without.
        size: (width, height) in pixels.
    """

    item: Item
    sha: str
    source_sha: str
    size: tuple[int, int]


class TooFew(ReverieError):
    """Fewer than MIN_PICTURES usable images; ``report`` says what was found.

    Args:
        train: how many there are to train on, where that is too few: the source names its split.
        files: whether it was files that were read, and not an array or another object.
    """

    def __init__(self, what: str, report: Report, train: int | None = None, files: bool = True):
        counts = ", ".join(f"{n} {kind}" for kind, n in report.counts().items())
        also = f" Also found: {counts or 'no other files'}." if counts or files else ""
        endings = f" Images are read from {' '.join(sorted(decode.SUFFIXES))} files." if files else ""
        super().__init__(
            f"{what} holds {report.usable} usable pictures{'' if train is None else f', {train} of them to train on'}; "
            f"at least {MIN_PICTURES} are needed.{also}{endings}"
        )
        self.report = report


def survey(
    listing: Listing, what: str, progress: home.Progress | None = None, copies: bool = False
) -> tuple[list[Seen], list[Problem]]:
    """Read and hash every listed file (or remember it), check its header, drop exact copies (unless ``copies``).

    Returns:
        the items that passed, in listing order, and the problems of the listing and of the rest.

    Raises TooFew, with the report.
    """
    problems = list(listing.problems)
    seen: list[Seen] = []
    first: dict[str, str] = {}
    memory = Memory(what)
    total = len(listing.items)
    with decode.quiet():
        for i, facts in enumerate(parallel(memory.look, listing.items)):
            item = listing.items[i]
            if progress and (i % 256 == 255 or i + 1 == total):
                progress(i + 1, total, "reading")
            if isinstance(facts, decode.Unusable):
                problems.append(Problem(item.name, facts.kind, facts.action))
                continue
            sha, source_sha, size = facts
            if sha in first and not copies:
                problems.append(Problem(item.name, "duplicate", f"skipped: the same file as {first[sha]}"))
                continue
            first[sha] = item.name
            seen.append(Seen(item, sha, source_sha, size))
    memory.save()
    if len(seen) < MIN_PICTURES:
        raise TooFew(what, Report(len(seen), problems))
    sizes = {one.size for one in seen}
    if len(sizes) > 1:
        widths, heights = zip(*sizes, strict=True)
        span = f"{min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
        problems.append(Problem("*", "mixed-sizes", f"converted: {span}; all brought to one size"))
    return seen, problems


class Memory:
    """What earlier openings read: (path, size, mtime) -> sha256 and size in pixels, so that nothing is read twice."""

    def __init__(self, what: str):
        key = hashlib.sha256(os.fsencode(Path(what).absolute())).hexdigest()
        self.path = home.home() / "listings" / f"{key}.json"
        self.old: dict[str, list[Any]] = {}
        self.new: dict[str, list[Any]] = {}
        try:
            loaded = json.loads(self.path.read_text("utf-8"))
            self.old = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            pass  # no memory, or a torn one: every file is read

    def look(self, item: Item) -> tuple[str, str, tuple[int, int]] | decode.Unusable:
        """(sha256 of the item, sha256 of its source, size in pixels), or why it cannot be used. Never raises."""
        try:
            sha, size = self._facts(item.file)
            if item.source is None:
                return sha, "", size
            try:
                source_sha, _ = self._facts(item.source)
            except decode.Unusable as error:
                return decode.Unusable(error.kind, f"{error.action}; it is the source of this pair")
            return hashlib.sha256(f"{sha}{source_sha}".encode()).hexdigest(), source_sha, size
        except decode.Unusable as error:
            return error

    def _facts(self, file: File) -> tuple[str, tuple[int, int]]:
        key = f"{file.path}\0{file.offset}"
        known = self.old.get(key)
        if not (isinstance(known, list) and len(known) == 5 and known[:2] == [file.size, file.mtime_ns]):
            known = [file.size, file.mtime_ns, *_read_facts(file)]
        if file.reader is None and time.time_ns() - file.mtime_ns > FRESH_NS and known[2] != "":
            self.new[key] = known
        if isinstance(known[3], str):
            raise decode.Unusable(known[3], known[4])
        return known[2], (known[3], known[4])

    def save(self) -> None:
        """Remember. A cache folder that cannot be written to only costs the next opening its speed."""
        if self.new == self.old:
            return
        try:
            with replacing(self.path) as aside, aside.open("wb") as handle:
                handle.write(json.dumps(self.new).encode())
        except OSError:
            pass


def _read_facts(file: File) -> list[Any]:
    """[sha256, width, height], or [sha256, kind, action] of a file that cannot be used ("" when it was not read)."""
    try:
        data = file.read()
    except Exception as error:  # a reader may be another library's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ["", "unreadable", f"skipped: cannot be read ({reason})"]
    sha = hashlib.sha256(data).hexdigest()
    try:
        return [sha, *decode.inspect(data)]
    except decode.Unusable as error:
        return [sha, error.kind, error.action]


def parallel(work: Callable[[T], R], things: Iterable[T], chunk: int = 256) -> Iterator[R]:
    """Map in threads (Pillow and hashlib release the GIL), in order, at most ``chunk`` results ahead."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    rest = iter(things)
    with ThreadPoolExecutor(min(32, cores + 1)) as pool:
        while part := list(islice(rest, chunk)):
            yield from pool.map(work, part)
