"""The store: images decoded and fitted once into one uint8 memory map, so that a batch is one gather.

``$REVERIE_HOME/stores/KEY/`` holds ``images.u8`` (training rows first, then held-out ones), ``sources.u8`` for pairs,
``attributes.f32`` where there are some, and ``meta.json``. It is built in ``KEY.part/``, chunk by chunk, each noted in
``progress.jsonl`` once it is on the disk, so that a build that was killed goes on where it stopped; a rename makes it a
store.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from reverie import home
from reverie.core.errors import ReverieError
from reverie.core.files import replacing
from reverie.data import split
from reverie.data.intake import MIN_PICTURES, Seen, TooFew, parallel
from reverie.data.items import index_labels
from reverie.data.plan import VERSION, Plan, fingerprint, held_rows, order_rows, same_source
from reverie.data.types import Column, Dataset, Problem, Report, Split
from reverie.media import Spec, decode

_OF_SOURCE = "; it is the source of this pair"  # ends what was done to the other side, which has no name of its own
CHUNK = 256  # pictures decoded between two notes; the only pictures ever in memory


def open_or_build(
    source: str,
    wanted: Plan,
    problems: list[Problem],
    opened: dict[str, Any],
    part: str | None = None,
    progress: home.Progress | None = None,
) -> Dataset:
    """The data set of a plan, from its store; the store is built first if there is none that is whole.

    ``opened`` goes into the provenance. Two processes that ask for the same one: the second waits for the first.
    ``part`` ("train", "held_out") takes that split as the whole, and divides it again. Raises TooFew, and ReverieError
    where the cache folder takes no more.
    """
    final = home.home() / "stores" / wanted.key()
    meta = _whole(final)
    if meta is None:
        try:
            with home.locked(final.with_suffix(".lock")) as alone:
                meta = _whole(final)  # another process may have built it while this one waited
                if meta is None:
                    if final.exists():
                        shutil.rmtree(final)  # torn
                    work = final.with_suffix(".part" if alone else f".{os.getpid()}.part")
                    meta = _build(source, wanted, work, problems, progress)
                    _finish(work, final)
        except OSError as error:
            raise home.cannot_write(
                error, "the picture store", "What was built so far is kept, the next call goes on from there. "
            ) from error
    return _open(source, final, meta, problems, opened, part, wanted.held_out)


def _whole(folder: Path) -> dict[str, Any] | None:
    """The store's meta if all its files are there at their full size, else None."""
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
        return meta if meta["version"] == VERSION and sizes == meta["files"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _open(
    source: str,
    folder: Path,
    meta: dict[str, Any],
    problems: list[Problem],
    opened: dict[str, Any],
    part: str | None,
    held_out: float,
) -> Dataset:
    n, cut, size = len(meta["names"]), meta["train"], meta["size"]
    shape = (size, size) if isinstance(size, int) else tuple(size)
    columns: dict[str, Column] = {
        {"images": "x", "sources": "source"}[name]: np.memmap(
            folder / f"{name}.u8", np.uint8, "r", shape=(n, *shape, channels)
        )
        for name, channels in meta["channels"].items()
    }
    columns["label"] = np.array(meta["labels"], np.int64)
    if meta["texts"] is not None:
        columns["text"] = meta["texts"]
    if attributes := meta.get("attributes", []):
        columns["attributes"] = np.memmap(folder / "attributes.f32", np.float32, "r", shape=(n, len(attributes)))
    spec = Spec("image", shape, meta["channels"]["images"])
    rows = Split(columns, meta["names"], spec)
    train, held, printed = slice(0, cut), slice(cut, n), meta["fingerprint"]
    if part is not None:
        whole = train if part == "train" else held
        if whole.stop - whole.start < 2:
            raise ReverieError(f"{source} is one image, which cannot be divided into training and held-out ones.")
        # A split's rows rise by their second fraction, so that a share of them is one slice.
        middle = whole.start + int(np.searchsorted(meta["seconds"][whole], held_out))
        middle = min(max(middle, whole.start + 1), whole.stop - 1)
        train, held = slice(middle, whole.stop), slice(whole.start, middle)
        printed = hashlib.sha256(f"{printed} {part} {middle}".encode()).hexdigest()

    usable = train.stop - train.start + held.stop - held.start
    return Dataset(
        source=source,
        spec=spec,
        classes=meta["classes"],
        train=rows.take(train),
        held_out=rows.take(held),
        fingerprint=printed,
        report=Report(usable, problems + [Problem(*one) for one in meta["problems"]]),
        attributes=attributes,
        opened=opened,
    )


def _build(
    source: str, wanted: Plan, part: Path, problems: list[Problem], progress: home.Progress | None
) -> dict[str, Any]:
    """Everything of a store, in ``part``; its meta."""
    part.mkdir(parents=True, exist_ok=True)
    facts = _fill(part, wanted, progress)
    form = wanted.form
    good = np.array([i for i, fact in enumerate(facts) if fact["ok"]], np.int64)
    channels = {}
    for name in _arrays(wanted):
        grey = wanted.find_channels and all(facts[i]["grey"][name] for i in good)
        channels[name] = 1 if grey else form.channels
    new = [
        Problem(row.item.name, kind, action)
        for row, fact in zip(wanted.rows, facts, strict=True)
        for kind, action in fact["notes"]
        if kind != "grey" or _is_news(action, channels, wanted)
    ]
    if len(good) < MIN_PICTURES:
        shutil.rmtree(part)
        raise TooFew(source, Report(len(good), problems + new))

    rows = [wanted.rows[i] for i in good]
    near = _near(part, form, facts, good)
    group = split.groups(np.concatenate([near, same_source(rows)]), len(rows))
    held = held_rows(rows, group, wanted.held_out)
    new += split.near_problems([row.item.name for row in rows], near, held)
    new += [
        Problem(row.item.name, "moved", "moved: from training to held out, where its near duplicate is")
        for row, out in zip(rows, held, strict=True)
        if out and row.item.split == "train"
    ]

    seconds = np.zeros(len(rows))
    np.maximum.at(seconds, group, [split.second_fraction(row.sha) for row in rows])
    order = order_rows(held, seconds[group], group, [row.sha for row in rows])
    for name in _arrays(wanted):
        _compact(part, name, len(facts), good[order], form, channels[name])

    rows = [rows[i] for i in order]
    files = [f"{name}.u8" for name in channels]
    if wanted.attributes:
        files.append("attributes.f32")
        np.array([row.item.attributes for row in rows], np.float32).tofile(part / "attributes.f32")
    labels, classes = index_labels([row.item.label for row in rows])
    meta = {
        "version": VERSION,
        "size": form.as_dict()["size"],
        "channels": channels,
        "train": int((~held).sum()),
        "names": [row.item.name for row in rows],
        "labels": labels.tolist(),
        "texts": [row.item.text for row in rows] if any(row.item.text for row in rows) else None,
        "classes": classes,
        "attributes": wanted.attributes,
        "seconds": seconds[group][order].tolist(),
        "problems": [[p.file, p.kind, p.action] for p in new],
        "fingerprint": fingerprint(wanted, rows, classes, channels, int((~held).sum())),
        "files": {name: (part / name).stat().st_size for name in files},
    }
    with replacing(part / "meta.json") as aside, aside.open("wb") as handle:
        handle.write(json.dumps(meta).encode())
    (part / "progress.jsonl").unlink()
    return meta


def _is_news(grey: str, channels: dict[str, int], wanted: Plan) -> bool:
    """Whether grey to RGB was neither asked for nor undone, on the side of a pair that the note is of."""
    side = "sources" if grey.endswith(_OF_SOURCE) else "images"
    return wanted.find_channels and channels[side] == 3


def _finish(part: Path, final: Path) -> None:
    """``part`` becomes the store; where a process that took no lock was faster, its store stays."""
    try:
        part.rename(final)
    except OSError:
        if _whole(final) is None:
            raise
        shutil.rmtree(part)


def _near(part: Path, form: decode.Form, facts: list[dict[str, Any]], good: np.ndarray) -> np.ndarray:
    """Pairs of good rows that look the same. (Closes its map: Windows renames no mapped file.)"""
    pixels = np.memmap(part / "images.work", np.uint8, "r", shape=(len(facts), *form.array))
    hashes = np.array([int(facts[i]["hash"], 16) for i in good], np.uint64)
    return split.near_duplicates(hashes, lambda some: pixels[good[some]])


def _fill(part: Path, wanted: Plan, progress: home.Progress | None) -> list[dict[str, Any]]:
    """Decode what is not decoded yet into ``*.work``; one dict of facts for every row."""
    n, form = len(wanted.rows), wanted.form
    row_bytes = math.prod(form.array)
    names = _arrays(wanted)
    facts = _read_progress(part, names, row_bytes)
    needed = row_bytes * (n - len(facts)) * len(names)
    if (free := shutil.disk_usage(part).free) < needed:
        raise OSError(28, f"{needed >> 20} MiB are needed, {free >> 20} MiB are free")

    def work(row: Seen) -> tuple[dict[str, Any], list[np.ndarray]]:
        return _decode_row(row, form, wanted.paired)

    with (part / "progress.jsonl").open("ab") as notes, decode.quiet():
        files = [(part / f"{name}.work").open("r+b" if facts else "wb") for name in names]
        try:
            for start in range(len(facts), n, CHUNK):
                done = list(parallel(work, wanted.rows[start : start + CHUNK], CHUNK))
                for k, file in enumerate(files):
                    file.seek(start * row_bytes)
                    for _, arrays in done:
                        file.write(arrays[k].tobytes())
                    file.flush()
                    os.fsync(file.fileno())
                chunk = [fact for fact, _ in done]
                facts += chunk
                notes.write(json.dumps(chunk).encode() + b"\n")
                notes.flush()
                os.fsync(notes.fileno())
                if progress:
                    progress(len(facts), n, "decoding")
        finally:
            for file in files:
                file.close()
    return facts


def _decode_row(row: Seen, form: decode.Form, paired: bool) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Facts of one picture (or pair) and its arrays, which are zeros when it cannot be used."""
    arrays, notes = [], []
    fact: dict[str, Any] = {"ok": True, "grey": {}, "hash": "0"}
    try:
        for name, file in (("images", row.item.file), ("sources", row.item.source if paired else None)):
            if file is None:
                continue
            try:
                data = file.read()
            except Exception as error:  # gone or forbidden since it was listed
                raise decode.Unusable("unreadable", f"skipped: cannot be read ({error})") from None
            array, said = decode.decode(data, form, Path(file.path).suffix if file.offset < 0 else "")
            arrays.append(array)
            notes += said if name == "images" else [(kind, action + _OF_SOURCE) for kind, action in said]
            fact["grey"][name] = bool((array == array[..., :1]).all())
        fact["hash"] = f"{split.difference_hash(arrays[0]):x}"
    except decode.Unusable as error:
        notes = [(error.kind, error.action)]
        arrays = [np.zeros(form.array, np.uint8)] * (2 if paired else 1)
        fact["ok"] = False
    return {**fact, "notes": notes}, arrays


def _read_progress(part: Path, names: list[str], row_bytes: int) -> list[dict[str, Any]]:
    """The facts noted by an earlier build; a last line cut short, or rows that are not on the disk, do not count."""
    path = part / "progress.jsonl"
    facts: list[dict[str, Any]] = []
    whole = 0
    try:
        have = min((part / f"{name}.work").stat().st_size for name in names) // row_bytes
        for line in path.read_bytes().splitlines(keepends=True):
            chunk = json.loads(line) if line.endswith(b"\n") else None
            if chunk is None or len(facts) + len(chunk) > have:
                break
            facts += chunk
            whole += len(line)
    except (OSError, ValueError):
        pass
    if path.exists():
        os.truncate(path, whole)
    return facts


def _compact(part: Path, name: str, n: int, order: np.ndarray, form: decode.Form, channels: int) -> None:
    """``NAME.work`` to ``NAME.u8``: the good rows in their final order, one channel of three if all are grey."""
    work, final = part / f"{name}.work", part / f"{name}.u8"
    if channels == form.channels and np.array_equal(order, np.arange(n)):
        work.rename(final)
        return
    rows = np.memmap(work, np.uint8, "r", shape=(n, *form.array))
    with replacing(final) as aside, aside.open("wb") as handle:
        for start in range(0, len(order), CHUNK):
            handle.write(rows[order[start : start + CHUNK]][..., :channels].tobytes())
    del rows  # Windows does not unlink a mapped file
    work.unlink()


def _arrays(wanted: Plan) -> list[str]:
    return ["images", "sources"] if wanted.paired else ["images"]
