"""All rows of a data set, the training rows first: their images, names and labels by number."""

from __future__ import annotations

import numpy as np

from reverie.data import Dataset


def images_at(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Stored rows (N, *shape, C)."""
    splits, cut = (data.train["x"], data.held_out["x"]), len(data.train)
    return np.stack([splits[int(row >= cut)][row - cut * int(row >= cut)] for row in rows])


def names_in(data: Dataset) -> list[str]:
    """Of every row."""
    return [*data.train.names, *data.held_out.names]


def labels_in(data: Dataset) -> np.ndarray:
    """Class indices (N,), -1 for none."""
    return np.concatenate([data.train.labels, data.held_out.labels])
