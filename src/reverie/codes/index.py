"""An index: the codes of all images of a data set, kept in a file that knows its model and its data."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reverie.core.cache import home
from reverie.core.card import card_of, name_of, weights_of
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.verbs import Model
from reverie.data import Dataset
from reverie.evaluation.neighbours import distances_of, nearest
from reverie.inference.origin import origin
from reverie.inference.rows import encoded
from reverie.media.medium import save_arrays
from reverie.media.origin import origin_of

EXACT = 100_000  # codes up to which every search compares all of them
Metric = Literal["euclidean", "cosine"]
Progress = Callable[[int, int, str], None]
_LINKS, _BREADTH, _EFFORT = 32, 64, 128  # of the graph: neighbours of a node, candidates in building and in searching


@dataclass(frozen=True)
class Index:
    """Codes of all rows of a data set, the training rows first.

    Attributes:
        codes: (N, D) float32.
        graph: of faiss, for an approximate search of many codes; None: exact.
    """

    codes: Tensor
    graph: Any = None

    def search(
        self, queries: Tensor, k: int, metric: Metric = "euclidean", exact: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The k nearest codes to each query (Q, D): distances (Q, k) in float64, and rows (Q, k).

        Distances are Euclidean, or cosine distances: 1 - cos of the angle.

        Args:
            exact: compare all codes; else by the graph, which is of Euclidean distances.
        """
        if metric == "cosine":
            unit = [normalize(x.double(), dim=1) for x in (queries, self.codes)]
            distance, row = nearest(unit[0], unit[1], k)
            return distance.square() / 2, row
        if exact:
            return nearest(queries, self.codes, k)
        self.graph.hnsw.efSearch = max(_EFFORT, 2 * k)
        row = torch.from_numpy(self.graph.search(np.ascontiguousarray(queries.float().numpy()), k)[1])
        query = torch.arange(len(queries)).repeat_interleave(k)
        distance, order = distances_of(queries, self.codes, query, row.flatten()).view(-1, k).sort(dim=1, stable=True)
        return distance, row.gather(1, order)


def check_encodes(model: Model) -> None:
    """Raise a UsageError unless a model encodes without a search, and its codes have distances."""
    space = card_of(model).space
    if space and (space.encode not in ("exact", "mean") or space.kind == "tokens"):
        reason = "its codes are tokens" if space.kind == "tokens" else "it encodes by a long search, or not at all"
        raise UsageError(f"{name_of(model)} has no codes to compare: {reason}. An autoencoder or a vae has.")


def check_index(file: Path | str) -> None:
    """Raise a UsageError unless an index can have this name."""
    if Path(file).suffix.lower() != ".npz":
        raise UsageError(f"{argument('index', str(file))} must end in .npz.")


def index_of(
    model: Model, data: Dataset, file: Path | None = None, graph: bool = False, progress: Progress | None = None
) -> Index:
    """The index of a data set by a model: from its file, or built and kept there.

    Args:
        file: where it is kept; by default in the cache folder, named by weights and data. Without it, the index of a
            model that was not loaded from a run is not kept.
        graph: also a graph of neighbours, for an approximate search.
    Raises:
        UsageError: the file is of other weights or other data, or none of reverie's; faiss is missing.
        ReverieError: it is damaged.
    """
    weights = weights_of(model)
    if file is not None:
        check_index(file)
    if graph:
        _faiss()
    if file is None and weights is not None:
        file = home() / "indices" / f"{weights['sha256'][:16]}-{data.fingerprint[:16]}.npz"
    columns = {} if file is None or not file.exists() else _columns(file, model, data)
    changed = "codes" not in columns or (graph and "graph" not in columns)
    if "codes" not in columns:
        without = card_of(model).conditions  # the class of an image is not part of it
        parts = [encoded(model, split, without, progress) for split in (data.train, data.held_out)]
        columns["codes"] = torch.cat(parts).numpy()
    if graph and "graph" not in columns:
        if progress:
            progress(0, 1, "building the graph of neighbours")
        columns["graph"] = _build(columns["codes"])
    if changed and file is not None:
        made_by = origin("search", model, data=data.source, fingerprint=data.fingerprint)
        save_arrays(file, columns, made_by)
    loaded = _faiss().deserialize_index(columns["graph"]) if graph else None
    return Index(torch.from_numpy(columns["codes"]), loaded)


def _columns(file: Path, model: Model, data: Dataset) -> dict[str, np.ndarray]:
    """The arrays of an index, checked against its model and its data."""
    entry, weights = origin_of(file), weights_of(model)
    if entry is None or entry["verb"] != "search" or "fingerprint" not in entry:
        raise UsageError(
            f"{argument('index', str(file))} is no index of reverie. Nothing was touched. Name another file."
        )
    again = f"Name another {argument('index')}, or remove the file: it is built again."
    before = entry.get("weights") or {"run": entry.get("model"), "checkpoint": None, "sha256": ""}
    if weights is None or before["sha256"] != weights["sha256"]:
        now = f"{weights['run']}, checkpoint {weights['checkpoint']}" if weights else name_of(model)
        raise UsageError(
            f"{argument('index', str(file))} was built by {before['run']}, checkpoint {before['checkpoint']} "
            f"({before['sha256'][:12]}), and not by these weights ({now}): its codes cannot be compared. {again}"
        )
    if entry["fingerprint"] != data.fingerprint:
        raise UsageError(
            f"{argument('index', str(file))} is of the data {entry['data']} ({entry['fingerprint'][:12]}), and not of "
            f"{data.source} ({data.fingerprint[:12]}). {again}"
        )
    try:
        with np.load(file, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in ("codes", "graph") if name in archive}
        space = card_of(model).space
        width = (math.prod(space.shape),) if space else ()
        codes, shape = columns["codes"], (len(data.train) + len(data.held_out), *width)
        if codes.dtype != np.float32 or codes.shape[: len(shape)] != shape or not np.isfinite(codes).all():
            raise ValueError(f"codes are {codes.dtype} {codes.shape}, not finite float32 {shape}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReverieError(f"{file} is damaged: {error}. Remove it: it is built again.") from error
    return columns


def _build(codes: np.ndarray) -> np.ndarray:
    """A graph of neighbours as bytes (Malkov and Yashunin, TPAMI 2020, arXiv:1603.09320)."""
    faiss = _faiss()
    graph = faiss.IndexHNSWFlat(codes.shape[1], _LINKS)
    graph.hnsw.efConstruction = _BREADTH
    graph.add(np.ascontiguousarray(codes))
    return faiss.serialize_index(graph)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ReverieError(
            f"An approximate search of more than {EXACT:,} codes needs an extra: pip install 'reverie[search]'. Or "
            f"take {argument('exact')}, which compares all of them."
        ) from None
    return faiss
