"""Short clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reverie.media import montage
from reverie.media.medium import Medium, save_folder, save_plain
from reverie.media.origin import Origin, ending_of
from reverie.media.spec import Spec

FRAMES_PER_SECOND = 12.0


class Video(Medium):
    """uint8 (N, T, H, W, C), C = 1 (grey) or 3 (RGB)."""

    name = "video"
    noun = "clips"
    dims = 3
    augmentations = ("flip", "translate", "color")
    ending = ".webp"

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        return rows.reshape(len(rows) * rows.shape[1], *rows.shape[2:]), "frames"

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        """A strip per clip: at most ``columns`` (8) frames, evenly spaced."""
        return montage.strips(rows, 8 if columns is None else columns)

    def save(
        self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any], origin: Origin | None = None
    ) -> None:
        """A film of all clips side by side (.webp, .gif, .mp4), an .npz, a sheet, or a folder with a film per clip."""
        if ending_of(path) in montage.FILMS:
            frames = [montage.grid(rows[:, time], scale=1) for time in range(rows.shape[1])]
            montage.save_film(path, np.stack(frames), spec.shape[0] / FRAMES_PER_SECOND, origin=origin)
        elif ending_of(path):
            save_plain(self, path, rows, spec, meta, origin)
        else:
            save_folder(self, path, rows, spec, origin)

    def save_row(self, path: Path, row: np.ndarray, spec: Spec, origin: Origin | None = None) -> None:
        montage.save_film(path, row, spec.shape[0] / FRAMES_PER_SECOND, origin=origin)
