"""Batches of a training step: one gather from the store, the rest on the training device.

The samples of a step are a function of (seed, step, row of the global batch): each epoch is a permutation keyed by the
seed and the epoch's number. So the order needs no saving, and ranks need no communication.
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
from reverie.data.types import SPATIAL, Split
from reverie.media import Spec, medium_of
from reverie.media.medium import to_float

MASK_RANGE = (-255.0, 255.0)  # a mask's 0 and 255 are 0 and 1 in a batch


class NoData:
    """Batches without columns, for training without data: ``len(batch.rng)`` rows, each with its own random numbers.

    Args:
        batch_size: rows of the global batch.
        seed: the run's seed.
        start, rows: this rank's rows of the global batch (all by default).
        device: of the batches.

    Attributes:
        row: (rows,) indices of this rank's rows in the global batch.
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
        """This rank's part of the global batch of that step."""
        columns = self._columns(step, self.start, self.rows)
        return Batch(columns, rng=self.stream(step, "forward"), row=self.row)

    def global_batch(self, step: int) -> Batch:
        """The global batch of that step, the same on every rank."""
        rng = Noise.of_step(fold(self.seed, step, "prepare"), 0, self.batch_size, self.device)
        return Batch(self._columns(step, 0, self.batch_size), rng=rng)

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Every sample once, in order and without augmentation, ``rows`` at a time, the same on every rank."""
        yield from ()

    def stream(self, step: int, name: str) -> Noise:
        """The random numbers of this rank's rows for one purpose in a step."""
        return Noise.of_step(fold(self.seed, step, name), self.start, self.rows, self.device)

    def _columns(self, step: int, start: int, rows: int) -> dict[str, Any]:
        return {}


class Batches(NoData):
    """``batches(step)`` is this rank's part of the global batch of that step, with every column of the split.

    Args:
        split: the training split.
        batch_size, seed, start, rows: as for ``NoData``.
        augment: applied on the device, to ``x``, ``source`` and ``mask`` together.
        device: of the batches. A GPU keeps a column that fits into an eighth of its free memory.

    Raises:
        UsageError: an augmentation that the medium does not allow.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        start: int = 0,
        rows: int | None = None,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ):
        super().__init__(batch_size, seed, start, rows, device)
        self.split, self.augment = split, augment or Augment()
        self.augment.check(split.spec.medium, medium_of(split.spec).augmentations)
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))
        self._spatial = {name: self._resident(split[name]) for name in SPATIAL if name in split}

    def _resident(self, column: np.ndarray) -> Tensor | np.ndarray:
        if self.device.type == "cuda" and column.nbytes * 8 < torch.cuda.mem_get_info(self.device)[0]:
            return torch.tensor(column, device=self.device)
        return column

    def order(self, epoch: int) -> np.ndarray:
        """The permutation (N,) of an epoch."""
        if self._epoch[0] != epoch:
            keys = Noise.of_step(fold(self.seed, "order", epoch), 0, len(self.split)).keys
            self._epoch = (epoch, keys.argsort().numpy())
        return self._epoch[1]

    def index(self, step: int, start: int | None = None, rows: int | None = None) -> np.ndarray:
        """Indices (rows,) of the samples in these rows of the global batch at ``step``; this rank's by default."""
        start, rows = self.start if start is None else start, self.rows if rows is None else rows
        position = step * self.batch_size + start + np.arange(rows, dtype=np.int64)
        epochs, within = np.divmod(position, len(self.split))
        chosen = np.empty(rows, np.int64)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self.order(int(epoch))[within[epochs == epoch]]
        return chosen

    def _columns(self, step: int, start: int, rows: int) -> dict[str, Any]:
        index = self.index(step, start, rows)
        spatial = {
            name: _float(name, column, index, self.split.spec, self.device) for name, column in self._spatial.items()
        }
        if self.augment:
            rng = Noise.of_step(fold(self.seed, step, "augment"), start, rows, self.device)
            spatial = self.augment(spatial, rng)
        return spatial | _others(self.split, index, self.device) | self._drawn(step, start, index)

    def _drawn(self, step: int, start: int, index: np.ndarray) -> dict[str, list[str]]:
        """One caption of each row, where images have several."""
        captions = self.split.get("captions")
        if captions is None:
            return {}
        rng = Noise.of_step(fold(self.seed, step, "caption"), start, len(index))
        share = rng.uniform().flatten().tolist()
        return {"text": [captions[i][int(u * len(captions[i]))] for i, u in zip(index, share, strict=True)]}

    def in_order(self, rows: int) -> Iterator[Batch]:
        return in_order(self.split, rows, self.device)


def _float(name: str, column: Tensor | np.ndarray, index: np.ndarray, spec: Spec, device: torch.device) -> Tensor:
    """Rows of a spatial column as float32 (B, C, *shape): one gather, one permute."""
    rows = column[torch.from_numpy(index).to(device)] if isinstance(column, Tensor) else column[index]
    low, high = MASK_RANGE if name == "mask" else (spec.low, spec.high)
    return to_float(rows, device, low, high)


def _others(split: Split, index: np.ndarray, device: torch.device) -> dict[str, Any]:
    """Rows of the columns that are not spatial; of several captions, the first."""
    others = (name for name in split.columns if name not in SPATIAL and name != "captions")
    return {name: take(split[name], index, device) for name in others}


def take(column: np.ndarray | list[str], index: np.ndarray, device: torch.device) -> Tensor | list[str]:
    """Rows of a column: numbers as a tensor on the device, texts as a list."""
    if isinstance(column, np.ndarray):
        return torch.from_numpy(column[index]).to(device, non_blocking=True)
    return [column[i] for i in index]


def in_order(split: Split, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Every sample once, in order, for evaluation. Row i uses noise stream i at any batch size."""
    device = torch.device(device)
    for low in range(0, len(split), batch_size):
        index = np.arange(low, min(low + batch_size, len(split)))
        spatial = {name: _float(name, split[name], index, split.spec, device) for name in SPATIAL if name in split}
        rng = Noise.of_step(fold(0), low, len(index), device)
        yield Batch(spatial | _others(split, index, device), rng=rng)
