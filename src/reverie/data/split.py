"""Which pictures are held out: decided by their content, with near duplicates kept on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from reverie.data.types import Problem

NEAR_BITS = 7  # two 64-bit difference hashes this close make a candidate pair
WINDOW = 32  # neighbours looked at in each sorted order of the hashes: work grows with N, never with N squared


def fraction(sha: str) -> float:
    """A hex sha256 as a number in [0, 1): a picture below ``held_out`` is held out, whatever its name or neighbours."""
    return int(sha[:13], 16) / 16**13


def second_fraction(sha: str) -> float:
    """Another such number, independent of the first: it divides a split again, and orders the pictures in it."""
    return int(sha[16:29], 16) / 16**13


def hash_rows(*arrays: np.ndarray) -> list[str]:
    """Hex sha256 of every row over the given arrays (N, ...)."""
    flat = [np.ascontiguousarray(a) for a in arrays]
    return [hashlib.sha256(b"".join(a[i].tobytes() for a in flat)).hexdigest() for i in range(len(flat[0]))]


def difference_hash(picture: np.ndarray) -> int:
    """64 bits of a uint8 (H, W, C) picture: is each cell of an 8 x 9 grid brighter than its right neighbour?"""
    grey = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("L")
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes(), "big")


def groups(links: np.ndarray, n: int) -> np.ndarray:
    """Connected components: links int (L, 2) of row numbers -> int64 (n,), the smallest row number of each group."""
    parent = np.arange(n)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(i) for i in range(n)], dtype=np.int64)


def near_duplicates(hashes: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pairs of pictures that look the same.

    The eight bytes of a hash: two hashes within seven bits agree in at least one. So the hashes are sorted eight times,
    each time by another byte first, and every one is compared with its next ``WINDOW`` neighbours.
    A candidate is confirmed on the stored pixels: root mean square difference at most 15 % of the picture's own
    standard deviation (or two grey levels, for flat pictures).

    Args:
        hashes: uint64 (N,), as ``difference_hash`` gives.
        pixels: row numbers (M,) -> uint8 (M, H, W, C).

    Returns:
        int64 (L, 2) of row numbers: enough pairs to connect every group.
    """
    n = len(hashes)
    orders = [
        np.argsort((hashes << np.uint64(8 * k)) | (hashes >> np.uint64(64 - 8 * k)), kind="stable") for k in range(1, 8)
    ]
    orders.insert(0, np.argsort(hashes, kind="stable"))
    links = np.zeros((0, 2), np.int64)
    # Next neighbours first: a thousand blank pages are one group after them, and need no thousand looks at each other.
    for steps in (range(1, 2), range(2, WINDOW + 1)):
        label = groups(links, n)
        candidates = links[:0]
        for order in orders:
            parts = [candidates]
            for step in (step for step in steps if step < n):
                a, b = order[:-step], order[step:]
                close = (_bit_count(hashes[a] ^ hashes[b]) <= NEAR_BITS) & (label[a] != label[b])
                parts.append(np.stack([np.minimum(a[close], b[close]), np.maximum(a[close], b[close])], axis=1))
            candidates = np.unique(np.concatenate(parts), axis=0)
        same = [_same(pixels(part[:, 0]), pixels(part[:, 1])) for part in _chunks(candidates, 256)]
        if same:
            links = np.concatenate([links, candidates[np.concatenate(same)]])
    return links


def near_problems(names: Sequence[str], links: np.ndarray, held: np.ndarray) -> list[Problem]:
    """One line for every member of a group of near duplicates but its first by name."""
    first: dict[int, int] = {}
    group = groups(links, len(names))
    found = []
    for i in sorted({int(i) for i in links.ravel()}, key=lambda i: names[i]):
        leader = first.setdefault(int(group[i]), i)
        if leader != i:
            side = "held out" if held[i] else "training"
            found.append(Problem(names[i], "near-duplicate", f"kept: looks like {names[leader]}; both {side}"))
    return found


def divide(fractions: np.ndarray, group: np.ndarray, held_out: float, given: np.ndarray | None = None) -> np.ndarray:
    """Which rows are held out: bool (N,).

    A group is held out when *all* its members' fractions are below ``held_out``. So a picture added later can take
    its near duplicates out of the held-out split, but never puts a picture that was trained on into it.
    ``given`` (the user's own split: 1 held out, 0 training, -1 not said) goes before; a group that it would tear
    apart is held out. At least one picture lands on each side.
    """
    n = len(fractions)
    high = np.zeros(n)
    np.maximum.at(high, group, fractions)
    held = high[group] < held_out
    if given is not None and (given >= 0).any():
        any_held, any_train = np.zeros(n, bool), np.zeros(n, bool)
        np.logical_or.at(any_held, group, given == 1)
        np.logical_or.at(any_train, group, given == 0)
        held = np.where(any_held[group], True, np.where(any_train[group], False, held))
    if n < 2:
        return held
    if not held.any():
        held = _force(high, group, lowest=True)
    elif held.all():
        held = ~_force(high, group, lowest=False)
    return held


def _force(high: np.ndarray, group: np.ndarray, lowest: bool) -> np.ndarray:
    """The group with the lowest (highest) fraction; one picture alone when every picture is in one group."""
    key = high[group]
    row = int(np.argmin(key) if lowest else np.argmax(key))
    chosen = group == group[row]
    return np.arange(len(group)) == row if chosen.all() else chosen


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (a, b))
    difference = np.sqrt(((a - b) ** 2).mean(axis=1))
    return difference <= np.maximum(2.0, 0.15 * a.std(axis=1))


def _bit_count(x: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(x)
    return np.unpackbits(x.view(np.uint8).reshape(len(x), 8), axis=1).sum(axis=1)


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
