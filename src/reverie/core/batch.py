"""A batch: named columns, rows first, and what the engine says about them."""

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

    The primary column is ``x`` (B, C, *shape), float32 in [-1, 1]; others where the data has them: ``label`` (B,) int64
    (-1 = none), ``text`` (B strings), ``attributes`` (B, A), ``source`` (the other side of a pair), ``mask``.

    Attributes:
        rng: one stream of random numbers per row; its length is the number of rows, also where there are no columns.
        shared: a ``Noise`` of one row for the whole step, equal on all ranks and in all parts of a batch.
        row: (B,) int64, place in the global batch.
        progress: 0-dim, of the stage, in [0, 1].
        due: names of the phases of this step.
    """

    def __init__(
        self,
        columns: Mapping[str, Any] | None = None,
        rng: Noise | None = None,
        shared: Noise | None = None,
        row: Tensor | None = None,
        progress: Tensor | float = 1.0,
        due: frozenset[str] = frozenset(),
    ):
        super().__init__(columns or {})
        if rng is None:
            first = next(iter(self.values()), ())
            rng = Noise.of_seeds(range(len(first)), first.device if isinstance(first, Tensor) else "cpu")
        self.rng = rng
        self.shared = Noise.of_seeds([0], rng.device) if shared is None else shared
        self.row = torch.arange(len(rng), device=rng.device) if row is None else row
        self.progress = torch.as_tensor(progress, device=rng.device)
        self.due = due

    def __missing__(self, name: str) -> Any:
        known = ", ".join(self) or "none"
        raise UsageError(
            f"This data has no column {name!r}; its columns: {known}. A model that cannot do without one names it in "
            f"the columns of its card; one that can asks batch.get({name!r})."
        )

    @property
    def rows(self) -> int:
        return len(self.rng)

    def __or__(self, columns: Mapping[str, Any]) -> Batch:  # type: ignore[override]
        """The same rows with other columns."""
        return self.replace({**self, **columns})

    def replace(self, columns: Mapping[str, Any] | None = None, **attributes: Any) -> Batch:
        """The same batch with other columns or attributes."""
        known = {name: getattr(self, name) for name in ("rng", "shared", "row", "progress", "due")}
        return Batch(self if columns is None else columns, **(known | attributes))

    def cut(self, low: int, high: int) -> Batch:
        """Rows ``low`` to ``high``, with streams of their own, at the draws where these stand."""
        rows = slice(low, high)
        known = {"rng": self.rng[rows], "shared": self.shared[:], "row": self.row[rows]}
        whole = (low, high) == (0, self.rows)
        return self.replace(None if whole else {name: value[rows] for name, value in self.items()}, **known)


def parts_of(batch: Batch, parts: int, group: int = 1) -> list[tuple[int, int]]:
    """Where to cut a batch into ``parts`` consecutive pieces whose sizes are multiples of ``group``: (low, high)."""
    groups = batch.rows // group
    cuts = [groups * part // parts * group for part in range(parts)] + [batch.rows]
    return [(low, high) for low, high in itertools.pairwise(cuts) if high > low]


def join(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Consecutive pieces as one: tensors and lists by rows; what has no rows is the first's."""

    def together(values: list[Any]) -> Any:
        if isinstance(values[0], Tensor) and values[0].ndim:
            return torch.cat(values)
        return [row for value in values for row in value] if isinstance(values[0], list) else values[0]

    return {name: together([part[name] for part in parts]) for name in (parts[0] if parts else ())}
