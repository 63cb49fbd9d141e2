"""A batch: named columns, rows first, with the random streams and progress of its training step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reverie.core.errors import UsageError
from reverie.core.noise import Noise


class Batch(dict[str, Any]):
    """Columns by name: a Tensor (B, ...) or a list of B. The engine adds attributes, never keys.

    The primary column is ``x`` (B, C, *shape), float32 in [-1, 1]. Optional columns: ``label`` (B,) int64 (-1 = none),
    ``text`` (B strings), ``attributes`` (B, A), ``source`` (the other image of a pair), ``mask``.

    Attributes:
        rng: one stream of random numbers per row; its length is the number of rows, even without columns.
        shared: a ``Noise`` of one row, the same on all ranks and in all parts of a batch.
        row: (B,) int64, index in the global batch.
        progress: 0-dim, of the stage, in [0, 1].
        due: names of the phases that run in this step.
        step: of the stage, from 0; unlike a comparison of tensors, one of this number waits for no device.
    """

    def __init__(
        self,
        columns: Mapping[str, Any] | None = None,
        rng: Noise | None = None,
        shared: Noise | None = None,
        row: Tensor | None = None,
        progress: Tensor | float = 1.0,
        due: frozenset[str] = frozenset(),
        step: int = 0,
    ):
        super().__init__(columns or {})
        if rng is None:
            first = next(iter(self.values()), ())
            rng = Noise.of_seeds(range(len(first)), first.device if isinstance(first, Tensor) else "cpu")
        self.rng = rng
        self.shared = Noise.of_seeds([0], rng.device) if shared is None else shared
        self.row = torch.arange(len(rng), device=rng.device) if row is None else row
        self.progress = torch.as_tensor(progress, device=rng.device)
        self.due, self.step = due, step

    def __missing__(self, name: str) -> Any:
        raise UsageError(
            f"This data has no column {name!r}; its columns: {', '.join(self) or 'none'}. A model that requires a "
            f"column lists it in the columns of its card; for an optional one use batch.get({name!r})."
        )

    @property
    def rows(self) -> int:
        return len(self.rng)

    def __or__(self, columns: Mapping[str, Any]) -> Batch:  # type: ignore[override]
        """The same rows with other columns."""
        return self.replace({**self, **columns})

    def replace(self, columns: Mapping[str, Any] | None = None, **attributes: Any) -> Batch:
        """The same batch with other columns or attributes."""
        current = {name: getattr(self, name) for name in ("rng", "shared", "row", "progress", "due", "step")}
        return Batch(self if columns is None else columns, **(current | attributes))

    def cut(self, low: int, high: int) -> Batch:
        """Rows ``low`` to ``high``, with copies of their random streams at the current draw."""
        rows = slice(low, high)
        columns = None if (low, high) == (0, self.rows) else {name: value[rows] for name, value in self.items()}
        return self.replace(columns, rng=self.rng[rows], shared=self.shared[:], row=self.row[rows])


def parts_of(batch: Batch, parts: int, group: int = 1) -> list[tuple[int, int]]:
    """Split a batch into ``parts`` consecutive slices (low, high) whose sizes are multiples of ``group``."""
    groups = batch.rows // group
    cuts = [groups * part // parts * group for part in range(parts)] + [batch.rows]
    return [(low, high) for low, high in itertools.pairwise(cuts) if high > low]


def join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Concatenate the rows of consecutive parts; a value without rows is taken from the first part."""

    def together(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor) and values[0].ndim:
            return torch.cat(values)
        return [row for value in values for row in value] if isinstance(values[0], list) else values[0]

    return {name: together([part[name] for part in parts]) for name in (parts[0] if parts else ())}
