"""Accuracies of classifiers over seeds: a table, a plot, JSON."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.files import path_of
from reverie.core.tables import html_table, text_table
from reverie.evaluation.estimate import Estimate
from reverie.media import plots

METHODS = ("pretrained", "frozen", "random")
COLUMNS = ("encoder", "method", "labels", "accuracy", "95 % interval", "over random")


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy of a method with a number of labels, one for each seed.

    Attributes:
        encoder: name of the run.
        method: "pretrained" (all weights are trained, from those of the run), "frozen" (a linear probe on its codes),
            "random" (all weights are trained, from random ones).
        labels: how many labelled images.
        values: accuracy by seed.
    """

    encoder: str
    method: str
    labels: int
    values: tuple[float, ...]

    @property
    def estimate(self) -> Estimate:
        """The mean with its 95 % interval over seeds, within 0 and 1."""
        mean = over_seeds(self.values)
        return Estimate(mean.value, max(0.0, mean.low), min(1.0, mean.high))


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of independent values with Student's 95 % interval; nan ends of one value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate.of_error(statistics.fmean(values), error, max(1, len(values) - 1))


@dataclass(frozen=True, repr=False)
class Pretraining:
    """The result of ``pretrain``.

    Attributes:
        accuracies: of each encoder, method and number of labels.
        notes: sentences about the protocol.
        origin: what computed them.
    """

    accuracies: Sequence[Accuracy]
    notes: Sequence[str]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, str, int]) -> Accuracy:
        """That of (encoder, method, labels)."""
        return next(a for a in self.accuracies if (a.encoder, a.method, a.labels) == key)

    def gain(self, accuracy: Accuracy) -> Estimate:
        """Accuracy over that of random initialisation, with the interval of the differences by seed: the same labels
        and the same test images on both sides.
        """
        random = self[accuracy.encoder, "random", accuracy.labels]
        return over_seeds([a - b for a, b in zip(accuracy.values, random.values, strict=True)])

    def table(self) -> list[tuple[str, ...]]:
        """A row for each encoder, number of labels and method."""
        rows = list[tuple[str, ...]]()
        for entry in self.accuracies:
            estimate, gain = entry.estimate, self.gain(entry)
            over = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" if entry.method != "random" else ""
            interval = f"{estimate.low:.3f} ... {estimate.high:.3f}"
            rows.append((entry.encoder, entry.method, f"{entry.labels:,}", f"{estimate.value:.3f}", interval, over))
        return rows

    def save(self, path: Path | str) -> Path:
        """Write the plot: accuracy over the number of labels, with error bars (.png, .pdf ...); atomic.

        Raises:
            UsageError: an ending of no format of plots.
        """
        path = path_of("path", path)
        plots.check_plot(path)
        self._plot(path)
        return path

    def _plot(self, path: Path | io.BytesIO) -> None:
        panels: dict[str, dict[str, list[tuple[float, ...]]]] = {}
        for entry in self.accuracies:
            e, curves = entry.estimate, panels.setdefault(entry.encoder, {})
            curves.setdefault(entry.method, []).append((e.value, e.low, e.high))
        plots.plot_intervals(
            path,
            sorted({entry.labels for entry in self.accuracies}),
            {name: {m: np.array(points) for m, points in curves.items()} for name, curves in panels.items()},
            ("labelled images", "accuracy on held-out images"),
            f"Classifiers with few labels: mean and 95 % interval of {len(self.accuracies[0].values)} seeds",
            self.origin,
        )

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        rows = [
            {"encoder": e.encoder, "method": e.method, "labels": e.labels, "accuracy": e.estimate.value}
            | {"low": e.estimate.low, "high": e.estimate.high, "values": list(e.values)}
            | {"over_random": asdict(self.gain(e))}
            for e in self.accuracies
        ]
        return {"accuracies": rows, "notes": list(self.notes)}

    def __repr__(self) -> str:
        return "\n".join([text_table(COLUMNS, self.table()), *self.notes])

    def _repr_html_(self) -> str:
        return html_table(COLUMNS, self.table())

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self._plot(buffer)
        return buffer.getvalue()
