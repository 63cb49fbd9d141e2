"""Two images a sample: pairs in two folders, by names or side by side; and two piles without pairs."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from reverie.core.errors import argument
from reverie.core.terminal import count, printable
from reverie.data.items import HELD_OUT_NAMES, TRAIN_NAMES, File, Item, split_of
from reverie.data.layouts.base import Layout, Match, Reading
from reverie.data.layouts.likeness import ALIKE, FEWEST, LOOKED_AT, edges, likeness, read_grey
from reverie.data.layouts.splits import by_split, split_words
from reverie.data.tree import Tree, stem
from reverie.data.types import Problem
from reverie.media import decode

SIDES = (("a", "b"), ("source", "target"), ("input", "target"), ("input", "output"))  # the source first
ENOUGH = 0.9  # share of images with a partner, from which on two folders are pairs
_UNITED = re.compile(rf"({'|'.join([*TRAIN_NAMES, *HELD_OUT_NAMES])})[-_]?([ab])", re.IGNORECASE)
_MARKED = re.compile(
    rf"(.+)[-_.]({'|'.join(dict.fromkeys(side for pair in SIDES for side in pair))})", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Place:
    """Of an image in two piles.

    Attributes:
        side: 0: the source's.
        key: what its partner's name would be.
        folder: that decides split and side, such as trainA, train/A or source/train.
    """

    split: str | None
    side: int
    key: str
    folder: str


@dataclass(frozen=True)
class Piles:
    """Two folders of images, in each split.

    Attributes:
        places: path -> its spot.
        outside: images in neither.
        united: the folders' names say split and side, as trainA and testB of CycleGAN's published sets.
    """

    places: dict[str, Place]
    outside: list[str]
    united: bool = False

    @property
    def partners(self) -> list[tuple[str, str]]:
        """(target, source) of equal keys, in the order of the targets."""
        sources = {(spot.split, spot.key): name for name, spot in self.places.items() if spot.side == 0}
        targets = [(name, (spot.split, spot.key)) for name, spot in self.places.items() if spot.side == 1]
        return [(name, sources[key]) for name, key in targets if key in sources]

    @property
    def share(self) -> float:
        """Of the images of the larger side, those with a partner."""
        return len(self.partners) / max(Counter(spot.side for spot in self.places.values()).values())

    @property
    def counted(self) -> str:
        """ "trainA 1,067 / trainB 1,334"."""
        counts = Counter((spot.split == "held_out", spot.side, spot.folder) for spot in self.places.values())
        return " / ".join(f"{printable(key[2])} {counts[key]:,}" for key in sorted(counts))


def piles_of(tree: Tree) -> Piles | str:
    """The two piles of a tree, or why there are none."""
    heads = {tree.below(name).partition("/")[0] for name in tree.images if "/" in tree.below(name)}
    united = {head: match for head in heads if (match := _UNITED.fullmatch(head))}
    sides = {head: (split_of(match[1]), "ab".index(match[2].lower())) for head, match in united.items()}
    if {("train", 0), ("train", 1)} <= {*sides.values()}:
        places, outside = dict[str, Place](), []
        for name in tree.images:
            head, _, rest = tree.below(name).partition("/")
            if head in sides:
                places[name] = Place(*sides[head], _key(rest, "ab"), head)
            else:
                outside.append(name)
        return Piles(places, outside, united=True)
    places, outside = {}, []
    for split, prefix, names, _ in by_split(tree, tree.images, []):
        here = _two_sides({name: name[len(prefix) :] for name in names}, split, tree.below(prefix))
        if isinstance(here, str):
            return here
        places |= here
    return Piles(places, [name for name in tree.images if name not in places])


def _two_sides(names: dict[str, str], split: str | None, above: str) -> dict[str, Place] | str:
    """The places of images (path -> path below the split's folder); without those outside of both sides."""
    heads = {rest.partition("/")[0] for rest in names.values() if "/" in rest}
    lower = {head.lower(): head for head in heads}
    pair = next((pair for pair in SIDES if {*pair} <= lower.keys()), None)
    if pair is None:
        return "no folders A and B, source and target, or input and output"
    if others := sorted(heads - {lower[side] for side in pair}):
        also = f"{len(others)} others" if len(others) > 2 else " and ".join(map(printable, others))
        return f"beside {lower[pair[0]]} and {lower[pair[1]]} there are {also}: classes"
    inner = {rest.split("/")[1] for rest in names.values() if rest.count("/") > 1}
    by_inner = split is None and {split_of(name) for name in inner} == {"train", "held_out"}
    places: dict[str, Place] = {}
    for name, rest in names.items():
        head, slash, inside = rest.partition("/")
        side = {lower[side]: i for i, side in enumerate(pair)}.get(head if slash else "")
        if side is None:
            continue
        part, folder = split, above + head
        if by_inner and (part := split_of(inside.partition("/")[0])) is not None:
            inner_folder, _, inside = inside.partition("/")
            folder += f"/{inner_folder}"
        places[name] = Place(part, side, _key(inside, pair), folder)
    return places


def _key(inside: str, sides: str | tuple[str, ...]) -> str:
    """A path without its ending and its side's own mark: 1_A.jpg and 1_B.png are partners."""
    return re.sub(rf"[-_]({'|'.join(sides)})$", "", stem(inside), flags=re.IGNORECASE)


# Pairs and piles in folders


def _pairs(tree: Tree) -> Match:
    piles = piles_of(tree)
    if isinstance(piles, str):
        return Match(piles)
    n, share = len(piles.partners), piles.share
    if not n:
        return Match("no image of one folder has the name of one in the other")
    why = f"{n} of {max(n, round(n / share))} images have a partner of the same name in the other folder"
    if share >= ENOUGH and not piles.united:
        return Match.yes(why, lambda: _read_pairs(tree, piles))
    if piles.united:
        return Match(f"{why} and may be pairs", lambda: _read_pairs(tree, piles), "on request")
    choices = f"{argument('layout', 'pairs')} takes these pairs, {argument('layout', 'unpaired')} two piles without"
    return Match(f"{why}: {choices} pairs", lambda: _read_pairs(tree, piles), "ask")


def _unpaired(tree: Tree) -> Match:
    piles = piles_of(tree)
    if isinstance(piles, str):
        return Match(piles)
    if piles.united:
        return Match.yes("folders of a split and a side", lambda: _read_unpaired(tree, piles))
    if not piles.partners:
        return Match.yes("two folders without a name in common", lambda: _read_unpaired(tree, piles))
    both = f"{count(len(piles.partners), 'name')} in both folders"
    return Match(both, lambda: _read_unpaired(tree, piles), "possible")


def _read_pairs(tree: Tree, piles: Piles) -> Reading:
    pairs = piles.partners
    items = {
        name: Item(printable(name), tree.files[name], None, "", piles.places[name].split, tree.files[source])
        for name, source in _held_out_first(pairs, piles)
    }
    taken = {name for pair in pairs for name in pair}
    problems = [
        Problem(printable(name), "unpaired", "skipped: no image of the same name in the other folder")
        for name in tree.images
        if name in piles.places and name not in taken
    ]
    title = f"pairs of two folders, {len(pairs):,} of {piles.counted}"
    return Reading(title, items, problems=problems + _outside(piles))


def _held_out_first(pairs: list[tuple[str, str]], piles: Piles) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: piles.places[pair[0]].split == "train")


def _read_unpaired(tree: Tree, piles: Piles) -> Reading:
    ordered = sorted(piles.places, key=lambda name: piles.places[name].split == "train")
    items = {
        name: Item(printable(name), tree.files[name], "AB"[spot.side], "", spot.split)
        for name in ordered
        for spot in [piles.places[name]]
    }
    title = "CycleGAN folders" if piles.united else "two piles"
    return Reading(f"{title}, {piles.counted}, unpaired", items, problems=_outside(piles))


def _outside(piles: Piles) -> list[Problem]:
    return [Problem(printable(name), "outside-splits", "skipped: in neither folder") for name in piles.outside]


UNPAIRED = Layout("unpaired", "trainA/, trainB/, testA/, testB/; or A/ and B/ without names in common", _unpaired)
PAIRS = Layout("pairs", "A/x.png and B/x.png are a pair (also source/ and target/, input/ and output/)", _pairs)

# Pairs in one folder


def _names(tree: Tree) -> Match:
    best: dict[str, str] = {}
    ends = {name: match for name in tree.images if (match := _MARKED.fullmatch(stem(name)))}
    for pair in SIDES:
        marked = _marked(ends, pair)
        best = marked if len(marked) > len(best) else best
    share = 2 * len(best) / max(1, len(tree.images))
    if not best:
        return Match("no names that end in _source and _target, _A and _B, _input and _output")
    why = f"{2 * len(best)} of {len(tree.images)} images may be pairs by the ends of their names, such as _A and _B"
    return Match(why, lambda: _read_names(tree, best), "yes" if share >= ENOUGH else "on request")


def _marked(ends: dict[str, re.Match[str]], pair: tuple[str, str]) -> dict[str, str]:
    """Target -> source, of names in one folder that end in the two marks."""
    sides: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for name, match in ends.items():
        if (mark := match[2].lower()) in pair:
            sides[mark == pair[1]].setdefault(match[1], name)
    return {target: sides[0][key] for key, target in sides[1].items() if key in sides[0]}


def _read_names(tree: Tree, partner: dict[str, str]) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, [name for name in tree.images if name in partner], problems)
    items = {
        name: Item(printable(name), tree.files[name], None, "", split, tree.files[partner[name]])
        for split, _, names, _ in branches
        for name in names
    }
    taken = {*partner, *partner.values()}
    problems += [
        Problem(printable(name), "unpaired", "skipped: no other half by its name")
        for name in tree.images
        if name not in taken
    ]
    splits = split_words(branches)
    return Reading(f"pairs by names, {len(items):,}{splits}", items, problems=problems, splits=splits)


NAMES = Layout("names", "x_source.png and x_target.png are a pair (also _A and _B, _input and _output)", _names)

# Pairs in one image


def _side_by_side(tree: Tree) -> Match:
    some = tree.images[:: max(1, len(tree.images) // LOOKED_AT)]
    with decode.quiet():
        sizes = {name: size for name in some if (size := _size(tree.files[name]))}
        for name, (width, height) in sizes.items():
            if width != 2 * height:
                odd = f"{printable(name)} has {width} x {height} pixels"
                return Match(f"not every image is twice as wide as high: {odd}")
        if len(sizes) < FEWEST:
            return Match(f"only {count(len(sizes), 'image')} can be read")
        pairs = [np.split(grey, 2, axis=1) for name in some if (grey := read_grey(tree.files[name], 2)) is not None]
    same, other = likeness(np.stack([edges(np.stack(halves)) for halves in pairs]))
    read = partial(_read_halves, tree)
    if same >= ALIKE and same >= 2 * other:
        return Match.yes(f"all are twice as wide as high, and their halves agree (edges correlate by {same:.2f})", read)
    return Match("every image is twice as wide as high, and may be two joined halves of a pair", read, "on request")


def _size(file: File) -> tuple[int, int] | None:
    """(width, height) in pixels by its header; None: it has none within reach, so intake will say what is wrong."""
    try:
        return decode.inspect(file.head())
    except (OSError, decode.Unusable):
        return None


def _read_halves(tree: Tree) -> Reading:
    problems: list[Problem] = []
    branches = by_split(tree, tree.images, problems)
    items = {}
    for split, _, names, _ in branches:
        for name in names:
            left, right = (replace(tree.files[name], half=half) for half in ("left", "right"))
            items[name] = Item(printable(name), right, None, "", split, left)
    title = (
        f"pairs side by side, {len(items):,}{split_words(branches)}: the left half is the source, the right the image"
    )
    return Reading(title, items, problems=problems)


SIDE_BY_SIDE = Layout("side-by-side", "each image is a pair: the source on its left half", _side_by_side)
