"""Exact nearest neighbours and distances of many features, in bounded memory.

A matrix product in float32 gives all squared distances up to a known rounding error. Undecided pairs and every returned
distance are computed again in float64 from the difference of the two features: so a copy is at distance 0, and equal
pairs are at equal distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from reverie.core.errors import UsageError

MEMORY = 256 << 20  # upper bound in bytes on all work tensors together
_SURPLUS = 8  # candidates beyond k: ties and rounding among the nearest rarely need more

Progress = Callable[[int, int, str], None]  # (done, total, what)


def pair_distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (P,) in float64 of the rows of x and y, both (P, D)."""
    return (x.double() - y.double()).square_().sum(1).sqrt_()


def distances_of(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Distances (P,) in float64 of the pairs (x[i], y[j]), i and j (P,)."""
    rows = max(1, MEMORY // (128 * x.shape[1]))
    parts = [pair_distances(x[a], y[b]) for a, b in zip(i.split(rows), j.split(rows), strict=True)]
    return torch.cat(parts)


def squared_distances(
    x: Tensor, y: Tensor, centre: Tensor, dtype: torch.dtype
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Squared distances of all rows of x (N, D) and y (M, D), tile by tile in row-major order.

    Args:
        centre: (D,) subtracted from both; the closer to their mean, the smaller the rounding errors.

    Yields:
        rows, columns, the squared distances (rows, columns) and a bound on the error of each: four times the probable
        rounding error, which grows with the root of D (Higham and Mary 2019).
    """
    width = x.shape[1]
    block = MEMORY // torch.finfo(dtype).bits  # elements of a tile; about eight such tensors are live at a time
    tall = max(1, min(2048, block // width))
    wide = max(1, block // max(tall, width))
    common = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    centre = centre.to(common)  # the same for both to the last bit
    relative = 4 * torch.finfo(dtype).eps * (width**0.5 + 4)

    def prepared(part: Tensor) -> tuple[Tensor, Tensor]:
        part = (part.to(common) - centre).to(dtype)
        return part, part.square().sum(1)

    for top in range(0, len(x), tall):
        rows = slice(top, min(top + tall, len(x)))
        a, a_norm = prepared(x[rows])
        for left in range(0, len(y), wide):
            columns = slice(left, min(left + wide, len(y)))
            b, b_norm = prepared(y[columns])
            norms = a_norm[:, None] + b_norm
            yield rows, columns, torch.addmm(norms, a, b.T, alpha=-2), norms.mul_(relative)


def tile_dtype() -> torch.dtype:
    """float32, unless the process lets float32 products round to fewer bits than that."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


def nearest(
    queries: Tensor, base: Tensor, k: int = 1, itself: bool | Tensor = False, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """The exact k nearest of ``base`` (M, D) to each of ``queries`` (N, D), nearest first.

    Args:
        itself: True if query i *is* row i of the base, or the queries' rows (N,) in it: a query is then not its own
            neighbour, but a duplicate of it is, at distance 0.
        progress: called as progress(pairs done, pairs in all, what).

    Returns:
        distances (N, k) in float64 and indices (N, k) into ``base``.

    Raises:
        UsageError: fewer than k neighbours.
    """
    if isinstance(itself, bool):
        itself_row = torch.arange(len(queries), device=base.device) if itself else None
    else:
        itself_row = itself
    if len(base) - (itself_row is not None) < k or k < 1:
        raise UsageError(f"There are no {k} neighbours among {len(base)} images.")
    dtype = tile_dtype()
    distance, index, certain = _nearest(queries, base, k, itself_row, dtype, progress)
    open_rows = (~certain).nonzero()[:, 0]
    if len(open_rows) and dtype is not torch.float64:
        few = itself_row[open_rows] if itself_row is not None else None
        distance[open_rows], index[open_rows], _ = _nearest(queries[open_rows], base, k, few, torch.float64, progress)
    return distance, index


def _nearest(
    queries: Tensor, base: Tensor, k: int, itself: Tensor | None, dtype: torch.dtype, progress: Progress | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances and indices (N, k), and whether they are certain despite rounding in ``dtype`` (N,)."""
    count, choice = len(base), len(base) - (itself is not None)
    keep = min(k + _SURPLUS, choice)
    blocks = []
    for rows, columns, squared, error in squared_distances(queries, base, base.mean(0), dtype):
        lowest = squared.sub_(error)
        if itself is not None:
            here = ((itself[rows] >= columns.start) & (itself[rows] < columns.stop)).nonzero()[:, 0]
            lowest[here, itself[rows][here] - columns.start] = torch.inf
        if columns.start == 0:
            best, index = lowest[:, :0], torch.empty(len(lowest), 0, dtype=torch.int64, device=base.device)
        bound, column = lowest.topk(min(keep, lowest.shape[1]), largest=False)
        best, order = torch.cat([best, bound], 1).topk(min(keep, columns.stop), largest=False)
        index = torch.cat([index, column + columns.start], 1).gather(1, order)
        if columns.stop == count:
            dropped = best[:, -1]  # a lower bound on the distance of all dropped candidates
            index = index.sort(1).values
            row = torch.arange(rows.start, rows.stop, device=base.device).repeat_interleave(keep)
            exact = distances_of(queries, base, row, index.flatten()).view(-1, keep)
            exact, order = exact.sort(dim=1, stable=True)
            certain = (exact[:, k - 1].square() <= dropped) | (keep == choice)
            blocks.append((exact[:, :k], index.gather(1, order)[:, :k], certain))
        if progress is not None:
            progress(rows.start * count + (rows.stop - rows.start) * columns.stop, len(queries) * count, "distances")
    distance, index, sure = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return distance, index, sure
