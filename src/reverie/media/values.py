"""The range of stored values: which values of images become black and white in 8 bits.

One range holds for all images of a set: its limits are found over the set, never image by image, so that a dark image
stays dark. A ``Tally`` counts the values of one image; ``range_of`` decides from the tallies of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

Range = tuple[float, float]  # the values that become 0 and 255

USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))  # of floats, narrowest first
BITS = (8, 10, 12, 14, 16)  # of integers in 16 bits: cameras and scanners fill only some of them
LABELS = 31  # integers up to this, over a complete set, are masks or maps of labels
HAIR = 0.002  # of a range's width: rounding
OVERSHOOT, OVERSHOOT_SHARE = 0.25, 0.02  # beyond a range: resizing by a filter with negative weights
LOW_PART = 8  # times the largest float that 0..255 may reach: with less in it, images would be nearly black
OUTLIERS = 1e-4  # share of values at any distance: dead pixels
BLOCK = 1 << 20  # values converted at once


class Tally(NamedTuple):
    """Counts over one image.

    Attributes:
        kind: "uint8", "colour16" (the first bytes of 16-bit colours), "uint16", "int" or "float".
        low, high: of the finite values.
        nonzero: finite values other than 0.
        outside: of floats: how many of these lie outside of each of ``USUAL``.
        bad: values that are not finite.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    nonzero: int = 0
    outside: tuple[int, ...] = (0, 0, 0)
    bad: int = 0


class Decision(NamedTuple):
    """The range of a set.

    Attributes:
        range: that becomes 0..255.
        words: of the range and of what is outside it, for the report.
        usual: whether it is the full range of the type, or holds every float; else the report has a line on it.
        others: numbers of the images whose floats lie in another range than those of the set.
    """

    range: Range
    words: str
    usual: bool = True
    others: tuple[int, ...] = ()


FULL = {"uint8": (0.0, 255.0), "colour16": (0.0, 65535.0), "uint16": (0.0, 65535.0), "int": (0.0, 65535.0)}


def tally(values: np.ndarray, kind: str) -> Tally:
    """Count the values of one image, any shape, in blocks."""
    if kind != "float":
        return Tally(kind, float(values.min()), float(values.max()))
    low, high, count, bad, outside = np.inf, -np.inf, 0, 0, np.zeros(len(USUAL), np.int64)
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        finite = np.isfinite(block)
        if not finite.all():
            bad += int(finite.size - finite.sum())
            block = block[finite]
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            count += int(np.count_nonzero(block))
            if low < 0 or high > 1:
                outside += [int(np.count_nonzero((block < a) | (block > b))) for a, b in USUAL]
    return Tally(kind, low, high, count, tuple(outside.tolist()), bad) if low <= high else Tally(kind, bad=bad)


def range_of(tallies: Sequence[Tally]) -> Decision:
    """The range of a set whose images are all of one kind."""
    kind = tallies[0].kind
    low, high = min(t.low for t in tallies), max(t.high for t in tallies)
    if kind == "float":
        return _of_floats(tallies, low, high)
    full = FULL[kind]
    if low < full[0] or high > full[1]:
        return Decision((low, high), f"{low:g}..{high:g}, the range of the set,", usual=False)
    if kind == "colour16":
        high = high * 256 + 255 if high else 0.0
    if not high:
        return Decision(full, f"0..{full[1]:g}")
    if high <= LABELS:
        what = "0 and 1, a mask," if high == 1 else f"0..{high:g}, small integers such as labels,"
        return Decision((0.0, high), what, usual=False)
    if kind == "uint8":
        return Decision(full, "0..255")
    bits = next(bits for bits in BITS if high < 1 << bits)
    top = float((1 << bits) - 1)
    return Decision((0.0, top), f"0..{top:g} ({bits} bits; the largest is {high:,.0f})", usual=bits == 16)


def _of_floats(tallies: Sequence[Tally], low: float, high: float) -> Decision:
    count = sum(t.nonzero for t in tallies)
    for i, (a, b) in enumerate(USUAL):
        if b == 255 and 0 < high < b / LOW_PART:
            continue
        outside = sum(t.outside[i] for t in tallies)
        beyond = max(a - low, high - b, 0.0) / (b - a)
        few = beyond <= OVERSHOOT and outside <= OVERSHOOT_SHARE * count
        if outside and beyond > HAIR and not few and outside > OUTLIERS * count:
            continue
        name = f"{a:g}..{b:g}"
        if not outside:
            return Decision((a, b), name)
        strangers = (n for n, t in enumerate(tallies) if beyond > OVERSHOOT and 2 * t.outside[i] > t.nonzero)
        words = f"{name}, {outside:,} values beyond it ({low:g} to {high:g}) clipped,"
        return Decision((a, b), words, usual=False, others=tuple(strangers))
    return Decision((low, high), f"{low:g}..{high:g}, the range of the set,", usual=False)


def is_usual(decision: Decision) -> bool:
    """Whether floats lie in a range that says what they are, not only in that of their set."""
    return decision.range in USUAL


def of_one(tally: Tally) -> Range:
    """The range of an image by the rule of version 1 of the store, which knew one image only."""
    low, high = tally.low, tally.high
    if tally.kind == "float":
        return USUAL[0] if low >= 0 and high <= 1 else USUAL[2] if low >= 0 and high <= 255 else (low, high)
    full = FULL[tally.kind]
    return full if low >= full[0] and high <= full[1] else (low, high)


def to_8_bits(values: np.ndarray, ends: Range) -> np.ndarray:
    """Numbers of any shape to uint8: ``ends`` to 0 and 255, what is beyond clipped, what is not finite to 0."""
    low, scale = ends[0], 255.0 / (ends[1] - ends[0] if ends[1] > ends[0] else 1.0)
    if values.dtype == np.uint16:
        return _scaled(np.arange(65536), low, scale)[values]
    result = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        out[start : start + BLOCK] = _scaled(flat[start : start + BLOCK], low, scale)
    return result


def _scaled(values: np.ndarray, low: float, scale: float) -> np.ndarray:
    block = values.astype(np.float64)
    if not (finite := np.isfinite(block)).all():
        block[~finite] = low
    return ((block - low) * scale + 0.5).clip(0, 255).astype(np.uint8)


def stretch(image: Image.Image, ends: Range) -> Image.Image:
    """An 8-bit image with ``ends`` at 0 and 255."""
    table = to_8_bits(np.arange(256), ends).tolist()
    return image.point(table * len(image.getbands()))
