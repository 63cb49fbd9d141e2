"""Films to clips: video files, animated images and folders of frames, cut into windows of frames.

A film is decoded frame by frame, and each frame resized as it comes, so that memory does not grow with its length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from reverie.core.cache import Progress
from reverie.core.terminal import count, printable
from reverie.data.intake import Seen, joint_sha, parallel
from reverie.data.items import File, Item, natural_key
from reverie.data.members import (
    check_enough,
    files_of,
    first_by_content,
    inspect_files,
    list_members,
    unless_changed,
    without_copies,
)
from reverie.data.options import OpenOptions
from reverie.data.plan import Decoded, Plan, make_plan
from reverie.data.records import unusable, usable
from reverie.data.tree import suffix
from reverie.data.types import Problem
from reverie.media import decode
from reverie.media.films import VIDEO_SUFFIXES, animation_frames, animation_size, is_video, video_frames, video_size

SMALL_FILM = 1 << 24  # bytes of clips, up to which a film is decoded whole, beside others
FILMS_AHEAD = 4
_ROOT = "(frames)"  # the name of a film whose frames are in the source itself


@dataclass(frozen=True)
class ClipForm:
    """The form of clips: ``frames`` frames of the form ``frame``, every ``stride``-th of the film."""

    frame: decode.Form
    frames: int
    stride: int

    @property
    def channels(self) -> int:
        return self.frame.channels

    @property
    def array(self) -> tuple[int, ...]:
        """(T, H, W, C)."""
        return (self.frames, *self.frame.array)

    def as_dict(self) -> dict[str, Any]:
        size = [self.frames, *self.frame.shape]
        return self.frame.as_dict() | {"medium": "video", "size": size, "stride": self.stride}

    def windows(self, length: int) -> list[range]:
        """The frames of each clip of a film of ``length`` frames; clips do not overlap."""
        span = (self.frames - 1) * self.stride + 1
        starts = range(0, length - span + 1, self.frames * self.stride)
        return [range(start, start + span, self.stride) for start in starts]


def plan_clips(
    source: Path, options: OpenOptions, part: str | None, progress: Progress | None
) -> tuple[Plan, list[Problem], str]:
    """The plan of a folder of films, or of one film; the problems; and what it is read as.

    A file of several frames is a film. Still images are the frames of a film that is their folder, in natural order,
    unless a film is beside them.

    Raises:
        TooFew: too few clips, with the report.
    """
    problems: list[Problem] = []
    files = files_of(source, problems)
    candidates = {name: file for name, file in files.items() if suffix(name) in VIDEO_SUFFIXES | decode.SUFFIXES}
    inspected = inspect_files(source, "film", candidates, _inspect, problems, progress)
    members: dict[str, tuple[File, ...]] = {name: (files[name],) for name, (_, (*_, n)) in inspected.items() if n > 1}
    films = {str(PurePosixPath(name).parent) for name in members}
    for folder, stills in groupby(sorted(inspected.keys() - members.keys(), key=_frame_order), key=_folder):
        names = list(stills)
        if folder in films:
            action = f"ignored: {count(len(names), 'still')} beside films"
            problems.append(Problem(printable(f"{folder}/"), "ignored", action))
        else:
            members[_ROOT if folder == "." else folder] = tuple(files[name] for name in names)
    listing = list_members(members, candidates, files, problems, "film", options)

    frames, stride = options.clip
    height, width = options.frame_size(_common({size[:2] for _, size in inspected.values()}, problems))
    form = ClipForm(
        decode.Form((height, width), options.channels or 3, options.fit, options.background), frames, stride
    )
    by_path = {file.path: inspected[name] for name, file in candidates.items() if name in inspected}
    shas, lengths = dict[str, str](), dict[str, int]()
    for item in listing.items:
        path, parts = item.file.path, [by_path[file.path][0] for file in item.frames]
        shas[path] = joint_sha(parts or [by_path[path][0]])
        lengths[path] = len(parts) or by_path[path][1][2]
    seen, left = list[Seen](), 0
    for item in without_copies(listing.items, shas, options, problems):
        sha, length, size = shas[item.file.path], lengths[item.file.path], by_path[item.file.path][1]
        windows = form.windows(length)
        if not windows:
            need = (frames - 1) * stride + 1
            action = f"skipped: {count(length, 'frame')}, and a clip of {frames} with stride {stride} needs {need}"
            problems.append(Problem(item.name, "short-film", action))
        left += max(0, length - len(windows) * frames * stride) if windows else 0
        for window in windows:
            clip = replace(item, name=f"{item.name}:{window.start}")
            seen.append(Seen(clip, f"{sha}:{window.start:09d}", "", size[:2], window))
    several = len({row.film for row in seen})
    cut = f"cut: {count(several, 'film')} into {count(len(seen), 'clip')} of {frames} frames, stride {stride}"
    problems.append(Problem("*", "clips", f"{cut}; {count(left, 'frame')} at the films' ends in no clip"))
    seen, seconds_end = first_by_content(seen, options, problems, "clip")
    check_enough(str(source), seen, problems, "clip", part)
    decoded = partial(decoded_clips, form=form)
    chosen = (options.channels is None, options.held_out, listing.attributes, options.keep_classes)
    plan = make_plan(seen, form, *chosen, medium="video", decoded=decoded, seconds_end=seconds_end)
    return plan, problems, listing.read_as


def _inspect(path: str) -> list[Any]:
    """[width, height, frames] of a film or a still. Raises Unusable, and ReverieError if the extra is missing."""
    if not is_video(path):
        return [*animation_size(Path(path).read_bytes())]
    width, height, number = video_size(path)
    if width * height > decode.PIXEL_LIMIT:
        raise decode.Unusable("decompression-bomb", f"skipped: its frames have {width} x {height} pixels")
    return [width, height, number]


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _frame_order(name: str) -> tuple[Any, ...]:
    return _folder(name), natural_key(name)


def _common(sizes: set[tuple[int, int]], problems: list[Problem]) -> tuple[int, int] | None:
    """The (height, width) of all films if they agree."""
    if len(sizes) < 2:
        return next(((height, width) for width, height in sizes), None)
    widths, heights = zip(*sizes, strict=True)
    span = f"{min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
    problems.append(Problem("*", "mixed-sizes", f"converted: {span}; all resized to one size"))
    return None


# Decoding


def decoded_clips(rows: Sequence[Seen], form: ClipForm) -> Iterator[Decoded]:
    """Records and arrays of clips, of which those of a film are neighbours in their order.

    Small films are decoded side by side, a long one by itself, clip by clip.
    """

    def clips_of(film: list[Seen]) -> Sequence[Decoded] | Iterator[Decoded]:
        small = len(film) * np.prod(form.array) <= SMALL_FILM
        cut = zip(film, _cut(film, form), strict=True)
        clips = (unless_changed(row, clip) if row is film[-1] else clip for row, clip in cut)
        return list(clips) if small else clips

    films = [list(clips) for _, clips in groupby(rows, key=lambda row: row.film)]
    for clips in parallel(clips_of, films, FILMS_AHEAD):
        yield from clips


def _cut(clips: list[Seen], form: ClipForm) -> Iterator[Decoded]:
    """The clips of one film. A conversion is noted once for the film."""
    noted: dict[decode.Note, None] = {}
    with _reader(clips[0].item, form.frame) as frame:
        for clip in clips:
            array, notes = np.zeros(form.array, np.uint8), dict[decode.Note, None]()
            try:
                for position, number in enumerate(clip.frames):
                    array[position], new = frame(number)
                    notes |= dict.fromkeys(new)
            except decode.Unusable as error:
                yield unusable([(error.kind, error.action)]), [np.zeros(form.array, np.uint8)]
                continue
            yield usable([note for note in notes if note not in noted]), [array]
            noted |= notes


Reader = Callable[[int], tuple[np.ndarray, list[decode.Note]]]


@contextlib.contextmanager
def _reader(item: Item, form: decode.Form) -> Iterator[Reader]:
    """A function from the number of a frame, rising from call to call, to the frame in this form; raises Unusable."""
    if item.frames:
        yield lambda number: _still(item.frames[number], form)
        return
    with contextlib.closing(_frames(item.file)) as stream:
        numbered = enumerate(stream)

        def read(number: int) -> tuple[np.ndarray, list[decode.Note]]:
            for index, image in numbered:
                if index == number:
                    notes: list[decode.Note] = []
                    return decode.fit(decode.flatten(image, form.background, notes), form), notes
            raise decode.Unusable("truncated", f"skipped: the film ends before frame {number}")

        yield read


def _still(file: File, form: decode.Form) -> tuple[np.ndarray, list[decode.Note]]:
    try:
        data = file.read()
    except OSError as error:
        raise decode.Unusable("unreadable", f"skipped: cannot be read ({error.strerror or error})") from None
    decoded = decode.decode_of_set(data, form, {}, suffix(file.path))  # one range for all frames: that of the type
    return decoded.array, decoded.notes


def _frames(file: File) -> Generator[Image.Image, None, None]:
    if is_video(file.path):
        yield from video_frames(file.path)
        return
    try:
        data = file.read()
    except OSError as error:
        raise decode.Unusable("unreadable", f"skipped: cannot be read ({error.strerror or error})") from None
    yield from animation_frames(data)
