"""Plots of a run, and signals as plots."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from reverie.core.files import atomic


@contextlib.contextmanager
def figure(path: Path | str, width: float = 7, height: float = 4.5) -> Iterator:
    """A matplotlib figure (no display, no global state) that is saved to ``path`` on leaving; sizes in inches."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    yield drawing
    with atomic(path) as temporary:
        drawing.savefig(temporary, dpi=110)


def plot_curves(path: Path | str, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> Path:
    """One panel per curve, (training steps, values): the raw values faint, their running mean strong."""
    columns = min(3, len(curves))
    rows = math.ceil(len(curves) / columns)
    with figure(path, width=4.2 * columns, height=3.1 * rows) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False).flat
        for axis, (name, (steps, values)) in zip(axes, curves.items(), strict=False):
            y = np.asarray(values, dtype=float)
            axis.plot(steps, y, color="#9db7d5", linewidth=0.8)
            window = max(1, len(y) // 30)
            if window > 1:
                mean = np.convolve(y, np.ones(window) / window, "valid")
                axis.plot(steps[window // 2 : window // 2 + len(mean)], mean, color="#1f4e8c", linewidth=1.6)
            tail = y[max(1, len(y) // 50) :]  # the first moments would flatten the rest of the curve
            if len(tail) > 1 and np.ptp(tail) > 0:
                low, high = tail.min(), np.quantile(tail, 0.999)
                axis.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
        for axis in list(drawing.axes)[len(curves) :]:
            axis.remove()
    return Path(path)


def plot_schedule(
    path: Path | str, times: np.ndarray, curves: Mapping[str, np.ndarray], drawn: np.ndarray, stops: np.ndarray
) -> Path:
    """A noise schedule: its curves over t, the log signal-to-noise ratio, and which times training draws.

    Args:
        times: (N,); curves: "alpha" and "sigma" (N,) at these times.
        drawn: times (M,) of training.
        stops: times at which sampling evaluates the network, marked on the middle panel.
    """
    log_snr = 2 * np.log(curves["alpha"] / curves["sigma"])
    with figure(path, width=12.6, height=3.4) as drawing:
        left, middle, right = drawing.subplots(1, 3)
        for name, values in curves.items():
            left.plot(times, values, label=name)
        if max(values.max() for values in curves.values()) > 2:
            left.set_yscale("log")
        left.legend(frameon=False)
        left.set_title("x = alpha x0 + sigma noise", fontsize=10)
        middle.plot(times, log_snr, color="#1f4e8c")
        middle.plot(stops, np.interp(stops, times, log_snr), "o", color="#c2542d", markersize=4, label="sampling stops")
        middle.legend(frameon=False)
        middle.set_title("log signal-to-noise ratio: 2 log(alpha / sigma)", fontsize=10)
        right.hist(drawn, bins=60, range=(0, 1), density=True, color="#9db7d5")
        right.set_title("times that training draws (density)", fontsize=10)
        for axis in (left, middle, right):
            axis.set_xlabel("t (0 picture, 1 noise)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    return Path(path)


def plot_latent_map(
    path: Path | str, points: np.ndarray, labels: np.ndarray, classes: Sequence[str], prior: np.ndarray, title: str
) -> Path:
    """Codes in the plane, coloured by class, over where N(0, I) falls in the same plane.

    Args:
        points: (N, 2) codes.
        labels: (N,) class index, -1 for none.
        prior: (M, 2) draws of N(0, I), projected the same way.
    """
    with figure(path, width=7.6, height=5.8) as drawing:
        axis = drawing.subplots()
        axis.scatter(*prior.T, s=5, color="#c8c8c8", label="N(0, I)", zorder=1)
        for index in [i for i in (-1, *range(len(classes))) if np.any(labels == i)]:
            name = "pictures" if index < 0 else classes[index]
            where = points[labels == index]
            axis.scatter(
                *where.T, s=7, alpha=0.75, label=name, zorder=2, color=f"C{max(index, 0)}" if index < 10 else None
            )
        if len(classes) <= 24:
            axis.legend(fontsize=8, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    return Path(path)


def sequence_sheet(rows: np.ndarray, low: float, high: float, columns: int | None = None) -> np.ndarray:
    """Sequences (N, L, C) as one uint8 image (H, W, 3): a plot each, a line a channel, from ``low`` to ``high``."""
    from matplotlib.figure import Figure
    from PIL import Image

    columns = min(len(rows), columns or math.ceil(math.sqrt(len(rows))))
    lines = math.ceil(len(rows) / columns)
    drawing = Figure(figsize=(2.4 * columns, 1.2 * lines), dpi=80, layout="constrained")
    for index, (axis, row) in enumerate(zip(drawing.subplots(lines, columns, squeeze=False).flat, rows, strict=False)):
        axis.plot(row, linewidth=0.6)
        axis.set_ylim(low, high)
        axis.set_title(str(index), fontsize=6)
        axis.tick_params(labelsize=5)
    for axis in list(drawing.axes)[len(rows) :]:
        axis.remove()
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
