"""What decoding says of each row: whether it can be used, its conversions, its values, its hash."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reverie.data import split
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


def completed(records: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The records, those of usable rows with their hashes and which of their arrays are grey.

    For many rows at once: in the threads that decode, so many short calls would wait for the interpreter.

    Args:
        arrays: name, as in the store -> (N, *shape, C); masks are not looked at.
    """
    images = arrays["images"] if arrays["images"].ndim == 4 else split.middles(arrays["images"])
    grey = {name: _are_grey(array) for name, array in arrays.items() if name != "masks"}
    for i, (record, image_hash) in enumerate(zip(records, split.difference_hashes(images).tolist(), strict=True)):
        if record["ok"]:
            record |= {"grey": {name: grey[name][i] for name in grey}, "hash": f"{image_hash:x}"}
    return records


def _are_grey(array: np.ndarray) -> list[bool]:
    """Whether the channels of each row (*shape, C) are equal everywhere; a part of the values tells that of most."""
    first = array[:, 0]
    grey = (first == first[..., :1]).all(axis=tuple(range(1, first.ndim)))
    for i in np.flatnonzero(grey):
        grey[i] = (array[i] == array[i][..., :1]).all()
    return list(grey.tolist())
