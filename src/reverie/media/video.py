"""Short clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reverie.media import montage
from reverie.media.medium import Medium, fresh_folder, save_plain
from reverie.media.spec import Spec

FRAMES_PER_SECOND = 12.0


class Video(Medium):
    """uint8 (N, T, H, W, C), C = 1 (grey) or 3 (RGB)."""

    name = "video"
    dims = 3
    augmentations = ("flip", "translate", "color")

    def as_images(self, rows: np.ndarray, spec: Spec) -> tuple[np.ndarray, str] | None:
        return rows.reshape(len(rows) * rows.shape[1], *rows.shape[2:]), "frames"

    def sheet(self, rows: np.ndarray, spec: Spec, columns: int | None = None) -> np.ndarray:
        """A strip per clip: at most ``columns`` (8) frames, evenly spaced."""
        return montage.strips(rows, 8 if columns is None else columns)

    def save(self, path: Path, rows: np.ndarray, spec: Spec, meta: Mapping[str, Any]) -> None:
        """A film of all clips side by side (.webp, .gif, .mp4), an .npz, a sheet, or a folder with a film per clip."""
        seconds = spec.shape[0] / FRAMES_PER_SECOND
        if path.suffix.lower() in montage.FILMS:
            frames = [montage.grid(rows[:, time], scale=1) for time in range(rows.shape[1])]
            montage.save_film(path, np.stack(frames), seconds)
        elif path.suffix:
            save_plain(self, path, rows, spec, meta)
        else:
            fresh_folder(path)
            for index, row in enumerate(rows):
                montage.save_film(path / f"{index:06d}.webp", row, seconds)
