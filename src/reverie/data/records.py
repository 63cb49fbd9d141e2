"""What decoding says of each row: whether it can be used, its conversions, its values, its hash."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
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


def record_of(arrays: list[np.ndarray], notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row: whether its arrays (the source of a pair is the second) are grey, and its hash."""
    grey = {name: _is_grey(array) for name, array in zip(("images", "sources"), arrays, strict=False)}
    image = arrays[0] if arrays[0].ndim == 3 else split.middles(arrays[0][None])[0]
    return {"ok": True, "grey": grey, "hash": f"{split.difference_hash(image):x}", "notes": notes}


def unusable(notes: list[decode.Note]) -> dict[str, Any]:
    """The record of a row that cannot be used."""
    return {"ok": False, "grey": {}, "hash": "0", "notes": notes}


def _is_grey(array: np.ndarray) -> bool:
    """Whether the channels of (*shape, C) are equal everywhere; a part of the values tells that of most images."""
    return bool((array[0] == array[0][..., :1]).all() and (array == array[..., :1]).all())
