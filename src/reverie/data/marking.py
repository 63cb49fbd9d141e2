"""Which values of masks mark a region: decided over all masks of a set, and stated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from reverie.core import cache as home
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.data.columns import name_rows
from reverie.data.intake import Memory, Seen, file_and_sha, parallel, read_again
from reverie.data.items import File, Item
from reverie.data.types import Problem
from reverie.media import decode, masks
from reverie.media.values import HAIR

FEW = 31  # the largest label number of grey maps of labels; values above it are brightness
DIM = 200  # masks of brightness have some above
HALF = 128
VOID = 255  # of maps of labels: pixels that annotators left out
TRIMAP = {1: "the object", 2: "background", 3: "border"}  # of Oxford-IIIT Pet

Region = tuple[np.ndarray, list[decode.Note], float | None]  # of a row: its array, notes, and share; None: no mask


@dataclass(frozen=True)
class Marking:
    """The rule of a set.

    Attributes:
        marked: kind of values, as in ``media.masks.Values`` -> the values that mark.
        words: the rule, for the report.
    """

    marked: dict[str, frozenset[int]]
    words: str

    def as_json(self) -> dict[str, str]:
        """For keys and fingerprints."""
        return {kind: masks.to_hex(values) for kind, values in sorted(self.marked.items())}


def look_at_masks(
    seen: list[Seen],
    source: str,
    chosen: tuple[int, ...] | None,
    problems: list[Problem],
    max_pixels: int,
    progress: home.Progress | None = None,
) -> tuple[list[Seen], Marking | None]:
    """Read the masks of images, and decide which of their values mark. Without any mask, nothing is done.

    Args:
        chosen: the values that mark, by the user.
        problems: images without a usable mask, and the rule, are appended.

    Returns:
        the images with the digests of their masks, and the rule.
    """
    if not any(row.item.masks for row in seen):
        return seen, None
    files = list({_key(file): file for row in seen for file in row.item.masks}.values())
    memory, results = Memory(f"{source}:masks", inspect=partial(_inspect, max_pixels=max_pixels)), {}
    with decode.quiet():
        for i, (file, result) in enumerate(zip(files, parallel(memory.inspected, files), strict=True)):
            results[_key(file)] = result
            if progress and (i % 256 == 255 or i + 1 == len(files)):
                progress(i + 1, len(files), "reading masks")
    memory.save()
    rows, by_kind = [], dict[str, set[int]]()
    for row in seen:
        usable, digests = [], []
        for file in row.item.masks:
            result = results[_key(file)]
            if isinstance(result, decode.Unusable):
                action = result.action.removeprefix("skipped: ")
                problems.append(Problem(row.item.name, masks.NO_MASK, f"used, without its mask: {action}"))
                continue
            digest, (_, _, kind, values) = result
            usable.append(file)
            digests.append(digest)
            by_kind.setdefault(kind, set()).update(masks.from_hex(values))
        if not row.item.masks:
            problems.append(Problem(row.item.name, masks.NO_MASK, "used: it has no mask, so nothing is marked"))
        item: Item = replace(row.item, masks=tuple(usable))
        rows.append(replace(row, item=item, mask_shas=tuple(digests)))
    if not by_kind:
        return rows, None
    marking = decide(by_kind, chosen)
    problems.append(Problem("*", "mask-values", f"used: {marking.words}"))
    return rows, marking


def _key(file: File) -> tuple[str, int]:
    return file.path, file.offset


def _inspect(file: File, max_pixels: int) -> list[Any]:
    """[sha256, width, height, kind, its values]. Raises Unusable."""
    data, digest = file_and_sha(file)
    values = masks.read_values(data, max_pixels)
    height, width = values.pixels.shape
    return [digest, width, height, values.kind, masks.to_hex(values.distinct)]


def decide(by_kind: dict[str, set[int]], chosen: Iterable[int] | None = None) -> Marking:
    """The rule for values of each kind, or for the values that the user chose.

    Raises:
        UsageError: no mask has any of these.
    """
    rules = {kind: _rule(kind, by_kind[kind]) for kind in sorted(by_kind)}
    if chosen is not None:
        numbers, present = sorted({*chosen}), set[int]().union(*by_kind.values())
        if not present & {*numbers}:
            have = "; ".join(_named(kind, values) for kind, values in sorted(by_kind.items()))
            raise UsageError(
                f"{argument('mask_values', ','.join(map(str, numbers)))}: no mask has that; there are {have}."
            )
        name = ", ".join(map(str, numbers))
        rules = {
            kind: (frozenset(numbers), f"{_named(kind, values)}, of which {name} mark as asked")
            for kind, values in sorted(by_kind.items())
        }
    telling = [kind for kind in rules if by_kind[kind] != {0}] or [*rules]  # empty masks tell nothing
    words = "; ".join(rules[kind][1] for kind in telling)
    return Marking({kind: values for kind, (values, _) in rules.items()}, words)


def mark_rows(values: np.ndarray, what: str, problems: list[Problem]) -> np.ndarray:
    """Masks of an array, rows first, by the rule of grey files: uint8, 255 where marked; appends the rule.

    Floats are fractions, in [0, 1], or whole numbers; whole numbers reach from 0 to 255, or to 65535.

    Raises:
        ReverieError: other values, or rows of 0 and 1 beside rows of 0 and 255.
    """
    least, most = float(values.min(initial=0)), float(values.max(initial=0))
    integral = values.dtype.kind in "iub" or all(np.array_equal(row, np.rint(row)) for row in values)
    if not integral and least >= -HAIR and most <= 1 + HAIR:
        scale = 255.0
    elif least >= 0 and most <= (65535 if integral else 255):
        scale = 1 / 257 if most > 255 else 1.0
    else:
        raise ReverieError(f"{what} have values from {least:g} to {most:g}; 0 and 1, or 0 to 255, are needed.")
    grey = np.empty(values.shape, np.uint8)
    for row, pixels in zip(grey, values, strict=True):
        row[...] = np.rint(pixels * scale).clip(0, 255)
    marks = [{*np.flatnonzero(np.bincount(row.ravel(), minlength=256)[1:]).tolist()} for row in grey]  # less 1
    numbered = [i for i, row in enumerate(marks) if row and max(row) < FEW]
    full = [i for i, row in enumerate(marks) if row == {VOID - 1}]
    if numbered and full and not any(VOID - 1 in row and min(row) < FEW for row in marks):
        both = f"0 and 255, of {name_rows(numbered)} 0 to {max(max(marks[i]) for i in numbered) + 1}"
        raise ReverieError(f"{what} of {name_rows(full)} are {both}. Convert all to one range.")
    distinct = {0, *(value + 1 for row in marks for value in row)}
    marked, words = _rule("grey", distinct)
    problems.append(Problem("*", "mask-values", f"used: {words.partition(';')[0]}"))
    return (np.isin(np.arange(256), [*marked]).astype(np.uint8) * 255)[grey]


def _rule(kind: str, values: set[int]) -> tuple[frozenset[int], str]:
    """The values that mark, and the rule in words."""
    name = _named(kind, values)
    marks = argument("mask_values", "A,B")
    if kind == "index":
        return frozenset(range(1, VOID)), f"{name}: all but 0 (background) and 255 (void) mark; {marks} choose"
    if len(values - {0}) <= 1:
        return frozenset(range(1, 256)), f"{name}: marked where not 0"
    if kind == "grey" and values == {*TRIMAP}:
        meaning = ", ".join(f"{number} is {what}" for number, what in TRIMAP.items())
        return frozenset({1}), f"{name}, a trimap: {meaning}, and 1 marks"
    if kind == "grey" and (max(values - {VOID}) <= FEW or max(values) < DIM):
        return frozenset(range(1, VOID)), f"{name}: all but 0 (background) and 255 (void) mark; {marks} choose"
    return frozenset(range(HALF, 256)), f"{name}: marked from half, {HALF}, on"


def _named(kind: str, values: set[int]) -> str:
    noun = {"grey": "grey values", "index": "indices of palettes", "alpha": "opacity"}.get(kind, "colours")
    numbers = sorted(values)
    some = ", ".join(map(str, numbers[:12])) if len(numbers) <= 12 else f"{numbers[0]} to {numbers[-1]}"
    by = ", by their brightest channel" if kind == "colour" else ""
    return f"{noun} {some}{by}"


def region_of(row: Seen, image: bytes, form: decode.Form, marking: Marking, max_pixels: int) -> Region:
    """The marked region of an image, with its geometry. Raises Unusable: a mask has changed since the survey."""
    if not row.item.masks:
        return np.zeros((*form.shape, 1), np.uint8), [], None
    files = [read_again([file], sha)[0] for file, sha in zip(row.item.masks, row.mask_shas, strict=True)]
    region, notes = masks.decode_masks(files, image, form, marking.marked, max_pixels, row.item.file.half)
    usable = sum(kind == masks.NO_MASK for kind, _ in notes) < len(files)
    return region, notes, float(region.mean() / 255) if usable else None


def coverage(shares: Sequence[float | None]) -> Problem:
    """The report's line on how much is marked; ``shares`` of each image, None without a mask."""
    some = [share for share in shares if share is not None]
    mean = f"{sum(some) / len(some):.1%}" if some else "none"
    empty = sum(share == 0 for share in some)
    nothing = f", nothing in {empty:,} of them" if empty else ""
    full = sum(share == 1 for share in some)
    everything = f", everything in {full:,}: mask values choose what marks" if full else ""
    action = f"used: masks of {len(some):,} of {len(shares):,} images, {mean} marked{nothing}{everything}"
    return Problem("*", "masks", action)
