"""The held-out split: chosen by content, with near duplicates on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from reverie.core.errors import ReverieError, UsageError, argument
from reverie.data.types import Problem

NEAR_BITS = 7  # maximum distance of two 64-bit difference hashes of a candidate pair
HASHED_PIXELS = 1 << 18  # pixels hashed at once
WINDOW = 32  # neighbours compared in each sorted order of the hashes: linear cost in N


def check_part(source: str, part: str, count: int, held_out: float) -> None:
    """Check that a split that becomes the data set has enough images.

    Raises:
        UsageError: it is the held-out one, which ``held_out`` = 0 leaves empty.
        ReverieError: one image, which cannot be split again.
    """
    if not count and not held_out:
        name, zero = source.rpartition(":")[0], argument("held_out", 0)
        raise UsageError(
            f"{name} has no {part.replace('_', '-')} images with {zero}: all are trained on. Leave it out."
        )
    if count < 2 and held_out:
        raise ReverieError(f"{source} is one image, which cannot be split into training and held-out ones.")


def fraction(sha: str) -> float:
    """A hex sha256 as a number in [0, 1): an image below ``held_out`` is held out, whatever its name or order."""
    return int(sha[:13], 16) / 16**13


def second_fraction(sha: str) -> float:
    """A second, independent number: it splits a split again, and orders the images in it."""
    return int(sha[16:29], 16) / 16**13


def hash_rows(*arrays: np.ndarray) -> list[str]:
    """Hex sha256 of every row over all arrays (N, ...)."""
    flat = [np.ascontiguousarray(a) for a in arrays]
    return [hashlib.sha256(b"".join(a[i].tobytes() for a in flat)).hexdigest() for i in range(len(flat[0]))]


def difference_hashes(images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Hash images of one shape, many at once.

    Args:
        images: uint8 (N, H, W, C), C = 1, 3 or 4.

    Returns:
        uint64 (N,): is each cell of an 8 x 9 grid brighter than its right neighbour? Of RGBA, brightness and opacity
        count alike: black shapes differ from one another, and so do white ones.
    """
    if not len(images):
        return np.zeros(0, np.uint64)
    height, width, _ = images[0].shape
    step = max(1, HASHED_PIXELS // (height * max(width, 9)))
    return np.concatenate([_hashes(np.asarray(images[i : i + step])) for i in range(0, len(images), step)])


def _hashes(images: np.ndarray) -> np.ndarray:
    """As ``difference_hashes``, of a few at once."""
    n, height, width, channels = images.shape
    colours = np.ascontiguousarray(images[..., : 1 if channels == 1 else 3])
    grey = Image.frombytes("L" if channels == 1 else "RGB", (width, n * height), colours).convert("L")
    if channels == 4:
        grey = Image.blend(grey, Image.fromarray(images[..., 3].reshape(n * height, width)), 0.5)
    cells = _cells(grey, n)
    bits = np.packbits((cells[..., :-1] > cells[..., 1:]).reshape(n, 64), axis=1)
    return bits.view(">u8").reshape(n).astype(np.uint64)


def _cells(grey: Image.Image, n: int) -> np.ndarray:
    """Images, one below the other, each resized to (8, 9) as Pillow resizes one: uint8 (n, 8, 9)."""
    width, height, box = grey.width, grey.height // n, Image.Resampling.BOX
    if height > width:  # of these, some versions of Pillow shrink the height first, and round between the two
        each = np.asarray(grey).reshape(n, height, width)
        return np.stack([np.asarray(Image.fromarray(image).resize((9, 8), box)) for image in each])
    narrow = np.asarray(grey.resize((9, n * height), box)).reshape(n, height, 9)
    beside = Image.fromarray(narrow.swapaxes(0, 1).reshape(height, n * 9))
    return np.asarray(beside.resize((n * 9, 8), box)).reshape(8, n, 9).swapaxes(0, 1)


def middles(rows: np.ndarray) -> np.ndarray:
    """Rows (N, H, W, C), or the middle frame or slice of each of (N, T, H, W, C), with 1 or 3 channels."""
    rows = rows if rows.ndim == 4 else rows[:, rows.shape[1] // 2]
    return rows[..., : 3 if rows.shape[-1] >= 3 else 1]


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
    while (above := parent[parent] != parent).any():
        parent[above] = parent[parent[above]]
    return parent


def near_duplicates(hashes: np.ndarray, *pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Pairs of images that look the same.

    Two hashes within seven bits agree in at least one of their eight bytes. So the hashes are sorted eight times, each
    time by another leading byte, and each is compared with its next ``WINDOW`` neighbours. Stored pixels confirm a
    candidate: a root mean square difference of at most 15 % of the image's standard deviation (or two grey levels, for
    flat images).

    Args:
        hashes: uint64 (N,), by ``difference_hashes``.
        pixels: row numbers (M,) -> uint8 (M, H, W, C). Of several, such as of images on black and on white, all must
            confirm.

    Returns:
        int64 (L, 2) of row numbers: enough pairs to connect every group.
    """
    n = len(hashes)
    links = np.zeros((0, 2), np.int64)
    may_be_same = _Means(n, pixels[0])
    # Adjacent hashes first: identical images are then one group already, and need no further comparisons.
    for steps in (range(1, 2), range(2, WINDOW + 1)):
        label = groups(links, n)
        numbers = np.zeros(0, np.int64)  # of candidates: pairs (a, b) with a < b as a * n + b
        for k in range(8):
            order = np.argsort(_rotated(hashes, 8 * k), kind="stable")
            parts = [numbers]
            for step in (step for step in steps if step < n):
                a, b = order[:-step], order[step:]
                close = (bit_count(hashes[a] ^ hashes[b]) <= NEAR_BITS) & (label[a] != label[b])
                a, b = np.minimum(a[close], b[close]), np.maximum(a[close], b[close])
                if step > 1 and len(a):  # many images of one hash have 31 candidates each
                    likely = may_be_same(a, b)
                    a, b = a[likely], b[likely]
                parts.append(a * n + b)
            numbers = np.unique(np.concatenate(parts))
        candidates = np.stack(np.divmod(numbers, n), axis=1)
        same = [
            np.all([_same(of(part[:, 0]), of(part[:, 1])) for of in pixels], axis=0)
            for part in _chunks(candidates, 256)
        ]
        if same:
            links = np.concatenate([links, candidates[np.concatenate(same)]])
    return links


def _rotated(words: np.ndarray, bits: int) -> np.ndarray:
    """uint64 (N,), the first bits last."""
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits)) if bits else words


def near_problems(names: Sequence[str], links: np.ndarray, is_held_out: np.ndarray) -> list[Problem]:
    """One problem per near duplicate, except for the first of each group by name."""
    first: dict[int, int] = {}
    group = groups(links, len(names))
    problems = []
    for i in sorted({int(i) for i in links.ravel()}, key=lambda i: names[i]):
        leader = first.setdefault(int(group[i]), i)
        if leader != i:
            side = "held out" if is_held_out[i] else "training"
            problems.append(Problem(names[i], "near-duplicate", f"kept: looks like {names[leader]}; both {side}"))
    return problems


def divide(
    fractions: np.ndarray,
    group: np.ndarray,
    held_out: float,
    sides: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Whether each row is held out: bool (N,).

    A group is held out if *all* its fractions are below ``held_out``. So an image added later can move its near
    duplicates out of the held-out split, but never moves a training image into it. ``sides`` (the user's split: 1 held
    out, 0 training, -1 unknown) takes precedence; a group on both sides is held out. Each split has at least one image,
    but nothing is held out if ``held_out`` is 0.

    Of every class of ``labels`` (-1: none) at least one group is trained on, unless the user has a split, or nothing
    would be held out then.
    """
    n = len(fractions)
    high = np.zeros(n)
    np.maximum.at(high, group, fractions)
    is_held_out = high[group] < held_out
    if sides is not None and (sides >= 0).any():
        any_held_out, any_train = np.zeros(n, bool), np.zeros(n, bool)
        np.logical_or.at(any_held_out, group, sides == 1)
        np.logical_or.at(any_train, group, sides == 0)
        is_held_out = np.where(any_held_out[group], True, np.where(any_train[group], False, is_held_out))
        labels = None
    if n < 2 or not held_out:
        return is_held_out
    if not is_held_out.any():
        is_held_out = _extreme_group(high, group, lowest=True)
    elif is_held_out.all():
        is_held_out = ~_extreme_group(high, group, lowest=False)
    if labels is None:
        return is_held_out
    kept = is_held_out & ~_last_of_classes(is_held_out, high, group, labels)
    return kept if kept.any() else is_held_out


def _last_of_classes(is_held_out: np.ndarray, high: np.ndarray, group: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The group with the highest fraction of each class that is held out completely: bool (N,)."""
    order = np.lexsort((high[group], labels))
    order = order[labels[order] >= 0]
    highest = order[np.append(labels[order][1:] != labels[order][:-1], True)] if len(order) else order
    lacking = ~np.isin(labels[highest], labels[~is_held_out])
    return np.isin(group, group[highest[lacking]])


def _extreme_group(high: np.ndarray, group: np.ndarray, lowest: bool) -> np.ndarray:
    """The group with the lowest (highest) fraction; a single image if all images are one group."""
    key = high[group]
    row = int(np.argmin(key) if lowest else np.argmax(key))
    chosen = group == group[row]
    return np.arange(len(group)) == row if chosen.all() else chosen


class _Means:
    """Which pairs may be the same by the means of their channels, which bound their difference.

    So of many images with one hash, such as blank pages of many colours, each is looked at once, and not each pair.

    Args:
        of: row numbers (M,) -> uint8 (M, H, W, C), of n rows.
    """

    def __init__(self, n: int, of: Callable[[np.ndarray], np.ndarray]):
        self.of, self.looked = of, np.zeros(n, bool)
        self.means, self.tolerances = np.zeros((n, 0)), np.zeros(n)  # (n, C) once C is known

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether ``_same`` may hold, for rows (L,) and (L,): bool (L,)."""
        new = np.zeros_like(self.looked)
        new[a] = new[b] = True
        for rows in _chunks(np.flatnonzero(new & ~self.looked), 256):
            pixels = self.of(rows)
            means = pixels.reshape(len(rows), -1, pixels.shape[-1]).mean(axis=1, dtype=np.float64)
            if not self.means.size:
                self.means = np.zeros((len(self.looked), means.shape[1]))
            self.means[rows] = means
            self.tolerances[rows] = _tolerance(pixels.reshape(len(rows), -1).astype(np.float32))
        self.looked |= new
        bound = ((self.means[a] - self.means[b]) ** 2).mean(axis=1)  # of the mean square difference (Jensen)
        return bound <= (1.001 * self.tolerances[a]) ** 2  # a thousandth for rounding


def _tolerance(a: np.ndarray) -> np.ndarray:
    return np.maximum(2.0, 0.15 * a.std(axis=1))


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (a, b))
    difference = np.sqrt(((a - b) ** 2).mean(axis=1))
    return difference <= _tolerance(a)


def bit_count(x: np.ndarray) -> np.ndarray:
    """Number of ones in each word, uint64 (N,)."""
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(x)
    return np.unpackbits(x.view(np.uint8).reshape(len(x), 8), axis=1).sum(axis=1)


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
