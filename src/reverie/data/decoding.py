"""Rows of a plan to records and arrays: images decoded in threads, by one range of values for the set."""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import cache as home
from reverie.data import ranges, split
from reverie.data.intake import Seen, parallel
from reverie.data.plan import Decoded, Form, Plan
from reverie.data.types import Problem
from reverie.media import decode

OF_SOURCE = "; it is the source of this pair"  # suffix of actions on the source, which has no separate name
CHUNK = 256  # samples decoded between two records; the only ones in memory
CHUNK_BYTES = 1 << 26  # of large ones, such as clips, fewer


class Records(Sequence[dict[str, Any]]):
    """Records of rows without their hashes, and the hashes; equal records are one object, so many take little memory.

    Attributes:
        hashes: uint64 (N,), 0 of what is unusable.
    """

    def __init__(self) -> None:
        self.hashes = array("Q")
        self._rows = list[dict[str, Any]]()
        self._equal = dict[str, dict[str, Any]]()

    def append(self, record: dict[str, Any]) -> None:
        self._rows.append({})
        self.hashes.append(0)
        self[-1] = record

    def extend(self, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            self.append(record)

    def __setitem__(self, row: int, record: dict[str, Any]) -> None:
        rest = {name: value for name, value in record.items() if name != "hash"}
        self._rows[row] = self._equal.setdefault(json.dumps(rest), rest)
        self.hashes[row] = int(record["hash"], 16)

    def __getitem__(self, row: Any) -> Any:
        return self._rows[row]

    def __len__(self) -> int:
        return len(self._rows)


def arrays_of(plan: Plan) -> list[str]:
    """The arrays of a store."""
    return ["images", "sources"] if plan.paired else ["images"]


def chunk_of(form: Form) -> int:
    """Samples decoded between two records."""
    return max(1, min(CHUNK, CHUNK_BYTES // math.prod(form.array)))


def decoded_images(plan: Plan, rows: list[Seen]) -> Iterator[Decoded]:
    """Records and arrays of images, each decoded by the range of its own kind of values."""
    return parallel(lambda row: _decode_row(row, plan, {}), rows, chunk_of(plan.form))


def _decode_row(row: Seen, plan: Plan, chosen: dict[str, decode.Ranges]) -> Decoded:
    """The record of one image (or pair) and its arrays, zeros if it is unusable; ``chosen`` ranges of each array."""
    form, paired = plan.form, plan.paired
    assert isinstance(form, decode.Form)
    arrays, notes, tallies, ends = list[np.ndarray](), list[decode.Note](), dict[str, Any](), dict[str, Any]()
    try:
        for name, file in (("images", row.item.file), ("sources", row.item.source if paired else None)):
            if file is None:
                continue
            try:
                data = file.read()
            except Exception as error:  # deleted or forbidden since it was listed
                raise decode.Unusable("unreadable", f"skipped: cannot be read ({error})") from None
            suffix = Path(file.path).suffix if file.offset < 0 else ""
            decoded = decode.decode_of_set(data, form, chosen.get(name, {}), suffix, plan.max_pixels, file.half)
            array, new, tallies[name], ends[name] = decoded
            arrays.append(array)
            notes += new if name == "images" else [(kind, action + OF_SOURCE) for kind, action in new]
        return record_of(arrays, notes) | {"tally": tallies, "ends": ends}, arrays
    except decode.Unusable as error:
        return unusable([(error.kind, error.action)]), [np.zeros(form.array, np.uint8)] * (2 if paired else 1)


def record_of(arrays: list[np.ndarray], notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row: whether its arrays (the source of a pair is the second) are grey, and its hash."""
    grey = {name: _is_grey(array) for name, array in zip(("images", "sources"), arrays, strict=False)}
    image = arrays[0] if arrays[0].ndim == 3 else split.middles(arrays[0][None])[0]
    return {"ok": True, "grey": grey, "hash": f"{split.difference_hash(image):x}", "notes": notes}


def _is_grey(array: np.ndarray) -> bool:
    """Whether the channels of (*shape, C) are equal everywhere; a part of the values tells that of most images."""
    return bool((array[0] == array[0][..., :1]).all() and (array == array[..., :1]).all())


def unusable(notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row that cannot be used."""
    return {"ok": False, "grey": {}, "hash": "0", "notes": notes}


def to_one_range(
    part: Path, plan: Plan, records: Records, progress: home.Progress | None
) -> tuple[list[Problem], list[str]]:
    """Decode again what was decoded by another range of values than that of the set; returns problems and changes."""
    names, problems, changed = arrays_of(plan), list[Problem](), list[str]()
    if not isinstance(plan.form, decode.Form):
        return problems, changed
    by_array = {} if plan.form.ends else {name: ranges.decide(records, name) for name in names}
    chosen = {name: ranges.ranges_of(decisions) for name, decisions in by_array.items()}
    again = sorted({i for name in by_array for i in ranges.to_repeat(records, name, chosen[name])})
    row_bytes = math.prod(plan.form.array)
    with contextlib.ExitStack() as stack:
        stack.enter_context(decode.quiet())
        files = [stack.enter_context((part / f"{name}.work").open("r+b")) for name in names]
        decoded = parallel(lambda i: _decode_row(plan.rows[i], plan, chosen), again, CHUNK)
        for done, (i, (record, arrays)) in enumerate(zip(again, decoded, strict=True), start=1):
            records[i] = record
            for file, array in zip(files, arrays, strict=True):
                file.seek(i * row_bytes)
                file.write(array.tobytes())
            if progress and (done % CHUNK == 0 or done == len(again)):
                progress(done, len(again), "decoding")
    for name, decisions in by_array.items():
        problems += ranges.problems([row.item.name for row in plan.rows], records, name, decisions)
    for name in names:
        changed += ranges.changed(records, name, chosen.get(name, {}))
    return problems, sorted({*changed})
