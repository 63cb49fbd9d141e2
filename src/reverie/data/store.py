"""The store: images decoded and resized once into a uint8 memory map, so that a batch is one gather.

``$REVERIE_HOME/stores/KEY/`` contains ``images.u8`` (training rows first, then held-out ones), ``sources.u8`` of pairs,
``masks.u8`` and ``attributes.f32`` if there are any, ``meta.json``, and ``digests.json`` of them all. It is built in
``KEY.part/`` chunk by chunk; ``progress.jsonl`` records each chunk once it is on disk, so that an interrupted build
resumes there. A rename completes the store.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import warnings
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import cache as home
from reverie.core.files import replacing, sha256_of, write_entries
from reverie.core.terminal import count
from reverie.data import split
from reverie.data.classes import index_labels, number_problem
from reverie.data.decoding import OF_SOURCE, array_of, arrays_of, chunk_of, decoded_images, to_one_range
from reverie.data.intake import CHANGED, MIN_IMAGES, Changed, TooFew
from reverie.data.marking import coverage
from reverie.data.plan import (
    VERSION,
    Form,
    Plan,
    fingerprint,
    held_out_rows,
    leaders,
    one_film,
    order_rows,
    same_source,
)
from reverie.data.records import Records, completed
from reverie.data.remarks import with_remarks
from reverie.data.types import Column, Dataset, Problem, Report, Split
from reverie.media import Spec, alpha, decode, medium_of

_DIGESTS = "digests.json"  # file -> [sha256, *its state when that was checked]


def open_or_build(
    source: str,
    plan: Plan,
    problems: list[Problem],
    opened: dict[str, Any],
    part: str | None = None,
    progress: home.Progress | None = None,
    report: Report | None = None,
) -> Dataset:
    """The data set of a plan, from its store; builds the store if there is no complete one.

    ``opened`` goes into the provenance; ``report`` says what intake found besides. A second process that needs the same
    store waits for the first. ``part`` ("train", "held_out") takes only that split, and splits it again. Raises
    TooFew, Changed, and ReverieError if the cache folder cannot be written.
    """
    final = home.home() / "stores" / plan.key()
    meta = _complete_meta(final)
    if meta is None:
        try:
            with home.locked(final.with_suffix(".lock")) as alone:
                meta = _complete_meta(final)  # another process may have built it meanwhile
                if meta is None:
                    if final.exists():
                        shutil.rmtree(final)
                        warnings.warn(
                            f"The image store of {source} was changed, damaged, or left by an older version. It is "
                            "built again from the images.",
                            stacklevel=2,
                        )
                    work = final.with_suffix(".part" if alone else f".{os.getpid()}.part")
                    meta = _build(source, plan, work, problems, progress)
                    _finish(work, final)
        except OSError as error:
            raise home.cannot_write(
                error, "the image store", "Finished chunks are kept, and the next call resumes there. "
            ) from error
    if plan.keep_classes:
        opened = opened | {"requested": opened["requested"] | {"keep_classes": True}}
    return _open(source, final, meta, replace(report or Report(0), problems=problems), opened, part, plan)


def _complete_meta(folder: Path) -> dict[str, Any] | None:
    """The store's meta if every file has its recorded digest, else None.

    A file whose state on the disk is that of its last check is not read.
    """
    try:
        digests = dict(json.loads((folder / _DIGESTS).read_text("utf-8")))
        states = {name: _state(folder / name) for name in digests}
        changed = [name for name, (_, *state) in digests.items() if state != states[name]]
        if any(sha256_of(folder / name) != digests[name][0] for name in changed):
            return None
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
        if meta["version"] != VERSION or {"meta.json", *meta["files"]} != digests.keys():
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if changed:
        with contextlib.suppress(OSError):  # in a cache that is not writable, the next opening checks again
            _write(folder / _DIGESTS, {name: [digests[name][0], *states[name]] for name in digests})
    return meta


def _state(path: Path) -> list[int]:
    """Size, times and inode: a change of the content changes these."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _write(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as handle:
        write_entries(handle, value.items())


def _open(
    source: str,
    folder: Path,
    meta: dict[str, Any],
    report: Report,
    opened: dict[str, Any],
    part: str | None,
    plan: Plan,
) -> Dataset:
    n, cut, size = len(meta["names"]), meta["train"], meta["size"]
    shape = (size, size) if isinstance(size, int) else tuple(size)
    columns: dict[str, Column] = {
        {"images": "x", "sources": "source", "masks": "mask"}[name]: np.memmap(
            folder / f"{name}.u8", np.uint8, "r", shape=(n, *shape, channels)
        )
        for name, channels in meta["channels"].items()
    }
    columns["label"] = np.array(meta["labels"], np.int64)
    if meta["texts"] is not None:
        columns["text"] = meta["texts"]
    if meta.get("captions"):
        columns["captions"] = meta["captions"]
    if attributes := meta.get("attributes", []):
        columns["attributes"] = np.memmap(folder / "attributes.f32", np.float32, "r", shape=(n, len(attributes)))
    spec = Spec(meta.get("medium", "image"), shape, meta["channels"]["images"])
    rows = Split(columns, meta["names"], spec)
    train, test, digest = slice(0, cut), slice(cut, n), meta["fingerprint"]
    if part is not None:
        side = train if part == "train" else test
        split.check_part(source, part, side.stop - side.start, plan.held_out)
        # A split's rows are sorted by their second fraction, so that a fraction of them is one slice.
        middle = side.start + int(np.searchsorted(meta["seconds"][side], plan.held_out * plan.seconds_end))
        middle = min(max(middle, side.start + 1), side.stop - 1) if plan.held_out else side.start
        train, test = slice(middle, side.stop), slice(side.start, middle)
        digest = hashlib.sha256(f"{digest} {part} {middle}".encode()).hexdigest()

    usable = train.stop - train.start + test.stop - test.start
    dataset = Dataset(
        source=source,
        spec=spec,
        classes=meta["classes"],
        train=rows.take(train),
        held_out=rows.take(test),
        fingerprint=digest,
        report=replace(
            report, usable=usable, problems=report.problems + [Problem(*problem) for problem in meta["problems"]]
        ),
        attributes=attributes,
        opened=opened,
    )
    return with_remarks(dataset)


def _build(
    source: str, plan: Plan, part: Path, problems: list[Problem], progress: home.Progress | None
) -> dict[str, Any]:
    """Build the store in ``part``; returns its meta."""
    part.mkdir(parents=True, exist_ok=True)
    noun = medium_of(plan.medium).noun.removesuffix("s")
    records = _fill(part, plan, progress)
    new, changed = to_one_range(part, plan, records, progress)
    if replaced := [row.item.name for row, record in zip(plan.rows, records, strict=True) if _has_changed(record)]:
        shutil.rmtree(part)
        raise Changed(source, replaced, noun)
    form = plan.form
    good = np.array([i for i, record in enumerate(records) if record["ok"]], np.int64)
    channels = {}
    for name in arrays_of(plan):
        if name == "masks":
            channels[name] = 1
            new.append(coverage([records[i]["marked"] for i in good]))
            continue
        grey = plan.find_channels and all(records[i]["grey"][name] for i in good)
        channels[name] = 1 if grey else form.channels
    new += [
        Problem(row.item.name, kind, action)
        for row, record in zip(plan.rows, records, strict=True)
        for kind, action in record["notes"]
        if kind != "grey" or _is_relevant(action, channels, plan)
    ]
    if len(good) < MIN_IMAGES:
        shutil.rmtree(part)
        raise TooFew(source, Report(len(good), problems + new), noun=noun)

    rows = [plan.rows[i] for i in good]
    near = _near(part, form, records, good)
    if rows[0].film:  # its clips are on one side in any case
        near = split.groups(same_source(rows), len(rows))[near]  # to their films' first clips
        near = np.unique(near[near[:, 0] != near[:, 1]], axis=0)
    group = split.groups(np.concatenate([near, same_source(rows)]), len(rows))
    if plan.dedupe and len(near):
        keep = leaders([row.item.split == "held_out" for row in rows], split.groups(near, len(rows)), new, rows)
        good, rows, near = good[keep], [rows[i] for i in keep], near[:0]
        group = split.groups(same_source(rows), len(rows))
        if len(rows) < MIN_IMAGES:
            shutil.rmtree(part)
            raise TooFew(source, Report(len(rows), problems + new))
    is_held_out = held_out_rows(rows, group, plan.held_out, plan.keep_classes)
    if one_film(rows, group) and plan.held_out:
        last = count(int(is_held_out.sum()), "clip")
        action = f"split in time: all is one film, or looks it; the last {last} held out"
        new.append(Problem("*", "one-film", action))
    new += split.near_problems([row.item.name for row in rows], near, is_held_out)
    new += [
        Problem(row.item.name, "moved", "moved: from training to held out, where its near duplicate is")
        for row, out in zip(rows, is_held_out, strict=True)
        if out and row.item.split == "train"
    ]

    seconds = np.zeros(len(rows))
    np.maximum.at(seconds, group, [split.second_fraction(row.sha) for row in rows])
    order = order_rows(is_held_out, seconds[group], group, [row.sha for row in rows])
    for name in arrays_of(plan):
        _compact(part, name, len(records), good[order], form, channels[name])

    rows = [rows[i] for i in order]
    files = [f"{name}.u8" for name in channels]
    if plan.attributes:
        files.append("attributes.f32")
        np.array([row.item.attributes for row in rows], np.float32).tofile(part / "attributes.f32")
    labels, classes = index_labels([row.item.label for row in rows])
    if problem := number_problem([row.item.label for row in rows], classes):
        new.append(problem)
    meta = {
        "version": VERSION,
        "medium": plan.medium,
        "size": form.as_dict()["size"],
        "channels": channels,
        "train": int((~is_held_out).sum()),
        "names": [row.item.name for row in rows],
        "labels": labels.tolist(),
        "texts": [row.item.text for row in rows] if any(row.item.text for row in rows) else None,
        "captions": [list(row.item.texts or (row.item.text,)) for row in rows]
        if any(row.item.texts for row in rows)
        else [],
        "classes": classes,
        "attributes": plan.attributes,
        "seconds": seconds[group][order].tolist(),
        "problems": [[p.file, p.kind, p.action] for p in new],
        "fingerprint": fingerprint(plan, rows, classes, channels, int((~is_held_out).sum()), changed),
        "files": files,
    }
    _write(part / "meta.json", meta)
    paths = [part / name for name in ("meta.json", *files)]
    _write(part / _DIGESTS, {path.name: [sha256_of(path), *_state(path)] for path in paths})
    (part / "progress.jsonl").unlink()
    return meta


def _has_changed(record: dict[str, Any]) -> bool:
    """Whether the files of a row changed after the survey: the store's key is of what they were."""
    return not record["ok"] and any(kind == CHANGED for kind, _ in record["notes"])


def _is_relevant(action: str, channels: dict[str, int], plan: Plan) -> bool:
    """Whether a conversion of grey to RGB was neither requested nor undone for this side of a pair."""
    side = "sources" if action.endswith(OF_SOURCE) else "images"
    return plan.find_channels and channels[side] == 3


def _finish(part: Path, final: Path) -> None:
    """Rename ``part`` to the store; a store that another process completed without a lock stays."""
    try:
        part.rename(final)
    except OSError:
        if _complete_meta(final) is None:
            raise
        shutil.rmtree(part)


def _near(part: Path, form: Form, records: Records, good: np.ndarray) -> np.ndarray:
    """Pairs of good rows that look the same."""

    def rows(numbers: np.ndarray) -> np.ndarray:
        # Mapped anew each time: what was read of a map counts as memory of this process while it is open.
        stored = np.memmap(part / "images.work", np.uint8, "r", shape=(len(records), *form.array))
        return (stored if stored.ndim == 4 else split.middles(stored))[good[numbers]]

    hashes = np.array(records.hashes, np.uint64)[good]
    clear = len(form.array) == 3 and form.array[-1] == 4
    grounds = ((0, 0, 0), alpha.WHITE) if clear else (alpha.WHITE,)  # RGBA must look the same on any
    return split.near_duplicates(hashes, *(lambda i, b=b: alpha.composited(rows(i), b) for b in grounds))


def _fill(part: Path, plan: Plan, progress: home.Progress | None) -> Records:
    """Decode the remaining rows into ``*.work``; returns a record for every row."""
    n, form = len(plan.rows), plan.form
    names = arrays_of(plan)
    row_bytes = [math.prod(array_of(name, form)) for name in names]
    records = _read_progress(part, names, row_bytes)
    needed = sum(row_bytes) * (n - len(records))
    together = chunk_of(form)
    if (free := shutil.disk_usage(part).free) < needed:
        raise OSError(28, f"{needed >> 20} MiB are needed, {free >> 20} MiB are free")

    decoded = (plan.decoded or partial(decoded_images, plan))(plan.rows[len(records) :])
    with (part / "progress.jsonl").open("ab") as notes, decode.quiet():
        files = [(part / f"{name}.work").open("r+b" if records else "wb") for name in names]
        try:
            while done := list(islice(decoded, together)):
                arrays = {name: np.stack([row[k] for _, row in done]) for k, name in enumerate(names)}
                for file, array, length in zip(files, arrays.values(), row_bytes, strict=True):
                    file.seek(len(records) * length)
                    file.write(array.data)
                    file.flush()
                    os.fsync(file.fileno())
                chunk = completed([record for record, _ in done], arrays)
                records.extend(chunk)
                notes.write(json.dumps(chunk).encode() + b"\n")
                notes.flush()
                os.fsync(notes.fileno())
                if progress:
                    progress(len(records), n, "decoding")
        finally:
            for file in files:
                file.close()
    return records


def _read_progress(part: Path, names: list[str], row_bytes: list[int]) -> Records:
    """The records of an earlier build, without a truncated last line or rows that are not on disk."""
    path = part / "progress.jsonl"
    records, length = Records(), 0
    with contextlib.suppress(OSError, ValueError, RecursionError):
        have = min((part / f"{name}.work").stat().st_size // n for name, n in zip(names, row_bytes, strict=True))
        with path.open("rb") as lines:
            for line in lines:
                chunk = json.loads(line) if line.endswith(b"\n") else None
                if chunk is None or len(records) + len(chunk) > have:
                    break
                records.extend(chunk)
                length += len(line)
    if path.exists():
        os.truncate(path, length)
    return records


def _compact(part: Path, name: str, n: int, order: np.ndarray, form: Form, channels: int) -> None:
    """``NAME.work`` to ``NAME.u8``: the good rows in their final order, one channel of three if all are grey."""
    work, final = part / f"{name}.work", part / f"{name}.u8"
    shape = array_of(name, form)
    if channels == shape[-1] and np.array_equal(order, np.arange(n)):
        work.rename(final)
        return
    row = np.empty(shape, np.uint8)
    with work.open("rb") as stored, replacing(final) as temporary, temporary.open("wb") as handle:
        for i in order.tolist():  # read, not mapped: a mapped file counts as memory of this process
            stored.seek(i * row.nbytes)
            if stored.readinto(row.data) != row.nbytes:
                raise OSError(errno.EIO, f"{work.name} is shorter than what was written")
            handle.write(np.ascontiguousarray(row[..., :channels]).data)
    work.unlink()
