"""Signals in time: sound, sensors, series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reverie.media.medium import Medium, save_plain
from reverie.media.origin import Origin
from reverie.media.spec import Spec


class Sequence(Medium):
    """float32 or int16 (N, L, C); ``low`` and ``high`` of the spec map to -1 and 1."""

    name = "sequence"
    noun = "series"
    unit = "times"
    dims = 1
    storage = np.dtype(np.float32)
    augmentations = ("translate",)

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        return None

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        """A plot per sequence, a line per channel."""
        from reverie.media.plots import sequence_sheet

        return sequence_sheet([rows], spec.low, spec.high, columns)

    def save(
        self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None = None
    ) -> None:
        """An archive (.npz) of ``x`` and ``meta``, a sheet of plots (.png ...), or a folder of .npy files."""
        save_plain(self, path, rows, spec, meta, origin)
