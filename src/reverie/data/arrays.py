"""Pictures that come as arrays (.npz, bundled and public sets): checked, fitted and divided in memory."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from reverie import home
from reverie.core.errors import ReverieError
from reverie.data import picture, split
from reverie.data.intake import MIN_PICTURES, TooFew, parallel
from reverie.data.items import index_labels
from reverie.data.types import Dataset, Pictures, Problem, Report

KEYS = {  # wanted -> the names it goes by
    "images": ("images", "x", "X", "arr_0", "data"),
    "labels": ("labels", "y", "Y"),
    "texts": ("texts", "captions"),
    "train": ("x_train", "train_images", "images_train"),
    "train_labels": ("y_train", "train_labels", "labels_train"),
    "test": ("x_test", "test_images", "images_test", "x_val", "val_images"),
    "test_labels": ("y_test", "test_labels", "labels_test", "y_val", "val_labels"),
}


@dataclass(frozen=True)
class Arrays:
    """A whole data set in memory, before it is fitted.

    Attributes:
        images: uint8 (N, H, W, C), C = 1, 3 or 4; training rows first where there is a split.
        labels: int64 (N,), -1 for none.
        cut: number of training rows, None where the source names no split.
        names, texts, sources, classes: as in Pictures and Dataset; names None = row numbers.
        checked: copies and near duplicates were dealt with when the set was made.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    cut: int | None = None
    names: list[str] | None = None
    texts: list[str] | None = None
    sources: np.ndarray | None = None
    checked: bool = False
    problems: list[Problem] = field(default_factory=list)

    def take(self, rows: slice | np.ndarray, cut: int | None) -> Arrays:
        index = np.arange(len(self.images))[rows]
        names = self.names or [str(i) for i in range(len(self.images))]
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            cut=cut,
            names=[names[i] for i in index],
            texts=None if self.texts is None else [self.texts[i] for i in index],
            sources=None if self.sources is None else self.sources[rows],
        )


def load_npz(path: Path) -> Arrays:
    """Read an ``.npz`` of pictures; pickled content is refused. Raises ReverieError about wrong names or shapes."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ReverieError(f"{path} is one bare array; save it with numpy.savez(path, images=...).")
            held = {want: next((k for k in keys if k in archive.files), None) for want, keys in KEYS.items()}
            found = {want: archive[key] for want, key in held.items() if key is not None}
            known = ", ".join(f"{k} {archive[k].shape}" for k in archive.files[:12]) if not found else ""
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        what = "holds pickled objects, which may run code" if "allow_pickle" in str(error) else str(error)
        raise ReverieError(f"{path} cannot be read as .npz: {what}. Save plain arrays with numpy.savez.") from None
    problems: list[Problem] = []
    if "train" in found and "test" in found:
        train = to_uint8(found["train"], f"{path}: training images", problems)
        test = to_uint8(found["test"], f"{path}: test images", problems)
        if train.shape[1:] != test.shape[1:]:
            raise ReverieError(f"{path}: training pictures are {train.shape[1:]}, test pictures {test.shape[1:]}.")
        images, cut = np.concatenate([train, test]), len(train)
        parts = [found.get("train_labels"), found.get("test_labels")]
        known_parts = [np.ravel(one) for one in parts if one is not None]
        given = np.concatenate(known_parts) if len(known_parts) == 2 else None
    elif (pixels := found.get("images", found.get("train"))) is not None:
        images, cut = to_uint8(pixels, f"{path}: images", problems), None
        given = found.get("labels", found.get("train_labels"))
    else:
        raise ReverieError(
            f"{path} has no array that is known to be pictures (it has {known}). Name it images: uint8 (N, H, W) or "
            "(N, H, W, C), with labels (N,) and texts (N,) if there are any; or x_train, y_train, x_test, y_test."
        )
    n = len(images)
    labels = np.full(n, -1, np.int64)
    classes: list[str] = []
    if given is not None:
        if np.size(given) != n:
            raise ReverieError(f"{path}: labels have shape {np.shape(given)} for {n} pictures; (N,) is needed.")
        numbers = np.ravel(given)
        if numbers.dtype.kind in "iub":
            labels, classes = index_labels([None if v < 0 else int(v) for v in numbers])
        elif numbers.dtype.kind in "US":
            labels, classes = index_labels([str(v) for v in numbers.astype(str)])
        else:
            raise ReverieError(f"{path}: labels are {numbers.dtype}; integers or strings are needed.")
    texts = None if "texts" not in found else [str(t) for t in np.ravel(found["texts"])]
    if texts is not None and len(texts) != n:
        raise ReverieError(f"{path}: {len(texts)} texts for {n} pictures.")
    return Arrays(images, labels, classes, cut, texts=texts, problems=problems)


def to_uint8(pixels: np.ndarray, what: str, problems: list[Problem]) -> np.ndarray:
    """Any numeric (N, H, W), (N, H, W, C) or (N, C, H, W) to uint8 (N, H, W, C); says what it converted."""
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3, 4) and pixels.shape[1] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 1, 3)
        problems.append(Problem("*", "channels-first", f"converted: {what} from (N, C, H, W)"))
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3, 4) or 0 in pixels.shape:
        raise ReverieError(f"{what} have shape {pixels.shape}; (N, H, W) or (N, H, W, C) with C = 1, 3 or 4 is needed.")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "fiub":
        raise ReverieError(f"{what} are {pixels.dtype}; uint8, or floats in [0, 1], are needed.")
    low, high = float(pixels.min()), float(pixels.max())
    spans = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)] if pixels.dtype.kind == "f" else [(0.0, 255.0), (0.0, 65535.0)]
    if pixels.dtype.kind == "b":
        spans = [(0.0, 1.0)]
    span = next(((a, b) for a, b in spans if a <= low and high <= b), None)
    if span is None:  # also NaN
        raise ReverieError(
            f"{what} are {pixels.dtype} from {low:g} to {high:g}; uint8, or floats in [0, 1], are needed."
        )
    problems.append(
        Problem(
            "*",
            "float" if pixels.dtype.kind == "f" else "16-bit" if span[1] > 255 else "integer",
            f"converted: {what} from {pixels.dtype}, {span[0]:g}..{span[1]:g} scaled to 0..255",
        )
    )
    made = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), 256):  # the floats of all pictures at once would be eight times the result
        part = pixels[start : start + 256].astype(np.float64)
        made[start : start + 256] = np.rint((part - span[0]) * (255.0 / (span[1] - span[0])))
    return made


def dataset(
    spec: str,
    arrays: Arrays,
    part: str | None,
    size: int | None,
    channels: int | None,
    fit: str,
    background: tuple[int, int, int],
    held_out: float,
    progress: home.Progress | None = None,
    copies: bool = False,
) -> Dataset:
    """Fit and divide. ``part`` names a split, which is then the whole. Raises TooFew."""
    if not arrays.checked and not copies:
        arrays = _without_copies(arrays)
    if len(arrays.images) < MIN_PICTURES:
        raise TooFew(spec, Report(len(arrays.images), arrays.problems))
    if arrays.cut is None:
        arrays = _divided(arrays, held_out, split.fraction)
    if part is not None:
        rows = slice(0, arrays.cut) if part == "train" else slice(arrays.cut, None)
        arrays = _divided(arrays.take(rows, None), held_out, split.second_fraction)
    height, width = arrays.images.shape[1:3]
    size = size or (height if height == width <= 256 else 64)
    images = _fitted(arrays.images, picture.Form(size, channels or _channels(arrays.images), fit, background), progress)
    sources = arrays.sources
    if sources is not None:
        sources = _fitted(sources, picture.Form(size, channels or _channels(sources), fit, background), progress)
    problems = list(arrays.problems)
    if arrays.images.shape[3] == 4:
        problems.append(Problem("*", "rgba", f"converted: composited on background {background}"))
    arrays = replace(arrays, images=images, sources=sources, problems=problems)
    cut = arrays.cut
    digest = hashlib.sha256(repr((size, images.shape, cut, arrays.classes, arrays.texts)).encode())
    for array in (arrays.images, arrays.labels, arrays.sources):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return Dataset(
        spec=spec,
        size=size,
        channels=images.shape[3],
        classes=arrays.classes,
        train=_pictures(arrays.take(slice(0, cut), None)),
        held_out=_pictures(arrays.take(slice(cut, None), None)),
        fingerprint=digest.hexdigest(),
        report=Report(len(images), arrays.problems),
    )


def _pictures(arrays: Arrays) -> Pictures:
    assert arrays.names is not None
    arrays.images.flags.writeable = False
    return Pictures(arrays.images, arrays.labels, arrays.names, arrays.texts, arrays.sources)


def _channels(images: np.ndarray) -> int:
    if images.shape[3] == 1:
        return 1
    return 1 if all((p[..., :1] == p[..., :3]).all() and p.shape[2] == 3 for p in images) else 3


def _fitted(images: np.ndarray, form: picture.Form, progress: home.Progress | None) -> np.ndarray:
    if images.shape[1:] == (form.size, form.size, form.channels):
        return images
    made = np.empty((len(images), form.size, form.size, form.channels), np.uint8)
    for i, one in enumerate(parallel(lambda p: picture.fit_array(p, form), images)):
        made[i] = one
        if progress and (i % 1024 == 1023 or i + 1 == len(images)):
            progress(i + 1, len(images), "resizing")
    return made


def _rows(arrays: Arrays) -> list[str]:
    return split.hash_rows(*(a for a in (arrays.images, arrays.sources) if a is not None))


def _without_copies(arrays: Arrays) -> Arrays:
    """Every picture once; of a copy in both splits, the held-out one stays."""
    n, cut = len(arrays.images), arrays.cut
    start = 0 if cut is None else cut
    first: dict[str, int] = {}
    shas = _rows(arrays)
    problems = list(arrays.problems)
    keep = np.ones(n, bool)
    for i in (*range(start, n), *range(start)):
        if first.setdefault(shas[i], i) != i:
            keep[i] = False
            problems.append(Problem(str(i), "duplicate", f"skipped: the same picture as {first[shas[i]]}"))
    kept_cut = None if cut is None else int(keep[:cut].sum())
    return replace(arrays.take(keep, kept_cut) if not keep.all() else arrays, problems=problems)


def _divided(arrays: Arrays, held_out: float, fraction: Callable[[str], float]) -> Arrays:
    """Training rows first, by content; near duplicates together."""
    images = arrays.images
    names = arrays.names or [str(i) for i in range(len(images))]
    if len(images) < 2:
        raise ReverieError(f"One picture ({', '.join(names)}) cannot be divided into training and held-out ones.")
    fractions = np.array([fraction(sha) for sha in _rows(arrays)])
    hashes = np.array(list(parallel(lambda p: split.difference_hash(p[..., :3]), images)), np.uint64)
    near = split.near_duplicates(hashes, lambda some: images[some])
    held = split.divide(fractions, split.groups(near, len(images)), held_out)
    problems = split.near_problems(names, near, held)
    order = np.argsort(held, kind="stable")
    return replace(arrays.take(order, int((~held).sum())), problems=arrays.problems + problems)
