"""What decoding says of each row: whether it can be used, its conversions, its values, its hash."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from reverie.data import split
from reverie.data.plan import Decoded
from reverie.media import decode


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


def usable(notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row that can be used, to be ``completed``."""
    return {"ok": True, "notes": notes}


def unusable(notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row that cannot be used."""
    return {"ok": False, "grey": {}, "hash": "0", "notes": notes}


def completed(rows: Sequence[Decoded], names: Sequence[str]) -> list[dict[str, Any]]:
    """The records of rows, those of usable ones with their hashes and which of their arrays are grey.

    For many rows at once: in the threads that decode, so many short calls would wait for the interpreter.

    Args:
        rows: with arrays of one shape.
        names: of their arrays; "masks" are not looked at.
    """
    good = [row for row in rows if row[0]["ok"]]
    images = [arrays[0] if arrays[0].ndim == 3 else split.middles(arrays[0][None])[0] for _, arrays in good]
    grey = {name: _are_grey([row[1][k] for row in good]) for k, name in enumerate(names) if name != "masks"}
    for i, ((record, _), image_hash) in enumerate(zip(good, split.difference_hashes(images).tolist(), strict=True)):
        record |= {"grey": {name: grey[name][i] for name in grey}, "hash": f"{image_hash:x}"}
    return [record for record, _ in rows]


def _are_grey(arrays: list[np.ndarray]) -> list[bool]:
    """Whether the channels of each (*shape, C) are equal everywhere; a part of the values tells that of most images."""
    if not arrays:
        return []
    first = np.stack([array[0] for array in arrays]).reshape(len(arrays), -1, arrays[0].shape[-1])
    maybe = (first == first[..., :1]).all(axis=(1, 2)).tolist()
    return [grey and bool((array == array[..., :1]).all()) for grey, array in zip(maybe, arrays, strict=True)]
