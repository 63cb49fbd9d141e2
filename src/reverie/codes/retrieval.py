"""Retrieval: the images of a data set whose codes are nearest to that of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.codes import hashing
from reverie.codes.encoders import common_data
from reverie.codes.index import EXACT, Index, Metric, check_encodes, index_of
from reverie.codes.pages import enlarged
from reverie.codes.rows import images_at, labels_in, names_in
from reverie.core.card import card_of, name_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import path_of
from reverie.core.options import either
from reverie.core.values import check_bool, check_seeds, integer
from reverie.data import Dataset
from reverie.evaluation.estimate import Estimate
from reverie.inference.load import Source, model_of, need, spec_of
from reverie.inference.origin import origin
from reverie.inference.references import batch_of
from reverie.inference.rows import evaluating, in_chunks, spread
from reverie.media import medium_of, montage
from reverie.media.images import Images
from reverie.media.medium import save_arrays
from reverie.media.origin import ending_of
from reverie.training.progress import shows_progress

_QUERIES = 200  # held-out rows with which recall and precision are measured


@dataclass(frozen=True, repr=False)
class Neighbours:
    """The nearest images to each query, the nearest first.

    Attributes:
        distances: (Q, n); in bits of a Hamming distance.
        rows: (Q, n): row numbers in the data, the training rows first.
        names: of the data's rows at ``rows``, (Q, n).
        labels: class indices (Q, n), -1 for none.
        images: a row for each query: itself, then its neighbours.
        report: {"metric", "codes", "dimensions", "bits"} and, where they were measured, "recall" and "precision": each
            with "value", "low", "high".
        origin: what computed them.
    """

    distances: np.ndarray
    rows: np.ndarray
    names: Sequence[Sequence[str]]
    labels: np.ndarray
    images: Images
    report: Mapping[str, Any]
    origin: Mapping[str, Any]

    def save(self, path: Path | str) -> Path:
        """Write the images (.png ...), or distances, rows, names and labels as arrays (.npz), with the origin."""
        path = path_of("path", path)
        if ending_of(path) == ".npz":
            columns = {"distances": self.distances, "rows": self.rows, "names": self.names, "labels": self.labels}
            save_arrays(path, columns, self.origin)
            return path
        return montage.save(path, enlarged(self.images), self.origin)

    def __repr__(self) -> str:
        count, n = self.rows.shape
        codes, metric = self.report["codes"], self.report["metric"]
        return f"Neighbours({n} of {codes:,} images for each of {count} by {metric} distance)"

    def _repr_png_(self) -> bytes:
        return self.images._repr_png_()


@shows_progress
@torch.no_grad()
def search(
    model: Source,
    images: Any,
    data: Any = None,
    n: int = 8,
    metric: Metric | None = None,
    bits: int | None = None,
    hash: Literal["itq", "median"] | None = None,
    exact: bool = False,
    recall: bool = False,
    index: Path | str | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Neighbours:
    """The nearest images of a data set by the codes of a model; of hashed codes by Hamming distance.

    All codes are computed once and kept in an index that knows its weights and its data. Up to 100,000 codes are all
    compared; more are searched by a graph of neighbours (the search extra), unless ``exact``. Hamming distances and
    cosines are always of all codes. A query that is a row of the data itself is not its own neighbour.

    Args:
        model: a loaded model, or a run, that encodes images.
        images: the queries: references as for ``rv.encode``.
        data: where to search, all rows of both splits; by default the data of the run.
        n: neighbours of each query.
        metric: "euclidean" (by default) or "cosine", of codes that are not hashed. Binary codes have Hamming distances.
        bits: hash the codes to so many bits; of binary codes their own size.
        hash: "itq" (by default) or "median", see ``codes.hashing.fit``.
        exact: compare all codes, however many.
        recall: measure the share of the exact neighbours among those found, and the share of neighbours with the class
            of their query, over 200 held-out rows of the data. With ``bits`` they are always measured.
        index: file of the index (.npz); by default one in the cache folder.
        seed: of the rotation of "itq".
        progress: called after each chunk, (done, total, description).
    Raises:
        UsageError: a model that does not encode, fewer images than ``n``, an index of another model or other data,
            more bits than a code has dimensions, arguments that exclude one another.
    """
    model = model_of(model)
    need(model, "encode")
    check_encodes(model)
    check_bool(argument("exact"), exact)
    check_bool(argument("recall"), recall)
    space, spec, seed = card_of(model).space, spec_of(model), check_seeds(seed)[0]
    is_binary = space is not None and space.kind == "binary"
    _check_options(metric, bits, hash, is_binary)
    if isinstance(images, list | tuple) and not images:
        raise UsageError(f"{argument('images')} holds no images to search for.")
    dataset = common_data({name_of(model): model}, data)
    total = len(dataset.train) + len(dataset.held_out)
    n = integer(argument("n"), n, least=1)
    if n >= total:
        raise UsageError(f"{dataset.source} has {total:,} images; {argument('n', n)} must be below that.")
    x = batch_of(model, images)["x"]
    hashed = is_binary or bits is not None
    graph = total > EXACT and not exact and not hashed and metric != "cosine"
    codes = index_of(model, dataset, None if index is None else path_of("index", index), graph, progress)
    finder = _Finder(codes, metric or "euclidean", not graph, _hash(codes.codes, bits, hash, is_binary, seed))
    with evaluating(model):
        chunks = in_chunks(x.shape[2:], x.device, len(x))
        queries = torch.cat([model.encode(x[low:high]).flatten(1).float().cpu() for low, high in chunks])
    stored = medium_of(spec).to_storage(x, spec)
    distances, rows = finder(queries, n + 1)
    is_query = [
        (images_at(dataset, near) == query).reshape(n + 1, -1).all(1) for query, near in zip(stored, rows, strict=True)
    ]
    distances, rows = _without(distances, rows, np.stack(is_query))
    report = finder.summary() | (_measured(finder, dataset, n) if recall or hashed or graph else {})
    arguments = {"data": dataset.source, "metric": report["metric"], "bits": finder.bits or None, "n": n}
    made_by = origin("search", model, images=images, hash=hash, **arguments)
    names, labels = names_in(dataset), labels_in(dataset)
    tiles = np.stack(
        [np.concatenate([query[None], images_at(dataset, near)]) for query, near in zip(stored, rows, strict=True)]
    )
    texts = [
        text
        for distance, near in zip(distances, rows, strict=True)
        for text in ("query", *map(_text, distance, [_class_of(dataset, labels[row]) for row in near]))
    ]
    sheet = Images(tiles.reshape(-1, *tiles.shape[2:]), spec, columns=n + 1, labels=texts, origin=made_by)
    return Neighbours(
        distances, rows, [[names[row] for row in near] for near in rows], labels[rows], sheet, report, made_by
    )


@dataclass(frozen=True)
class _Finder:
    """A search with its options.

    Attributes:
        index: the codes.
        metric: of codes that are not hashed.
        exact: whether all of those are compared.
        hash: of the codes; None: they are not hashed.
    """

    index: Index
    metric: Metric
    exact: bool
    hash: hashing.Hash | None

    def __call__(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows (Q, k) of the nearest to codes (Q, D)."""
        if self.hash is not None:
            return hashing.hamming(self.hash(queries), self.hash(self.index.codes), self.hash.bits, k)
        distance, row = self.index.search(queries, k, self.metric, self.exact)
        return distance.numpy(), row.numpy()

    @property
    def bits(self) -> int:
        return self.hash.bits if self.hash else 0

    def summary(self) -> dict[str, Any]:
        count, width = self.index.codes.shape
        metric = "hamming" if self.hash else self.metric
        return {"metric": metric, "codes": count, "dimensions": width, "bits": self.bits, "exact": self.exact}


def _check_options(metric: Any, bits: Any, hash: Any, is_binary: bool) -> None:
    """Raise a UsageError for options without a meaning, or that exclude one another."""
    for name, value, values in (("metric", metric, ("euclidean", "cosine")), ("hash", hash, ("itq", "median"))):
        if value not in (None, *values):
            raise UsageError(f"{argument(name)} must be {either(values)}, not {value!r}.")
    if metric is not None and (is_binary or bits is not None):
        raise UsageError(f"Bits have Hamming distances: leave out {argument('metric')}.")
    if hash is not None and (is_binary or bits is None):
        reason = "the codes of this model are binary already" if is_binary else f"it needs {argument('bits')}"
        raise UsageError(f"{argument('hash')} makes bits of real codes: {reason}.")


def _hash(codes: Tensor, bits: int | None, method: Any, is_binary: bool, seed: int) -> hashing.Hash | None:
    width = codes.shape[1]
    bits = None if bits is None else integer(argument("bits"), bits, least=1)
    if is_binary:
        if bits not in (None, width):
            raise UsageError(f"The codes of this model are {width} bits: leave out {argument('bits', bits)}.")
        return hashing.halves(width)
    return None if bits is None else hashing.fit(codes, bits, method or "itq", seed)


def _without(distances: np.ndarray, rows: np.ndarray, is_query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Results (Q, n + 1) as (Q, n): without the query itself, or without the last."""
    keep, unmatched = np.ones_like(is_query), ~is_query.any(1)
    keep[np.arange(len(keep)), np.where(unmatched, -1, is_query.argmax(1))] = False
    return distances[keep].reshape(len(keep), -1), rows[keep].reshape(len(keep), -1)


def _measured(finder: _Finder, dataset: Dataset, n: int) -> dict[str, Any]:
    """Recall of the exact neighbours and precision of classes, over held-out rows."""
    count, cut = len(dataset.held_out), len(dataset.train)
    if count < 2:  # of very few images all are queries
        count, cut = count + cut, 0
    chosen = cut + np.array(spread(count, min(_QUERIES, count)))
    queries, labels = finder.index.codes[chosen], labels_in(dataset)
    finders = (finder, _Finder(finder.index, finder.metric, True, None))
    results = [find(queries, n + 1) for find in finders]
    rows, truth = (_without(*result, result[1] == chosen[:, None])[1] for result in results)
    shares = [len(np.intersect1d(*pair)) / n for pair in zip(rows, truth, strict=True)]
    report = {"queries": len(chosen), "recall": _entry(torch.tensor(shares))}
    known_class = labels[chosen] >= 0
    if known_class.any():
        for name, near in (("precision", rows), ("precision-exact", truth)):
            hits = (labels[near] == labels[chosen][:, None]).mean(1)[known_class]
            report[name] = _entry(torch.from_numpy(hits))
    return report


def _entry(values: Tensor) -> dict[str, float]:
    estimate = Estimate.of_mean(values)
    return {"value": estimate.value, "low": max(0.0, estimate.low), "high": min(1.0, estimate.high)}


def _class_of(dataset: Dataset, label: int) -> str:
    return dataset.classes[label] if 0 <= label < len(dataset.classes) else ""


def _text(distance: float, name: str) -> str:
    return f"{distance:.3g} {name}".strip()
