"""Plots of a run, and signals as plots."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reverie.core.errors import UsageError, argument
from reverie.core.files import atomic
from reverie.core.terminal import printable
from reverie.core.values import integer
from reverie.media.origin import Origin, pillow_options


@contextlib.contextmanager
def figure(
    path: Path | str | io.BytesIO, width: float = 7, height: float = 4.5, origin: Origin | None = None
) -> Iterator:
    """A matplotlib figure (no display, no global state) that is saved to ``path`` with its origin, or to a buffer, on
    leaving; sizes in inches.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    yield drawing
    if isinstance(path, io.BytesIO):
        drawing.savefig(path, dpi=110, format="png")
        return
    with atomic(path) as temporary:
        options = pillow_options(Path(path), origin)
        raster: dict[str, Any] = {"pil_kwargs": options} if options else {}  # a PDF takes none
        drawing.savefig(temporary, dpi=110, **raster)


def check_plot(path: Path) -> None:
    """Raise a UsageError unless the ending is that of a format of plots: .png, .pdf, .svg ..."""
    from matplotlib.figure import Figure

    if path.suffix.lower().lstrip(".") not in Figure().canvas.get_supported_filetypes():
        raise UsageError(f"Cannot write {path.name}: no plot is written with the ending {path.suffix!r}. Try .png.")


Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]  # name -> training steps, values


def plot_curves(path: Path | str | io.BytesIO, curves: Curves, origin: Origin | None = None) -> None:
    """Losses in panels of their own, the first row; every other metric in smaller panels below. Without a loss the
    first metric stands for it.

    Raw values are faint, their running mean strong.
    """
    losses = [name for name in curves if name.endswith("loss")] or list(curves)[:1]
    others = [name for name in curves if name not in losses]
    columns = max(1, min(3, len(losses)))
    rows, small = math.ceil(len(losses) / columns), math.ceil(len(others) / (2 * columns))
    with figure(path, 4.6 * columns, 3.1 * rows + 1.7 * small, origin) as page:
        plan = page.add_gridspec(rows + small, 2 * columns, height_ratios=[1.8] * rows + [1.0] * small)
        for index, name in enumerate(losses):
            row, column = divmod(index, columns)
            _curve(page.add_subplot(plan[row, 2 * column : 2 * column + 2]), name, *curves[name], size=10)
        for index, name in enumerate(others):
            row, column = divmod(index, 2 * columns)
            _curve(page.add_subplot(plan[rows + row, column]), name, *curves[name], size=7)


def _curve(axis: Any, name: str, steps: Sequence[int], values: Sequence[float], size: int) -> None:
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
    axis.set_title(printable(name), fontsize=size, parse_math=False)
    axis.tick_params(labelsize=size - 2)
    axis.grid(alpha=0.3)


def curves_image(curves: Curves) -> np.ndarray:
    """``plot_curves`` as one uint8 image (H, W, 3)."""
    from PIL import Image

    buffer = io.BytesIO()
    plot_curves(buffer, curves)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def plot_schedule(
    path: Path | str,
    times: np.ndarray,
    curves: Mapping[str, np.ndarray],
    trained: np.ndarray,
    sampled: np.ndarray,
    origin: Origin | None = None,
) -> Path:
    """A noise schedule: its curves over t, the log signal-to-noise ratio, and the distribution of training times.

    Args:
        times: (N,); curves: "alpha" and "sigma" (N,) at these times.
        trained: times (M,) of training.
        sampled: times at which sampling evaluates the network, marked on the middle panel.
    """
    log_snr = 2 * np.log(curves["alpha"] / curves["sigma"])
    with figure(path, 12.6, 3.4, origin) as drawing:
        left, middle, right = drawing.subplots(1, 3)
        for name, values in curves.items():
            left.plot(times, values, label=name)
        if max(values.max() for values in curves.values()) > 2:
            left.set_yscale("log")
        left.legend(frameon=False)
        left.set_title("x = alpha x0 + sigma noise", fontsize=10)
        middle.plot(times, log_snr, color="#1f4e8c")
        middle.plot(sampled, np.interp(sampled, times, log_snr), "o", color="#c2542d", markersize=4, label="sampling")
        middle.legend(frameon=False)
        middle.set_title("log signal-to-noise ratio: 2 log(alpha / sigma)", fontsize=10)
        right.hist(trained, bins=60, range=(0, 1), density=True, color="#9db7d5")
        right.set_title("training times (density)", fontsize=10)
        for axis in (left, middle, right):
            axis.set_xlabel("t (0 image, 1 noise)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    return Path(path)


class Panel(NamedTuple):
    """A latent space in the plane: latents (N, 2), and samples (M, 2) of its prior behind them."""

    title: str  # printable, of one or more lines
    points: np.ndarray
    prior: np.ndarray


def plot_latent_maps(
    path: Path | str | io.BytesIO,
    panels: Sequence[Panel],
    labels: np.ndarray,
    classes: Sequence[str],
    origin: Origin | None = None,
) -> None:
    """Latents of the same samples in the plane, a panel for each space, coloured by class.

    Args:
        labels: (N,) class index, -1 for none.
    """
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    present = [index for index in (-1, *range(len(classes))) if np.any(labels == index)]
    with figure(path, 5.4 * columns + 2.0, 5.4 * lines + 0.4, origin) as drawing:
        grid = drawing.subplots(lines, columns, squeeze=False).flat
        priors, classes_drawn = [], []
        for axis, panel in zip(grid, panels, strict=False):
            if len(panel.prior):
                style: dict[str, Any] = {"facecolors": "none", "edgecolors": "#b0b0b0", "lw": 0.5}
                priors = [axis.scatter(*panel.prior.T, s=12, label="N(0, I)", zorder=1, **style)]
            classes_drawn = [
                axis.scatter(
                    *panel.points[labels == index].T,
                    s=7,
                    alpha=0.75,
                    label=str(index),
                    zorder=2,
                    color=f"C{max(index, 0)}" if index < 10 else None,
                )
                for index in present
            ]
            axis.set_title(panel.title, fontsize=10, parse_math=False)
            axis.set_aspect("equal", adjustable="datalim")
            axis.grid(alpha=0.3)
        for axis in list(drawing.axes)[len(panels) :]:
            axis.remove()
        if len(classes) <= 24:
            options: dict[str, Any] = {"fontsize": 8, "markerscale": 2, "frameon": False}
            legend = drawing.legend(handles=priors + classes_drawn, loc="outside right center", **options)
            entries = legend.get_texts()[len(priors) :]
            for entry, index in zip(entries, present, strict=True):  # after the legend, which leaves out "_name"
                entry.set_parse_math(False)  # a "$" is a dollar
                entry.set_text("images" if index < 0 else printable(classes[index]))


def plot_intervals(
    path: Path | str | io.BytesIO,
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, np.ndarray]],
    axes: tuple[str, str],
    title: str,
    origin: Origin | None = None,
) -> None:
    """Curves over a logarithmic x with the intervals of their points as error bars, in panels of one scale.

    Args:
        panels: title -> name of a curve -> (len(x), 3): values and the ends of their intervals.
        axes: what x and y are.
    """
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    with figure(path, 1.6 + 3.4 * columns, 0.8 + 3.4 * lines, origin) as drawing:
        grid = drawing.subplots(lines, columns, squeeze=False, sharey=True).flat
        for axis, (name, curves) in zip(grid, panels.items(), strict=False):
            for index, (curve, points) in enumerate(curves.items()):
                shift = 1.08 ** (index - (len(curves) - 1) / 2)  # or bars would hide one another
                values, low, high = points.T
                style: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 3, "elinewidth": 1}
                axis.errorbar(np.array(x) * shift, values, [values - low, high - values], label=curve, **style)
            axis.set_xscale("log")
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.minorticks_off()
            axis.set_xlabel(axes[0])
            axis.set_title(printable(name), fontsize=9, parse_math=False)
            axis.grid(alpha=0.3)
        for axis in list(drawing.axes)[len(panels) :]:
            axis.remove()
        drawing.axes[0].set_ylabel(axes[1])
        drawing.axes[0].legend(fontsize=8, loc="lower right")
        drawing.suptitle(title, fontsize=10)


def sequence_sheet(
    sets: Sequence[np.ndarray], low: float, high: float, columns: int | None = None, names: Sequence[str] = ()
) -> np.ndarray:
    """Sequences as one uint8 image (H, W, 3): a plot each, a line per channel, from ``low`` to ``high``.

    Args:
        sets: (N, L, C) each; sequence i of all of them is in one plot, the last set as thin lines over broad pale ones.
        columns: plots in a row.
        names: of the sets, above the plots.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image

    count = len(sets[0])
    most = math.ceil(math.sqrt(count)) if columns is None else integer(argument("columns"), columns, least=1)
    columns = max(1, min(count, most))
    lines = max(1, math.ceil(count / columns))
    styles: list[dict[str, Any]] = [{"linewidth": 3.0, "alpha": 0.3}] * (len(sets) - 1) + [{"linewidth": 1.0}]
    width = min(2.4, 20 / columns)
    drawing = Figure(figsize=(width * columns, 1.4 * lines + 0.3 * bool(names)), dpi=100, layout="constrained")
    for index, axis in enumerate(drawing.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat):
        if index >= count:
            axis.set_visible(False)
            continue
        for rows, style in zip(sets, styles, strict=True):
            for channel in range(rows.shape[-1]):
                axis.plot(rows[index, :, channel], color=f"C{channel % 10}", **style)
        axis.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
        axis.set_title(str(index), fontsize=7, pad=2)
        axis.tick_params(labelsize=6, length=2)
        axis.grid(alpha=0.2)
    if names:
        handles = [Line2D([], [], color="C0", **style) for style in styles]
        drawing.legend(handles, names, loc="outside upper left", ncols=len(sets), fontsize=8, frameon=False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
