"""Voxel grids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reverie.media import montage
from reverie.media.medium import Medium, save_plain
from reverie.media.origin import Origin
from reverie.media.spec import Spec


class Volume(Medium):
    """uint8 (N, D, H, W, C) of any number of channels."""

    name = "volume"
    noun = "volumes"
    unit = "voxels"
    dims = 3
    augmentations = ("flip", "translate")

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        slices = rows[:, rows.shape[1] // 2]
        return (slices, "central slices") if slices.shape[-1] in (1, 3) else None

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        """A strip per volume: at most ``columns`` (8) even slices; its first channel unless it has 1 or 3."""
        return montage.strips(rows if rows.shape[-1] in (1, 3) else rows[..., :1], 8 if columns is None else columns)

    def save(
        self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None = None
    ) -> None:
        """An archive (.npz) of ``x`` and ``meta``, a sheet of slices (.png ...), or a folder of .npy files."""
        save_plain(self, path, rows, spec, meta, origin)
