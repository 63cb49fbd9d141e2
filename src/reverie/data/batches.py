"""Batches of a training step: one gather from the store, the rest on the training device.

Which pictures a step sees is a function of (seed, step, place in the global batch): each epoch is a permutation keyed
by the seed and the epoch's number. So nothing of the data's order needs saving, and ranks need not talk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.noise import Noise, fold
from reverie.data.augment import Augment
from reverie.data.types import Pictures
from reverie.pictures import to_float


class Batches:
    """``batches(step)`` is this rank's part of the global batch of that step.

    Args:
        pictures: the training split.
        batch_size: rows of the global batch.
        seed: the run's seed.
        start, rows: which rows of the global batch to make (all by default).
        augment: applied on the device.
        device: where batches are made. On a GPU, a split that fits in an eighth of its free memory is kept there.
    """

    def __init__(
        self,
        pictures: Pictures,
        batch_size: int,
        seed: int,
        start: int = 0,
        rows: int | None = None,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ):
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.start, self.rows = start, batch_size if rows is None else rows
        self.augment, self.device = augment or Augment(), torch.device(device)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._images = self._place(pictures.images)
        self._sources = None if pictures.sources is None else self._place(pictures.sources)

    def _place(self, array: np.ndarray) -> Tensor | np.ndarray:
        if self.device.type == "cuda" and array.nbytes * 8 < torch.cuda.mem_get_info(self.device)[0]:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        return array

    def _gather(self, array: Tensor | np.ndarray, index: np.ndarray) -> Tensor:
        if isinstance(array, Tensor):
            return to_float(array[torch.from_numpy(index).to(self.device)])
        return to_float(array[index], self.device)

    def order(self, epoch: int) -> np.ndarray:
        """The permutation (N,) of an epoch."""
        if self._epoch[0] != epoch:
            keys = Noise.of_step(fold(self.seed, "order", epoch), 0, len(self.pictures)).keys
            self._epoch = (epoch, keys.argsort().numpy())
        return self._epoch[1]

    def index(self, step: int) -> np.ndarray:
        """Which pictures (rows,) are this rank's at ``step``."""
        place = step * self.batch_size + self.start + np.arange(self.rows, dtype=np.int64)
        epochs, within = np.divmod(place, len(self.pictures))
        chosen = np.empty(self.rows, np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self.order(int(epoch))[within[epochs == epoch]]
        return chosen

    def __call__(self, step: int) -> Batch:
        index = self.index(step)
        columns = take(self.pictures, index)
        images = [self._gather(array, index) for array in (self._images, self._sources) if array is not None]
        if self.augment:
            images = self.augment(images, self.stream(step, "augment"))
        columns |= dict(zip(("x", "source"), images, strict=False))
        columns["label"] = torch.from_numpy(self.pictures.labels[index]).to(self.device, non_blocking=True)
        return Batch(columns, rng=self.stream(step, "forward"), row=self.row)

    def whole(self, step: int) -> Batch:
        """The global batch of a step, on every rank alike."""
        rows = (0, self.batch_size)
        return Batches(self.pictures, self.batch_size, self.seed, *rows, self.augment, self.device)(step)

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Every picture once, in the data's order and as it is, ``rows`` at a time, on every rank alike."""
        return in_order(self.pictures, rows, self.device)

    @property
    def row(self) -> Tensor:
        """(rows,) places of this rank's rows in the global batch."""
        return torch.arange(self.start, self.start + self.rows, device=self.device)

    def stream(self, step: int, name: str) -> Noise:
        """The random numbers of this rank's rows for one purpose of a step."""
        return Noise.of_step(fold(self.seed, step, name), self.start, self.rows, self.device)


class NoData:
    """Batches without columns, for training without data: ``len(batch.rng)`` rows, each with its own random numbers.

    Args:
        batch_size, seed, start, rows, device: as for ``Batches``.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int,
        start: int = 0,
        rows: int | None = None,
        device: torch.device | str = "cpu",
    ):
        self.batch_size, self.seed, self.start = batch_size, seed, start
        self.rows, self.device = batch_size if rows is None else rows, torch.device(device)
        self.row = torch.arange(self.start, self.start + self.rows, device=self.device)

    def __call__(self, step: int) -> Batch:
        return Batch(rng=self.stream(step, "forward"), row=self.row)

    def whole(self, step: int) -> Batch:
        """The global batch of a step, on every rank alike."""
        return NoData(self.batch_size, self.seed, device=self.device)(step)

    def in_order(self, rows: int) -> Iterator[Batch]:
        """There is nothing to go through."""
        yield from ()

    def stream(self, step: int, name: str) -> Noise:
        """The random numbers of this rank's rows for one purpose of a step."""
        return Noise.of_step(fold(self.seed, step, name), self.start, self.rows, self.device)


def take(pictures: Pictures, index: np.ndarray) -> dict[str, Any]:
    """The captions of the chosen rows, where the data has them."""
    return {} if pictures.texts is None else {"text": [pictures.texts[i] for i in index]}


def in_order(pictures: Pictures, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Every picture once, in order: for evaluation. Row i draws from stream i, whatever the batch size."""
    for low in range(0, len(pictures), batch_size):
        index = np.arange(low, min(low + batch_size, len(pictures)))
        columns = take(pictures, index)
        columns["x"] = to_float(pictures.images[index], device)
        if pictures.sources is not None:
            columns["source"] = to_float(pictures.sources[index], device)
        columns["label"] = torch.from_numpy(pictures.labels[index]).to(device)
        yield Batch(columns, rng=Noise.of_step(fold(0), low, len(index), device))
