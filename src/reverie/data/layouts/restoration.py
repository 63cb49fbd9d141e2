"""Pairs of restoration: degraded images and clean ones, by words in the names of folders or files."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reverie.core.terminal import printable
from reverie.data.items import Item, split_in, split_words
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
        split, part: "train" or "held_out", and the folder that says so; None and "" without one.
        above, stem: the path and the name without the word.
    """

    side: int
    folder: str
    split: str | None
    part: str
    above: str
    stem: str


def _spot(path: str) -> Spot | None:
    folder, _, file = path.rpartition("/")
    split, part, above, mark = _folders(folder)
    if mark:
        return Spot(_SIDES[mark[1].lower()], mark[0], split, part, above, stem(file))
    marks = [*_WORD.finditer(stem(file))]
    if len(marks) != 1:
        return None
    rest = re.sub(r"[-_. ]+", "_", _WORD.sub("", stem(file))).strip("_")
    return Spot(_SIDES[marks[0][1].lower()], f"names with {marks[0][0]}", split, part, above, rest)


@lru_cache(maxsize=4096)
def _folders(path: str) -> tuple[str | None, str, str, tuple[str, str] | None]:
    """(split, its folder, the path without the last word of a side, (its folder, the word))."""
    parts = path.split("/") if path else []
    split, part = next(((mark[0], part) for part in parts if (mark := split_in(part))), (None, ""))
    for i in reversed(range(len(parts))):
        if marks := [*_WORD.finditer(parts[i])]:
            above = [*parts[:i], _WORD.sub("", parts[i]), *parts[i + 1 :]]
            return split, part, "/".join(filter(None, above)), (parts[i], marks[-1][1])
    return split, part, path, None


@dataclass(frozen=True)
class Partners:
    """The pairs of a tree.

    Attributes:
        pairs: degraded image -> (clean image, how many ends of the degraded one's name were cut).
        spots: of all images that have one.
    """

    pairs: dict[str, tuple[str, int]]
    spots: dict[str, Spot]

    @property
    def split(self) -> bool:
        """Whether folders say what is held out."""
        return {self.spots[clean].split for clean, _ in self.pairs.values()} >= {"train", "held_out"}

    @property
    def images(self) -> set[str]:
        """Those with a partner."""
        return {*self.pairs, *(clean for clean, _ in self.pairs.values())}

    @property
    def counted(self) -> str:
        """ "blur 20 / sharp 20"."""
        counts = Counter((spot.side, spot.folder) for spot in self.spots.values())
        some = [f"{printable(folder)} {n:,}" for (_, folder), n in sorted(counts.items())]
        return " / ".join(some[:4]) + f" and {len(some) - 4} more" * (len(some) > 4)


def _partners(tree: Tree) -> Partners:
    """Images without words in common names are partners, in their folders or else in their split.

    The degraded images of a folder add equally many ends to their names: so many that most clean images have a partner.
    """
    spots = {name: spot for name in tree.images if (spot := _spot(tree.below(name)))}
    near, far = dict[tuple[str, str], str](), dict[tuple[str | None, str], list[str]]()
    for name, spot in spots.items():
        if spot.side:
            near[spot.above, spot.stem] = name
            far.setdefault((spot.split, spot.stem), []).append(name)
    by_cut: dict[tuple[str | None, str], dict[int, dict[str, str]]] = {}  # split, folder -> ends cut -> pairs
    for name, spot in spots.items():
        parts = spot.above.split("/")
        folders = ["/".join(parts[:k]) for k in range(len(parts), -1, -1)]
        for cut, end in enumerate([] if spot.side else _ends(spot.stem)):
            several = far.get((spot.split, end), [])
            clean = next((near[folder, end] for folder in folders if (folder, end) in near), None)
            if clean := clean or (several[0] if len(several) == 1 else None):
                by_cut.setdefault((spot.split, spot.folder), {}).setdefault(cut, {})[name] = clean
    pairs: dict[str, tuple[str, int]] = {}
    for cuts in by_cut.values():
        best = max(sorted(cuts), key=lambda cut: len({*cuts[cut].values()}))
        pairs |= {name: (clean, best) for name, clean in cuts[best].items()}
    return Partners({name: pairs[name] for name in spots if name in pairs}, spots)


def _ends(name: str) -> list[str]:
    """The name, and what is left of it without one more end each."""
    names = [name]
    while cut := _TAIL.fullmatch(names[-1]):
        names.append(cut[1])
    return names


def _restoration(tree: Tree) -> Match:
    partners = _partners(tree)
    n, taken = len(tree.images), len(partners.images)
    if len(partners.pairs) < FEWEST or 2 * taken < n:
        return Match("no names of degraded and clean images, such as blur and sharp, hazy and clear, LR and HR")
    why = f"{taken:,} of {n:,} images are degraded or clean by their names, and have a partner"
    read = lambda: _read(tree, partners)  # noqa: E731
    if taken < ENOUGH * n:
        return Match(why, read, "on request")
    alike = list[float]()
    for cut in sorted({cut for _, cut in partners.pairs.values()}):
        halves = _halves(tree, [(name, clean) for name, (clean, k) in partners.pairs.items() if k == cut])
        if len(halves) < FEWEST:
            return Match(f"only {len(halves)} of the pairs can be read")
        same, other = likeness(np.stack(halves))
        if same < ALIKE or same < 2 * other:
            return Match(f"{why}, which shows something else (edges correlate by {same:.2f})", read, "on request")
        alike.append(same)
    return Match.yes(f"{why} that shows the same (edges correlate by {min(alike):.2f})", read)


def _halves(tree: Tree, pairs: list[tuple[str, str]]) -> list[np.ndarray]:
    """The edges of some pairs that can be decoded."""
    halves = []
    with decode.quiet():
        for pair in pairs[:: max(1, len(pairs) // LOOKED_AT)]:
            sides = [grey for name in pair if (grey := read_grey(tree.files[name])) is not None]
            if len(sides) == 2:
                halves.append(edges(np.stack(sides)))
    return halves


def _read(tree: Tree, partners: Partners) -> Reading:
    items: dict[str, Item] = {}
    problems, parts = list[Problem](), Counter[str]()
    pairs = [(clean, name, partners.spots[clean]) for name, (clean, _) in partners.pairs.items()]
    for clean, degraded, spot in sorted(pairs, key=lambda pair: pair[2].split != "held_out"):
        if partners.split and not spot.split:
            action = "skipped: a pair that is in the folder of no split"
            problems.append(Problem(printable(degraded), "outside-splits", action))
            continue
        key = degraded if clean in items else clean
        split = spot.split if partners.split else None
        items[key] = Item(printable(clean), tree.files[clean], None, "", split, tree.files[degraded])
        parts[spot.part] += partners.split
    taken = partners.images
    problems += [
        Problem(printable(name), "unpaired", "skipped: no other half by its name")
        for name in tree.images
        if name not in taken
    ]
    words = split_words(parts) if partners.split else ""
    title = f"pairs of degraded and clean images, {len(items):,} of {partners.counted}{words}: the clean is the image"
    return Reading(title, items, problems=problems)


RESTORATION = Layout(
    "restoration",
    "pairs by words: blur/ and sharp/, hazy/1_2.png and clear/1.png, 1_NOISY.png and 1_GT.png",
    _restoration,
)
