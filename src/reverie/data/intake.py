"""Intake: read every file once, skip files that are no images, drop copies, and report both."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from reverie.core import cache as home
from reverie.core.errors import ReverieError
from reverie.core.files import replacing, write_entries
from reverie.core.terminal import count
from reverie.data.items import LARGEST_IMAGE, File, Item, Listing
from reverie.data.types import Problem, Report
from reverie.media import decode
from reverie.media.budget import threads
from reverie.media.formats import PIXEL_LIMIT, check_pixels

MIN_IMAGES = 8
ONE_IMAGE = "One image can start a dream or be a style: reverie dream, stylize, train style-net."
CHANGED = "changed"
CHANGED_NOTE = (CHANGED, "skipped: it changed while the data was read")
CHOSEN = ("not-chosen", "low-resolution")  # kinds of what is left out by the user's choice
HINTS = (
    "short-film",
    "needs-extra",
    "other-medium",
    "other-format",
    "decompression-bomb",
    *CHOSEN,
)  # kinds of problems whose action is the remedy of too few samples
TASK = 32  # most things that a thread is handed at once
AHEAD = 512  # files read ahead of their use: of each its hash and size are kept
FRESH_NS = 2_000_000_000  # a file this new may change again within the clock's resolution: not cached

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Seen:
    """A usable item: its content hash and its original size.

    Attributes:
        item: as listed.
        sha: hex sha256 of the file's bytes; of both files' digests for a pair; of a clip its film's, ":" and its start.
        source_sha: of the pair's source file, "" without pairs.
        size: (width, height) in pixels.
        frames: of the film that are the clip; none of other media.
        mask_shas: of the image's masks.
    """

    item: Item
    sha: str
    source_sha: str
    size: tuple[int, int]
    frames: range = range(0)
    mask_shas: tuple[str, ...] = ()

    @property
    def film(self) -> str:
        """The digest of a clip's film, "" of other media."""
        return self.sha.partition(":")[0] if self.frames else ""


class Changed(ReverieError):
    """Files changed between the survey and their decoding: what was decoded is of no one state of the data.

    Args:
        names: of the samples.
        noun: what one of them is.
    """

    def __init__(self, what: str, names: Sequence[str], noun: str = "image"):
        of = f"{count(len(names), noun)} of {what}"
        super().__init__(f"{of} changed while the data was read, such as {names[0]}. Nothing was kept. Open it again.")


class TooFew(ReverieError):
    """Fewer than MIN_IMAGES usable images; ``report`` lists the problems.

    Args:
        train: number of training images, if the source's split leaves too few.
        files: whether the source is files, not an array or another object.
        noun: what one sample is.
    """

    def __init__(self, what: str, report: Report, train: int | None = None, files: bool = True, noun: str = "image"):
        problems = f" Problems: {report.in_words() or 'no other files'}." if report.problems or files else ""
        hints = {problem.kind: problem.action for problem in reversed(report.problems) if problem.kind in HINTS}
        problems += "".join(f" {hint[:1].upper()}{hint[1:]}." for hint in hints.values())
        endings = f" Images are read from {' '.join(sorted(decode.SUFFIXES))} files." if files else ""
        endings = endings if noun == "image" and not {*CHOSEN} & {*report.counts()} else ""
        training = "" if train is None else f", {train} of them to train on"
        usable = count(report.usable, f"usable {noun}")
        super().__init__(f"{what} has {usable}{training}; at least {MIN_IMAGES} are needed.{problems}{endings}")
        if report.usable == 1:
            self.args = (f"{self.args[0]} {ONE_IMAGE}",)
        self.report = report


def survey(
    listing: Listing,
    what: str,
    progress: home.Progress | None = None,
    copies: bool = False,
    at_least: int = 0,
    max_pixels: int = decode.PIXEL_LIMIT,
) -> tuple[list[Seen], list[Problem]]:
    """Read and hash every listed file (or use the cache), check its header, drop exact copies (unless ``copies``) and
    images whose shorter side is below ``at_least`` pixels.

    Returns:
        the usable items in listing order, and the problems of the listing and of the other files.

    Raises TooFew, with the report.
    """
    problems = list(listing.problems)
    seen: list[Seen] = []
    first: dict[str, str] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    memory = Memory(what, max_pixels)
    total = len(listing.items)
    with decode.quiet():
        for i, result in enumerate(parallel(memory.look, listing.items, AHEAD)):
            item = listing.items[i]
            if progress and (i % 256 == 255 or i + 1 == total):
                progress(i + 1, total, "reading")
            if isinstance(result, decode.Unusable):
                problems.append(Problem(item.name, result.kind, result.action))
                continue
            sha, source_sha, size = result
            if min(size) < at_least:
                action = f"left out as asked: {size[0]} x {size[1]} pixels are below {at_least}"
                problems.append(Problem(item.name, "low-resolution", action))
                continue
            if sha in first and not copies:
                problems.append(Problem(item.name, "duplicate", f"skipped: the same file as {first[sha]}"))
                continue
            first[sha] = item.name
            seen.append(Seen(item, sha, source_sha, sizes.setdefault(size, size)))
    memory.save()
    if len(seen) < MIN_IMAGES:
        raise TooFew(what, Report(len(seen), problems))
    if len(sizes) > 1:
        widths, heights = zip(*sizes, strict=True)
        span = f"{min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
        problems.append(Problem("*", "mixed-sizes", f"converted: {span}; all resized to one size"))
    return seen, problems


class Memory:
    """Cache of earlier readings: (path, size, mtime) -> sha256 and size in pixels: no usable file is read twice.

    What was unusable is read again: a newer version, another decoder or a higher limit may read it.

    Args:
        what: the source, and how it is read if that is not as images.
        inspect: a file to [sha256, *facts]; raises Unusable. None: an image to [sha256, width, height].
    """

    def __init__(self, what: str, max_pixels: int = PIXEL_LIMIT, inspect: Callable[[File], list[Any]] | None = None):
        self.max_pixels = max_pixels
        self.inspect = inspect or partial(_inspect, max_pixels=max_pixels)
        key = hashlib.sha256(os.fsencode(Path(what).absolute())).hexdigest()
        self.path = home.home() / "listings" / f"{key}.json"
        self.old: dict[str, list[Any]] = {}
        self.new: list[tuple[Any, ...]] = []  # (file, sha256, *facts)
        self.changed = False  # whether ``new`` has what ``old`` has not
        with contextlib.suppress(OSError, ValueError, RecursionError):  # none, or a damaged one: every file is read
            loaded = json.loads(self.path.read_text("utf-8"))
            self.old = loaded if isinstance(loaded, dict) else {}

    def look(self, item: Item) -> tuple[str, str, tuple[int, int]] | decode.Unusable:
        """(sha256 of the item, sha256 of its source, size in pixels), or the reason it is unusable. Never raises."""
        try:
            sha, size = self._inspect(item.file)
            if item.source is None:
                return sha, "", size
            try:
                source_sha, _ = self._inspect(item.source)
            except decode.Unusable as error:
                return decode.Unusable(error.kind, f"{error.action}; it is the source of this pair")
            return joint_sha([sha, source_sha]), source_sha, size
        except decode.Unusable as error:
            return error

    def inspected(self, file: File) -> tuple[str, tuple[Any, ...]] | decode.Unusable:
        """(sha256, facts) of a file, or the reason it is unusable. Never raises."""
        try:
            return self._facts(file)
        except decode.Unusable as error:
            return error

    def _facts(self, file: File) -> tuple[str, tuple[Any, ...]]:
        entry: Any = self.old.get(_key(file))
        cached = isinstance(entry, list) and entry[:2] == [file.size, file.mtime_ns] and _is_size(entry[3:5])
        sha, *values = entry[2:] if cached else self.inspect(file)
        if file.reader is None and time.time_ns() - file.mtime_ns > FRESH_NS:
            self.new.append((file, sha, *values))
            if not cached:
                self.changed = True
        return sha, tuple(values)

    def _inspect(self, file: File) -> tuple[str, tuple[int, int]]:
        sha, (width, height) = self._facts(file)
        check_pixels((width * (2 if file.half else 1), height), self.max_pixels)
        return sha, (width, height)

    def save(self) -> None:
        """Write the cache. Without a writable cache folder, the next opening is only slower."""
        if not self.changed and len(self.new) == len(self.old):
            return
        entries = ((_key(file), [file.size, file.mtime_ns, *values]) for file, *values in self.new)
        with contextlib.suppress(OSError), replacing(self.path) as temporary, temporary.open("wb") as handle:
            write_entries(handle, entries)


def _key(file: File) -> str:
    return f"{file.path}\0{file.offset}" + f"\0{file.half}" * bool(file.half)


def _is_size(values: list[Any]) -> bool:
    return len(values) == 2 and all(isinstance(value, int) for value in values)


def _inspect(file: File, max_pixels: int) -> list[Any]:
    """[sha256, width, height]. Raises Unusable."""
    data, digest = file_and_sha(file)
    return [digest, *decode.inspect(data, max_pixels, file.half)]


def file_and_sha(file: File) -> tuple[bytes, str]:
    """A file's bytes and their sha256. Raises Unusable."""
    if file.size > LARGEST_IMAGE:
        action = f"skipped: the file has {file.size / 2**30:.1f} GiB, over {LARGEST_IMAGE >> 30}"
        raise decode.Unusable("too-large", action)
    try:
        data = file.read()
    except Exception as error:  # a reader may be another library's
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise decode.Unusable("unreadable", f"skipped: cannot be read ({reason})") from None
    return data, hashlib.sha256(data + file.half.encode()).hexdigest()


def joint_sha(shas: Sequence[str]) -> str:
    """Of a file its digest, of a pair that of both files' digests."""
    return shas[0] if len(shas) == 1 else hashlib.sha256("".join(shas).encode()).hexdigest()


def read_again(files: Sequence[File], sha: str) -> list[bytes]:
    """The bytes of files whose joint digest in the survey was ``sha``. Raises Unusable if it differs or one is gone."""
    try:
        read = [file_and_sha(file) for file in files]
    except decode.Unusable:
        read = []
    if not read or joint_sha([digest for _, digest in read]) != sha:
        raise decode.Unusable(*CHANGED_NOTE)
    return [data for data, _ in read]


def forget(what: str) -> None:
    """Remove the caches of a source: files changed, and neither size nor time may tell."""
    for each in (what, f"{what}:masks", f"{Path(what)}:film", f"{Path(what)}:volume"):
        with contextlib.suppress(OSError):
            Memory(each).path.unlink(missing_ok=True)


def parallel(work: Callable[[T], R], things: Iterable[T], chunk: int = 256) -> Iterator[R]:
    """Map in threads (Pillow and hashlib release the GIL), in order, at most ``chunk`` results ahead.

    While the caller uses results, the threads go on. A task is several things, as handing over one has a price.
    """
    several = max(1, min(TASK, chunk // (5 * threads())))
    rest = iter(things)
    ahead: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(threads()) as pool:
        try:
            while part := list(islice(rest, several)):
                ahead.append(pool.submit(_each, work, part))
                if (len(ahead) + 1) * several > chunk:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for task in ahead:
                task.cancel()


def _each(work: Callable[[T], R], things: list[T]) -> list[R]:
    return [work(thing) for thing in things]
