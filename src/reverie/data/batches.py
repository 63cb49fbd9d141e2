"""Batches of a training step: one gather from the store, the rest on the training device.

Which pictures a step sees is a function of (seed, step, place in the global batch): each epoch is a permutation keyed
by the seed and the epoch's number. So nothing of the data's order needs saving, and ranks need not talk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from reverie.data.augment import Augment
from reverie.data.types import Pictures
from reverie.noise import Noise, fold
from reverie.pictures import to_float
from reverie.verbs import Batch

_AUGMENTATION = 1 << 32  # names the augmentation's stream; the phases' are 1, 2, ...
_ORDER = 1 << 33


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
            keys = Noise.of_step(fold(self.seed, _ORDER, epoch), 0, len(self.pictures)).keys
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
        batch = take(self.pictures, index)
        images = [self._gather(array, index) for array in (self._images, self._sources) if array is not None]
        if self.augment:
            images = self.augment(
                images, Noise.of_step(fold(self.seed, step, _AUGMENTATION), self.start, self.rows, self.device)
            )
        batch |= dict(zip(("image", "source"), images, strict=False))
        batch["label"] = torch.from_numpy(self.pictures.labels[index]).to(self.device, non_blocking=True)
        return batch


def take(pictures: Pictures, index: np.ndarray) -> Batch:
    """The captions of the chosen rows, where the data has them."""
    return {} if pictures.texts is None else {"text": [pictures.texts[i] for i in index]}


def split_rows(batch: Batch, parts: int) -> list[Batch]:
    """A batch as ``parts`` consecutive smaller ones (gradient accumulation); scalars are shared."""
    rows = len(batch["image"])
    cuts = [rows * part // parts for part in range(parts + 1)]

    def cut(value, low: int, high: int):
        return value if isinstance(value, Tensor) and value.ndim == 0 else value[low:high]

    return [{key: cut(value, low, high) for key, value in batch.items()} for low, high in itertools.pairwise(cuts)]


def in_order(pictures: Pictures, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Every picture once, in order: for evaluation. Row i draws from stream i, whatever the batch size."""
    for low in range(0, len(pictures), batch_size):
        index = np.arange(low, min(low + batch_size, len(pictures)))
        batch = take(pictures, index)
        batch["image"] = to_float(pictures.images[index], device)
        if pictures.sources is not None:
            batch["source"] = to_float(pictures.sources[index], device)
        batch["label"] = torch.from_numpy(pictures.labels[index]).to(device)
        batch["rng"] = Noise.of_step(fold(0), low, len(index), device)
        yield batch
