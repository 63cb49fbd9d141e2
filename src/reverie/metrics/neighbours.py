"""Exact nearest neighbours and distances of many features, in bounded memory.

All pairs go through one matrix product in float32, which gives each squared distance up to a known rounding error. What
that error leaves open, and every distance that is returned, is computed again from the difference of the two
features in float64: so a copy is at distance 0, and equal pairs at equal distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from reverie.core.errors import UsageError

MEMORY = 256 << 20  # bytes that all work tensors together stay under
_SURPLUS = 8  # candidates beyond k: ties and rounding among the nearest rarely need more

Progress = Callable[[int, int, str], None]  # done, of how many, of what


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
    """Squared distances of all rows of x (N, D) and y (M, D), a tile at a time and each row of tiles in turn.

    Args:
        centre: (D,) taken from both, near their mean: the nearer, the smaller the rounding errors.

    Yields:
        rows, columns, the squared distances (rows, columns) and a bound on the error of each, by the probable growth of
        rounding errors with the root of D (Higham and Mary 2019), four times over.
    """
    width = x.shape[1]
    block = MEMORY // torch.finfo(dtype).bits  # elements of a tile, some eight of whose size live at a time
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
        itself: True where query i *is* row i of the base, or the rows (N,) that the queries are: a query is then no
            neighbour of itself, though a duplicate of it is, at distance 0.
        progress: told how many pairs are done, of how many.

    Returns:
        distances (N, k) in float64 and indices (N, k) into ``base``.

    Raises:
        UsageError: fewer than k neighbours to choose from.
    """
    if isinstance(itself, bool):
        own = torch.arange(len(queries), device=base.device) if itself else None
    else:
        own = itself
    if len(base) - (own is not None) < k or k < 1:
        raise UsageError(f"{k} neighbours cannot be found among {len(base)} pictures.")
    dtype = tile_dtype()
    distance, index, certain = _nearest(queries, base, k, own, dtype, progress)
    open_rows = (~certain).nonzero()[:, 0]
    if len(open_rows) and dtype is not torch.float64:
        few = own[open_rows] if own is not None else None
        distance[open_rows], index[open_rows], _ = _nearest(queries[open_rows], base, k, few, torch.float64, progress)
    return distance, index


def _nearest(
    queries: Tensor, base: Tensor, k: int, own: Tensor | None, dtype: torch.dtype, progress: Progress | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances and indices (N, k), and (N,) whether rounding in ``dtype`` leaves no doubt of them."""
    count, choice = len(base), len(base) - (own is not None)
    keep = min(k + _SURPLUS, choice)
    found = []
    for rows, columns, squared, error in squared_distances(queries, base, base.mean(0), dtype):
        lowest = squared.sub_(error)
        if own is not None:
            here = ((own[rows] >= columns.start) & (own[rows] < columns.stop)).nonzero()[:, 0]
            lowest[here, own[rows][here] - columns.start] = torch.inf
        if columns.start == 0:
            best, index = lowest[:, :0], torch.empty(len(lowest), 0, dtype=torch.int64, device=base.device)
        bound, place = lowest.topk(min(keep, lowest.shape[1]), largest=False)
        best, order = torch.cat([best, bound], 1).topk(min(keep, columns.stop), largest=False)
        index = torch.cat([index, place + columns.start], 1).gather(1, order)
        if columns.stop == count:
            unseen = best[:, -1]  # whatever was not kept is at least as far as this lower bound
            index = index.sort(1).values
            row = torch.arange(rows.start, rows.stop, device=base.device).repeat_interleave(keep)
            exact = distances_of(queries, base, row, index.flatten()).view(-1, keep)
            exact, order = exact.sort(dim=1, stable=True)
            certain = (exact[:, k - 1].square() <= unseen) | (keep == choice)
            found.append((exact[:, :k], index.gather(1, order)[:, :k], certain))
        if progress is not None:
            progress(rows.start * count + (rows.stop - rows.start) * columns.stop, len(queries) * count, "distances")
    distance, index, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distance, index, sure
