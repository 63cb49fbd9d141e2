"""Rows of a plan to records and arrays: images decoded in threads, by one range of values for the set."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import cache as home
from reverie.data import marking, ranges
from reverie.data.intake import Seen, parallel, read_again
from reverie.data.plan import Decoded, Form, Plan
from reverie.data.records import Records, completed, unusable, usable
from reverie.data.types import Problem
from reverie.media import decode

OF_SOURCE = "; it is the source of this pair"  # suffix of actions on the source, which has no separate name
CHUNK = 256  # samples decoded between two records; the only ones in memory
CHUNK_BYTES = 1 << 26  # of large ones, such as clips, fewer


def arrays_of(plan: Plan) -> list[str]:
    """The arrays of a store."""
    return ["images"] + ["sources"] * plan.paired + ["masks"] * (plan.marking is not None)


def array_of(name: str, form: Form) -> tuple[int, ...]:
    """The shape of a row in an array of the store while it is built."""
    return (*form.array[:-1], 1) if name == "masks" else form.array


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
    files = [file for file in (row.item.file, row.item.source if paired else None) if file is not None]
    try:
        contents = read_again(files, row.sha)
        for name, file, data in zip(("images", "sources"), files, contents, strict=False):
            suffix = Path(file.path).suffix if file.offset < 0 else ""
            decoded = decode.decode_of_set(data, form, chosen.get(name, {}), suffix, plan.max_pixels, file.half)
            array, new, tallies[name], ends[name] = decoded
            arrays.append(array)
            notes += new if name == "images" else [(kind, action + OF_SOURCE) for kind, action in new]
        record = usable(notes) | {"tally": tallies, "ends": ends}
        if plan.marking is not None:
            region, new, record["marked"] = marking.region_of(row, contents[0], form, plan.marking, plan.max_pixels)
            record["notes"] += new
            arrays.append(region)
        return record, arrays
    except decode.Unusable as error:
        empty = [np.zeros(array_of(name, form), np.uint8) for name in arrays_of(plan)]
        return unusable([(error.kind, error.action)]), empty


def to_one_range(
    part: Path, plan: Plan, records: Records, progress: home.Progress | None
) -> tuple[list[Problem], list[str]]:
    """Decode again what was decoded by another range of values than that of the set; returns problems and changes."""
    names, problems, changed = arrays_of(plan), list[Problem](), list[str]()
    if not isinstance(plan.form, decode.Form):
        return problems, changed
    decided = [name for name in names if name != "masks"]
    by_array = {} if plan.form.ends else {name: ranges.decide(records, name) for name in decided}
    chosen = {name: ranges.ranges_of(decisions) for name, decisions in by_array.items()}
    again = sorted({i for name in by_array for i in ranges.to_repeat(records, name, chosen[name])})
    row_bytes = [math.prod(array_of(name, plan.form)) for name in names]
    with contextlib.ExitStack() as stack:
        stack.enter_context(decode.quiet())
        files = [stack.enter_context((part / f"{name}.work").open("r+b")) for name in names]
        decoded = parallel(lambda i: _decode_row(plan.rows[i], plan, chosen), again, CHUNK)
        for done, (i, (record, arrays)) in enumerate(zip(again, decoded, strict=True), start=1):
            (records[i],) = completed([record], {name: a[None] for name, a in zip(names, arrays, strict=True)})
            for file, array, length in zip(files, arrays, row_bytes, strict=True):
                file.seek(i * length)
                file.write(array.tobytes())
            if progress and (done % CHUNK == 0 or done == len(again)):
                progress(done, len(again), "decoding")
    for name, decisions in by_array.items():
        problems += ranges.problems([row.item.name for row in plan.rows], records, name, decisions)
    for name in decided:
        changed += ranges.changed(records, name, chosen.get(name, {}))
    return problems, sorted({*changed})
