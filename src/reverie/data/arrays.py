"""Data sets from arrays (.npz, bundled and public sets, Python objects): resized and split in memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from reverie.core import cache as home
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.terminal import printable
from reverie.data import split
from reverie.data.choose import Choice, chosen, limited
from reverie.data.columns import attribute_column, label_columns, text_column
from reverie.data.intake import MIN_IMAGES, TooFew, parallel
from reverie.data.options import OpenOptions
from reverie.data.remarks import with_remarks
from reverie.data.rows import Rows, to_mask, to_rows
from reverie.data.types import SPATIAL, Dataset, Problem, Report, Split
from reverie.media import Spec, decode


@dataclass(frozen=True)
class Arrays:
    """A complete data set in memory, before resizing.

    Attributes:
        rows: all rows, training rows first if there is a split; images may still have C = 4 (RGBA).
        classes, attributes: as in Dataset.
        cut: number of training rows, None if the source has no split.
        checked: the source has no copies and no near duplicates across its split.
        second: name of the split that is held out.
        name: of the source if its user's name stands for one of several, such as binary-mnist; else "".
        read_as: in words, for the report; "" of a set that has a name.
    """

    rows: Split
    classes: list[str]
    cut: int | None = None
    attributes: list[str] = field(default_factory=list)
    checked: bool = False
    problems: list[Problem] = field(default_factory=list)
    second: str = "test"
    name: str = ""
    read_as: str = ""

    @property
    def spec(self) -> Spec:
        return self.rows.spec

    def take(self, rows: slice | np.ndarray, cut: int | None) -> Arrays:
        return replace(self, rows=self.rows.take(rows), cut=cut)


def from_columns(
    columns: dict[str, Any],
    what: str,
    options: OpenOptions,
    channels_first: bool = False,
    cut: int | None = None,
    classes: list[str] | None = None,
    problems: list[Problem] | None = None,
) -> Arrays:
    """Raw columns, rows first, to a data set.

    Args:
        columns: ``x``, raw or as ``Rows``; optionally ``label`` (N,), numbers or names (-1, None: none), ``text`` (N,),
            ``attributes`` (N, A), ``source`` and ``mask`` with the extents of ``x``.
        what: the source's name in messages.
        channels_first: as of tensors: see ``to_rows``.
        classes: names of the label numbers, if the source has them.

    Raises:
        ReverieError: a column of an unfit shape or type.
    """
    problems = [] if problems is None else problems
    ends: dict[str, Any] = {"low": options.low, "high": options.high, "channels_first": channels_first}
    x = columns["x"]
    if not isinstance(x, Rows):
        x = to_rows(x, f"{what}: {options.medium or 'image'}s", problems, options.medium, **ends)
    n, spec, stored = len(x.values), x.spec, {"x": x.values}
    if columns.get("source") is not None:
        source = columns["source"]
        if not isinstance(source, Rows):
            source = to_rows(source, f"{what}: sources", problems, spec.medium, **ends)
        if source.spec.shape != spec.shape or len(source.values) != n:
            raise ReverieError(f"{what}: sources are {len(source.values)} of {source.spec}, not {n} of {spec}.")
        stored["source"] = source.values
    if columns.get("mask") is not None:
        stored["mask"] = to_mask(np.asarray(columns["mask"]), f"{what}: masks", n, spec, problems)
    labels = label_columns(columns.get("label"), n, what, problems, classes)
    stored["label"] = labels.index
    more: dict[str, Any] = {}
    if columns.get("text") is not None:
        more["text"] = text_column(columns["text"], n, what)
    attributes: list[str] = []
    if columns.get("attributes") is not None:
        titles = columns.get("attribute_names")
        more["attributes"], attributes = attribute_column(columns["attributes"], titles, n, what)
    if twice := [name for name, count in Counter(attributes).items() if count > 1]:
        names = ", ".join(map(printable, twice))
        problems.append(Problem("*", "columns", f"used: several attributes are called {names}"))
    if labels.attributes is not None:
        before = [more["attributes"]] if attributes else []
        more["attributes"], attributes = np.concatenate([*before, labels.attributes], 1), [*attributes, *labels.names]
    return Arrays(Split(stored | more, spec=spec), labels.classes, cut, attributes, problems=problems)


def dataset(
    source: str,
    arrays: Arrays,
    part: str | None,
    options: OpenOptions,
    opened: dict[str, Any] | None = None,
    progress: home.Progress | None = None,
) -> Dataset:
    """Resize and split; ``part`` selects one split, which is then split again. Raises TooFew."""
    if not arrays.checked and not options.copies:
        arrays = _without_copies(arrays)
    arrays, seconds_end = _chosen(arrays, options.choice)
    if len(arrays.rows) < MIN_IMAGES:
        raise TooFew(source, Report(len(arrays.rows), arrays.problems), files=False)
    if part is None and arrays.cut is not None and arrays.cut < MIN_IMAGES:
        raise TooFew(source, Report(len(arrays.rows), arrays.problems), arrays.cut, files=False)
    kept = False
    if arrays.cut is None:
        arrays, kept = _split(arrays, options, split.fraction)
    if part is not None:
        rows = slice(0, arrays.cut) if part == "train" else slice(arrays.cut, None)
        side = arrays.take(rows, None)
        split.check_part(source, part, len(side.rows), options.held_out)
        arrays, kept_again = _split(side, options, lambda sha: split.second_fraction(sha) / seconds_end)
        kept |= kept_again
    arrays = _resized(arrays, options, progress)
    cut = arrays.cut
    requested = options.opened["requested"] | ({"keep_classes": True} if kept else {})
    opened_set = Dataset(
        source=source,
        spec=arrays.spec,
        classes=arrays.classes,
        train=_frozen(arrays.rows.take(slice(0, cut))),
        held_out=_frozen(arrays.rows.take(slice(cut, None))),
        fingerprint=_fingerprint(arrays),
        report=Report(len(arrays.rows), arrays.problems, arrays.read_as),
        attributes=arrays.attributes,
        opened=options.opened | {"requested": requested} | (opened or {}),
    )
    return with_remarks(opened_set)


def _chosen(arrays: Arrays, choice: Choice) -> tuple[Arrays, float]:
    """The rows that are asked for, with the classes of them, and the end of their numbers: see ``choose.limited``."""
    if choice.resolution_at_least:
        raise UsageError(f"{argument('resolution_at_least')} is for files; these images have one size.")
    rows, names, problems = arrays.rows, arrays.classes, list(arrays.problems)
    labels = [names[label] if label >= 0 else None for label in rows.labels]
    keep, seconds_end = np.ones(len(rows), bool), 1.0
    if choice.classes or choice.where:
        texts, numbers = rows.get("text") or [""] * len(rows), rows.get("attributes")
        columns = [
            {"file_name": name, "label": label, "text": text}
            | ({} if numbers is None else dict(zip(arrays.attributes, numbers[i].tolist(), strict=True)))
            for i, (name, label, text) in enumerate(zip(rows.names, labels, texts, strict=True))
        ]
        keep = chosen(choice, labels, columns, problems)
    if choice.limit:
        inside = np.flatnonzero(keep)
        keep[inside], seconds_end = limited(choice, _hashes(rows.take(keep)), problems)
    if choice.dedupe:
        left = _near(arrays.take(keep, None))
        inside = np.flatnonzero(keep)
        group = split.groups(left, len(inside))
        keep[inside[group != np.arange(len(inside))]] = False
        problems += [
            Problem(rows.names[inside[i]], "near-duplicate", f"left out as asked: looks like {rows.names[inside[k]]}")
            for i, k in enumerate(group)
            if i != k
        ]
    if keep.all():
        return replace(arrays, problems=problems), seconds_end
    cut = None if arrays.cut is None else int(keep[: arrays.cut].sum())
    arrays = replace(arrays.take(keep, cut), problems=problems)
    if not choice.classes:
        return arrays, seconds_end
    kept = [name for name in names if name in choice.classes]
    index = np.array([kept.index(name) if name in kept else -1 for name in names], np.int64)
    return replace(arrays, rows=arrays.rows | {"label": index[arrays.rows.labels]}, classes=kept), seconds_end


def _frozen(rows: Split) -> Split:
    for name in SPATIAL:
        if name in rows:
            rows[name].flags.writeable = False
    return rows


def _fingerprint(arrays: Arrays) -> str:
    """Over the content of all columns and the options; for 8-bit square images the same as in format 1."""
    rows, spec = arrays.rows, arrays.spec
    kind: Any = spec.square or spec.shape if spec.medium == "image" else spec.as_dict()
    digest = hashlib.sha256(repr((kind, rows["x"].shape, arrays.cut, arrays.classes, rows.get("text"))).encode())
    for name in ("x", "label", "source"):
        if name in rows:
            digest.update(np.ascontiguousarray(rows[name]).data)
    for name in ("mask", "attributes"):
        if name in rows:
            digest.update(name.encode() + np.ascontiguousarray(rows[name]).data)
    return digest.hexdigest()


def _resized(arrays: Arrays, options: OpenOptions, progress: home.Progress | None) -> Arrays:
    """Images and clips resized to the requested size and channels; other media must match already."""
    rows, spec, problems = arrays.rows, arrays.spec, list(arrays.problems)
    if spec.medium in ("volume", "sequence"):
        cube = len({*spec.shape}) == 1
        if options.size not in (None, spec.shape) and not (cube and options.size == spec.shape[:1]):
            raise UsageError(f"A {spec.medium} cannot be resized: it is {spec}.")
        if options.channels not in (None, spec.channels):
            raise UsageError(f"A {spec.medium} keeps its channels: it is {spec}.")
        return arrays
    height, width = spec.shape[-2:]
    if spec.medium == "image":
        shape = options.image_shape((height, width))
    else:  # frame by frame; unchanged by default
        extents = options.size or (height, width)
        if len(extents) > 3 or (len(extents) == 3 and extents[0] != spec.shape[0]):
            raise UsageError(f"A clip keeps its {spec.shape[0]} frames; {argument('size')} is their (height, width).")
        if options.frames not in (None, spec.shape[0]):
            raise UsageError(f"A clip of an array keeps its {spec.shape[0]} frames; {argument('frames')} is for films.")
        if options.stride is not None:
            problems.append(Problem("*", "clips", "used: the rows are clips already; a stride is for films"))
        shape = extents[-2:][0], extents[-1]  # one extent is both
    if options.size is None and shape != (height, width):
        remedy = argument("size", f"{height}x{width}")
        action = f"converted: {height} x {width} to {shape[0]} x {shape[1]}; {remedy} keeps the size"
        problems.append(Problem("*", "fitted", action))
    if options.channels == 4 and spec.medium != "image":
        raise UsageError(f"A {spec.medium} has no transparency: {argument('channels', 4)} is for images.")
    columns: dict[str, Any] = dict(rows.columns)
    for name in SPATIAL:
        if name not in rows:
            continue
        channels = 1 if name == "mask" else options.channels or _channels(rows[name])
        form = decode.Form(shape, channels, options.fit, options.background)
        fit = partial(decode.fit_mask if name == "mask" else decode.fit_array, form=form)
        columns[name] = _each_image(rows[name], form, fit, progress)
    if rows["x"].shape[-1] == 4 != columns["x"].shape[-1]:
        problems.append(Problem("*", "rgba", f"converted: composited on background {options.background}"))
    if columns["x"].shape[-1] == 4 and (columns["x"][..., 3] == 255).all():
        problems.append(Problem("*", "opaque", "used: no image has transparent pixels"))
    spec = replace(spec, shape=(*spec.shape[:-2], *shape), channels=columns["x"].shape[-1])
    return replace(arrays, rows=replace(rows, columns=columns, spec=spec), problems=problems)


def _channels(rows: np.ndarray) -> int:
    if rows.shape[-1] == 1:
        return 1
    return 1 if all((p[..., :1] == p[..., :3]).all() and p.shape[-1] == 3 for p in rows) else 3


def _each_image(
    rows: np.ndarray, form: decode.Form, fit: Callable[[np.ndarray], np.ndarray], progress: home.Progress | None
) -> np.ndarray:
    """Every image or frame of (N, ..., H, W, C) in this form."""
    if rows.shape[-3:] == form.array and form.channels != 4:  # of RGBA the hidden colours change
        return rows
    images = rows.reshape(-1, *rows.shape[-3:])
    fitted = np.empty((len(images), *form.array), np.uint8)
    for i, image in enumerate(parallel(fit, images)):
        fitted[i] = image
        if progress and (i % 1024 == 1023 or i + 1 == len(images)):
            progress(i + 1, len(images), "resizing")
    return fitted.reshape(*rows.shape[:-3], *form.array)


def _hashes(rows: Split) -> list[str]:
    return split.hash_rows(*(rows[name] for name in ("x", "source") if name in rows))


def _without_copies(arrays: Arrays) -> Arrays:
    """Drop copies; of a sample in both splits the held-out one stays."""
    n, cut = len(arrays.rows), arrays.cut
    start = 0 if cut is None else cut
    first: dict[str, int] = {}
    shas = _hashes(arrays.rows)
    problems = list(arrays.problems)
    keep = np.ones(n, bool)
    for i in (*range(start, n), *range(start)):
        if first.setdefault(shas[i], i) != i:
            keep[i] = False
            problems.append(Problem(str(i), "duplicate", f"skipped: the same image as {first[shas[i]]}"))
    kept_cut = None if cut is None else int(keep[:cut].sum())
    return replace(arrays.take(keep, kept_cut) if not keep.all() else arrays, problems=problems)


def _split(arrays: Arrays, options: OpenOptions, fraction: Callable[[str], float]) -> tuple[Arrays, bool]:
    """Split by content, training rows first; near duplicates (by image, middle frame or slice) stay together.

    Returns:
        the rows, and whether classes that would be held out completely kept images to train on.
    """
    rows = arrays.rows
    if not options.held_out:
        return replace(arrays, cut=len(rows)), False
    fractions = np.array([fraction(sha) for sha in _hashes(rows)])
    near = _near(arrays)
    group = split.groups(near, len(rows))
    is_held_out, before = split.divide(fractions, group, options.held_out), None
    if options.keep_classes:
        before, is_held_out = is_held_out, split.divide(fractions, group, options.held_out, labels=rows.labels)
    problems = split.near_problems(rows.names, near, is_held_out)
    order = np.argsort(is_held_out, kind="stable")
    arrays = replace(arrays.take(order, int((~is_held_out).sum())), problems=arrays.problems + problems)
    return arrays, before is not None and bool((before != is_held_out).any())


def _near(arrays: Arrays) -> np.ndarray:
    """Pairs of rows that look the same, by image, middle frame or slice."""
    rows = arrays.rows
    if arrays.spec.medium == "sequence":
        return np.zeros((0, 2), np.int64)
    hashes = split.difference_hashes(split.middles(rows["x"]))
    return split.near_duplicates(hashes, lambda index: rows["x"][index])


def of_images(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    classes: list[str],
    cut: int | None,
    names: list[str] | None = None,
    **columns: Any,
) -> Arrays:
    """A curated set of 8-bit images: uint8 (N, H, W, C), labels (N,); ``columns`` are ``text`` and ``source``."""
    stored = {"x": images, "label": np.asarray(labels, np.int64), **columns}
    return Arrays(Split(stored, names or ()), classes, cut, checked=True)
