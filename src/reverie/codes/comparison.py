"""Codes of the same images by several models: as points in the plane, as features, as files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from reverie.codes import scores
from reverie.codes.encoders import BLIND, common_data, encoders, evenly_with_rows, origin_of_codes
from reverie.codes.export import EXPORTS, write_codes
from reverie.core.cache import Progress
from reverie.core.errors import UsageError, argument
from reverie.core.files import path_of
from reverie.core.tables import html_table, text_table
from reverie.core.terminal import count, printable
from reverie.core.values import integer
from reverie.data.types import Dataset, Split
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.likelihood import evenly
from reverie.inference.load import Source
from reverie.inference.rows import encoded, space_of
from reverie.media import medium_of, plots
from reverie.probability.pca import PCA
from reverie.views.latent_map import Plane

FIT = 10_000  # training images that neighbours, probes and planes are fitted to, at most
_FEW = 1000  # and at least, of models whose ``encode`` is an iterative search
_LEAST = 10  # of them for a linear probe
COLUMNS = ("codes", "numbers", "k-NN", "k-NN in the map", "linear probe", "scatter ratio")
PCA_OF_INPUTS = "pca of inputs"


@dataclass(frozen=True, repr=False)
class Codes:
    """Codes of the same images by several encoders.

    Attributes:
        values: name of the encoder -> codes (N, D), float32.
        panels: name -> its map, see ``plots.Panel``.
        scores: name -> "knn", "knn_in_map", "probe", "scatter", each with its 95 % interval; none without labels.
        labels: class index (N,), -1 for none; its names are ``classes``.
        rows: references to the images, such as "held-out:17".
        names: of the images in the data.
        notes: sentences about the protocol.
        origin: what computed them.
    """

    values: Mapping[str, np.ndarray]
    panels: Mapping[str, plots.Panel]
    scores: Mapping[str, Mapping[str, Estimate]]
    labels: np.ndarray
    classes: Sequence[str]
    rows: Sequence[str]
    names: Sequence[str]
    notes: Sequence[str]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path | str) -> Path:
        """Write the maps (.png, .pdf ...), or codes with labels and references (.npz, .csv, .parquet); atomic.

        Raises:
            UsageError: an ending of no such format, or Parquet without the extra.
        """
        path = path_of("path", path)
        if path.suffix.lower() in EXPORTS:
            write_codes(path, self)
        else:
            plots.check_plot(path)
            plots.plot_latent_maps(path, list(self.panels.values()), self.labels, self.classes, self.origin)
        return path

    def table(self) -> list[tuple[str, ...]]:
        """A row for each encoder: name, numbers in a code, scores with intervals."""
        rows = []
        for name, codes in self.values.items():
            measured = [_text(estimate) for estimate in self.scores.get(name, {}).values()]
            rows.append((name, f"{codes.shape[1]:,}", *(measured or [""] * (len(COLUMNS) - 2))))
        return rows

    def summary(self) -> dict[str, Any]:
        """For JSON; values that are not finite are null."""
        measured = {name: {key: _plain(e) for key, e in of.items()} for name, of in self.scores.items()}
        widths = {name: codes.shape[1] for name, codes in self.values.items()}
        return {"number": len(self.rows), "dimensions": widths, "scores": measured, "notes": list(self.notes)}

    def __repr__(self) -> str:
        return "\n".join([text_table(COLUMNS, self.table()), *self.notes])

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self.table())

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        plots.plot_latent_maps(buffer, list(self.panels.values()), self.labels, self.classes)
        return buffer.getvalue()


def codes(
    runs: Source | Sequence[Source],
    data: Any = None,
    n: int = 2000,
    pca: bool = False,
    split: Literal["held-out", "train"] = "held-out",
    k: int = 10,
    space: str | None = None,
    progress: Progress | None = None,
) -> Codes:
    """Encode the same images with several models, show the codes in the plane, and measure how they part the classes.

    A code of two numbers is shown as it is, a larger one by its first two principal components. With labels, four
    scores: accuracy of k nearest neighbours in the full code and in the map, accuracy of a linear probe, and the
    scatter between classes over that within. All are fitted to codes of training images (planes, too) and tested on
    those of held-out images. No encoder gets the labels, also where it was trained with them.

    Args:
        runs: a loaded model or a run, or several, each with a verb ``encode``.
        data: other data than that of the runs, in their form.
        n: how many images, evenly spaced over the split.
        pca: also principal components of the pixels, as many as the first code has numbers.
        split: whose images are shown and exported; scores are always those of held-out images.
        k: neighbours.
        space: the latent space of the codes, see a model's ``card.latents``; by default the first of each model.
        progress: called while images are encoded, (done, total, description).
    Raises:
        UsageError: a model that does not encode or has no such space, runs of different data, or an argument out of
            range.
        ReverieError: the data has changed since.
    """
    if split not in ("held-out", "train"):
        raise UsageError(f"{argument('split')} must be held-out or train, not {split!r}.")
    models, requested = encoders(runs, space), integer(argument("n"), n, 1, 1_000_000)
    dataset = common_data(models, data)
    costs = [named.evaluations for model in models.values() if (named := space_of(model, space))]
    base = evenly(dataset.train, max(_FEW, FIT // max(costs, default=1)))
    k = integer(argument("k"), k, 1, len(base))
    test, test_rows = evenly_with_rows(dataset.held_out, requested)
    mapped, rows = (test, test_rows) if split == "held-out" else evenly_with_rows(dataset.train, requested)

    def encode_with(name: str) -> Callable[[Split], Tensor]:
        def report(done: int, total: int, what: str) -> None:
            if progress:
                progress(done, total, f"{what} with {name}")

        return lambda part: encoded(models[name], part, BLIND, report, space)

    to_codes = {name: encode_with(name) for name in models}
    of_base = {name: encode(base) for name, encode in to_codes.items()}
    if pca:
        pixels = PCA.fit(_pixels(base), next(iter(of_base.values())).shape[1])
        to_codes[PCA_OF_INPUTS] = lambda part: pixels(_pixels(part))
        of_base[PCA_OF_INPUTS] = to_codes[PCA_OF_INPUTS](base)
    values, panels, measured = dict[str, np.ndarray](), dict[str, plots.Panel](), dict[str, dict[str, Estimate]]()
    parted = min(_labelled_classes(base), _labelled_classes(test)) > 1 and len(base) >= _LEAST
    for name, encode in to_codes.items():
        plane, of_test = Plane.of(of_base[name]), encode(test)
        of_shown = of_test if mapped is test else encode(mapped)
        values[name] = of_shown.numpy()
        if parted:
            measured[name] = _scores(of_base[name], base, of_test, test, plane, len(dataset.classes), k)
        prior = plane.prior(models[name], space) if name in models else np.empty((0, 2))
        panels[name] = plots.Panel(_title(name, values[name], plane, measured.get(name)), plane(of_shown), prior)
    notes = _notes(dataset, split, len(rows), requested, len(base), len(test), k if parted else 0)
    return Codes(
        values,
        panels,
        measured,
        np.asarray(mapped.labels),
        dataset.classes,
        [f"{split}:{row}" for row in rows],
        mapped.names,
        notes,
        origin_of_codes("codes", models, dataset, n=n, pca=pca, split=split, k=k, space=space),
    )


def _pixels(split: Split) -> Tensor:
    """(N, D) in [-1, 1]."""
    return medium_of(split.spec).to_float(split["x"], split.spec).flatten(1)


def _labelled_classes(split: Split) -> int:
    return len(set(np.asarray(split.labels).tolist()) - {-1})


def _labelled(codes: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """The codes (N, D) of images with a label, and the labels (N,)."""
    labels = torch.from_numpy(np.array(split.labels))
    return codes[labels >= 0], labels[labels >= 0]


def _scores(
    of_base: Tensor, base: Split, of_test: Tensor, test: Split, plane: Plane, classes: int, k: int
) -> dict[str, Estimate]:
    fitted, labels = _labelled(of_base, base)
    tested, truth = _labelled(of_test, test)
    in_map = [torch.from_numpy(plane(part)) for part in (tested, fitted)]
    return {
        "knn": scores.knn_accuracy(tested, truth, fitted, labels, k),
        "knn_in_map": scores.knn_accuracy(in_map[0], truth, in_map[1], labels, k),
        "probe": scores.probe_accuracy(tested, truth, fitted, labels, classes),
        "scatter": scores.scatter(tested, truth),
    }


def _title(name: str, codes: np.ndarray, plane: Plane, measured: Mapping[str, Estimate] | None) -> str:
    width = codes.shape[1]
    lines = [f"{printable(name)}: {count(width, 'number')}", plane.note or "as they are"]
    if measured:
        knn = [f"{measured[key].value:.1%}" for key in ("knn", "knn_in_map")]
        lines.append(f"k-NN {knn[0]} in the code, {knn[1]} in the map")
    return "\n".join(lines)


def _notes(dataset: Dataset, split: str, rows: int, requested: int, base: int, test: int, k: int) -> list[str]:
    """Sentences on what was encoded, and on the protocol of the scores (k: 0 without scores)."""
    of_split = "held-out" if split == "held-out" else "training"
    few = f": all that there are, of {requested:,} that were asked for" if rows < requested else ""
    notes = [f"{rows:,} {of_split} {dataset.spec.medium}s of {dataset.source}{few}."]
    if k:
        return [
            *notes,
            f"Fitted to {base:,} training {dataset.spec.medium}s, tested on {test:,} held-out ones; k = {k}, Euclidean "
            "distance; 95 % intervals over held-out ones (Wilson; scatter: jackknife).",
        ]
    return [*notes, "No scores: they need labels of at least two classes, of training and of held-out images."]


def _text(estimate: Estimate) -> str:
    """0.842 [0.826, 0.857]; without the interval where the data does not determine it."""
    interval = f" [{estimate.low:.3f}, {estimate.high:.3f}]" if math.isfinite(estimate.low) else ""
    return f"{estimate.value:.3f}{interval}"


def _plain(estimate: Estimate) -> dict[str, float | None]:
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}
