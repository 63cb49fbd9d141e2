"""Pairs of restoration: degraded images and clean ones, by words in the names of folders or files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reverie.core.terminal import printable
from reverie.data.items import Item, split_in
from reverie.data.layouts.base import Layout, Match, Reading
from reverie.data.layouts.likeness import ALIKE, FEWEST, LOOKED_AT, edges, likeness, read_grey
from reverie.data.layouts.pairs import ENOUGH
from reverie.data.tree import Tree, stem
from reverie.data.types import Problem
from reverie.media import decode

DEGRADED = ("blur", "blurry", "blurred", "haze", "hazy", "foggy", "low", "lq", "lr", "noise", "noisy", "rain", "rainy")
CLEAN = ("clean", "clear", "gt", "groundtruth", "high", "hq", "hr", "norain", "sharp", "target")
_SIDES = {**dict.fromkeys((*DEGRADED, "input", "degraded"), 0), **dict.fromkeys(CLEAN, 1)}
_WORD = re.compile(
    rf"(?:^|(?<=[-_. ]))({'|'.join(_SIDES)})(?:bicx\d|mod\d+|\d)?(?=$|[-_. ])", re.IGNORECASE
)  # also LRbicx4 and GTmod12
_TAIL = re.compile(r"(.+)(?:[-_ ][^-_ ]*|(?<=\d)x\d)")  # what a degraded image's name may add: 1_2_0.9, 0801x4


@dataclass(frozen=True)
class Spot:
    """Of an image.

    Attributes:
        side: 0: degraded, 1: clean.
        folder: with the word, for the report.
        above, stem: the path and the name without the word.
    """

    side: int
    folder: str
    split: str | None
    above: str
    stem: str


def _spot(path: str) -> Spot | None:
    folder, _, file = path.rpartition("/")
    split, above, mark = _folders(folder)
    if mark:
        return Spot(_SIDES[mark[1].lower()], mark[0], split, above, stem(file))
    marks = [*_WORD.finditer(stem(file))]
    if len(marks) != 1:
        return None
    rest = _WORD.sub("", stem(file))
    return Spot(
        _SIDES[marks[0][1].lower()], f"names with {marks[0][0]}", split, above, re.sub(r"[-_. ]+", "_", rest).strip("_")
    )


@lru_cache(maxsize=4096)
def _folders(path: str) -> tuple[str | None, str, tuple[str, str] | None]:
    """(split, the path without the last word of a side, (its folder, the word))."""
    parts = path.split("/") if path else []
    split = next((mark[0] for part in parts if (mark := split_in(part))), None)
    for i in reversed(range(len(parts))):
        if marks := [*_WORD.finditer(parts[i])]:
            above = [*parts[:i], _WORD.sub("", parts[i]), *parts[i + 1 :]]
            return split, "/".join(filter(None, above)), (parts[i], marks[-1][1])
    return split, path, None


@dataclass(frozen=True)
class Partners:
    """The pairs of a tree.

    Attributes:
        pairs: (clean image, degraded image).
        spots: of all images that have one.
    """

    pairs: list[tuple[str, str]]
    spots: dict[str, Spot]

    @property
    def split(self) -> bool:
        """Whether folders say what is held out."""
        return {self.spots[clean].split for clean, _ in self.pairs} == {"train", "held_out"}

    @property
    def counted(self) -> str:
        """ "blur 20 / sharp 20"."""
        counts = Counter((spot.side, spot.folder) for spot in self.spots.values())
        some = [f"{printable(folder)} {n:,}" for (_, folder), n in sorted(counts.items())]
        return " / ".join(some[:4]) + f" and {len(some) - 4} more" * (len(some) > 4)


def _partners(tree: Tree) -> Partners:
    """Images without words in common names are partners, in their folders or else in their split."""
    spots = {name: spot for name in tree.images if (spot := _spot(tree.below(name)))}
    near, far = dict[tuple[str, str], str](), dict[tuple[str | None, str], list[str]]()
    for name, spot in spots.items():
        if spot.side:
            near[spot.above, spot.stem] = name
            far.setdefault((spot.split, spot.stem), []).append(name)
    pairs = []
    for name, spot in spots.items():
        end = "" if spot.side else spot.stem
        parts = spot.above.split("/")
        folders = ["/".join(parts[:k]) for k in range(len(parts), -1, -1)]
        while end:
            several = far.get((spot.split, end), [])
            clean = next((near[folder, end] for folder in folders if (folder, end) in near), None)
            if clean := clean or (several[0] if len(several) == 1 else None):
                pairs.append((clean, name))
                break
            cut = _TAIL.fullmatch(end)
            end = cut[1] if cut else ""
    return Partners(pairs, spots)


def _restoration(tree: Tree) -> Match:
    partners = _partners(tree)
    n, pairs = len(tree.images), partners.pairs
    taken = {name for pair in pairs for name in pair}
    if len(pairs) < FEWEST or len(taken) < ENOUGH * n:
        return Match("no names of degraded and clean images, such as blur and sharp, hazy and clear, LR and HR")
    why = f"{len(taken):,} of {n:,} images are degraded or clean by their names, and have a partner"
    read = lambda: _read(tree, partners)  # noqa: E731
    halves = []
    with decode.quiet():
        for clean, degraded in pairs[:: max(1, len(pairs) // LOOKED_AT)]:
            sides = [grey for name in (degraded, clean) if (grey := read_grey(tree.files[name])) is not None]
            if len(sides) == 2:
                halves.append(edges(np.stack(sides)))
    if len(halves) < FEWEST:
        return Match(f"only {len(halves)} of the pairs can be read")
    same, other = likeness(np.stack(halves))
    if same >= ALIKE and same >= 2 * other:
        return Match.yes(f"{why} that shows the same (edges correlate by {same:.2f})", read)
    return Match(f"{why}, which shows something else (edges correlate by {same:.2f})", read, "on request")


def _read(tree: Tree, partners: Partners) -> Reading:
    items: dict[str, Item] = {}
    for clean, degraded in sorted(partners.pairs, key=lambda pair: partners.spots[pair[0]].split != "held_out"):
        split = partners.spots[clean].split if partners.split else None
        key = degraded if clean in items else clean
        items[key] = Item(printable(clean), tree.files[clean], None, "", split, tree.files[degraded])
    taken = {name for pair in partners.pairs for name in pair}
    problems = [
        Problem(printable(name), "unpaired", "skipped: no other half by its name")
        for name in tree.images
        if name not in taken
    ]
    splits = Counter(item.split for item in items.values() if item.split)
    parts = "".join(f", {name.replace('_', ' ')} {splits[name]:,}" for name in ("train", "held_out") if splits)
    title = f"pairs of degraded and clean images, {len(items):,} of {partners.counted}{parts}: the clean is the image"
    return Reading(title, items, problems=problems)


RESTORATION = Layout(
    "restoration",
    "pairs by words: blur/ and sharp/, hazy/1_2.png and clear/1.png, 1_NOISY.png and 1_GT.png",
    _restoration,
)
