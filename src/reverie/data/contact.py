"""A contact sheet: images of a data set, their sizes, and the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.terminal import printable
from reverie.data.types import Dataset
from reverie.media import medium_of
from reverie.media.plots import check_plot, figure

COLUMNS, ROWS = 12, 6  # images that are shown
CLASSES = 30  # bars


def contact_sheet(dataset: Dataset, path: Path) -> None:
    """Write an image of the data: samples spread over the training split, and plots of sizes and classes beside.

    Raises:
        UsageError: an ending that no plot is written with.
        OSError: the file cannot be written.
    """
    check_plot(path)
    counts, sizes = dataset.counts_of_classes(), dataset.report.sizes
    plots: list[Callable[[Any], None]] = [partial(_classes, counts=counts)] if counts else []
    plots += [partial(_extents, sizes=sizes), partial(_aspects, sizes=sizes)] if sizes else []
    with figure(path, 14, 7.5 + 3.2 * bool(plots)) as drawing:
        drawing.suptitle(printable(f"{Path(dataset.source).name or dataset.source}: {_title(dataset)}"), fontsize=11)
        grid = drawing.add_gridspec(2 if plots else 1, max(1, len(plots)), height_ratios=[7, 3.2][: 1 + bool(plots)])
        sheet = drawing.add_subplot(grid[0, :])
        sheet.imshow(_samples(dataset), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        sheet.set_axis_off()
        for column, plot in enumerate(plots):
            plot(drawing.add_subplot(grid[1, column]))


def _title(dataset: Dataset) -> str:
    read_as = dataset.report.read_as
    size = f"{len(dataset.train):,} to train on, {len(dataset.held_out):,} held out, {dataset.spec}"
    return f"{read_as}; {size}" if read_as else size


def _samples(dataset: Dataset) -> np.ndarray:
    """Images spread over the split, those of a class together."""
    n = min(COLUMNS * ROWS, len(dataset.train))
    rows = np.linspace(0, len(dataset.train) - 1, n).astype(np.int64)
    if dataset.classes:
        by_class = np.argsort(dataset.train.labels, kind="stable")
        rows = by_class[rows]
    images, spec = dataset.train["x"][rows], dataset.spec
    if "mask" in dataset.train and spec.medium == "image":
        images = _outlined(images, dataset.train["mask"][rows, ..., 0] > 0)
        spec = replace(spec, channels=images.shape[-1])
    return np.squeeze(medium_of(spec).sheet(images, spec, columns=COLUMNS))


def _outlined(images: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) with red outlines of their marked regions, bool (N, H, W), in RGB or RGBA."""
    padded = np.pad(marked, ((0, 0), (1, 1), (1, 1)), mode="edge")
    inner = padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    colours = images.repeat(3, -1) if images.shape[-1] == 1 else images.copy()
    colours[marked & ~inner] = (255, 0, 0, 255)[: colours.shape[-1]]
    return colours


def _classes(axis: Any, counts: Mapping[str, tuple[int, int]]) -> None:
    first = list(counts.items())[:CLASSES]
    names = [printable(name)[:20] for name, _ in first]
    train, held_out = (np.array([both[side] for _, both in first]) for side in (0, 1))
    axis.bar(range(len(first)), train, label="to train on")
    axis.bar(range(len(first)), held_out, bottom=train, label="held out")
    axis.set_xticks(range(len(first)), names, rotation=90 if len(first) > 6 else 0, fontsize=7)
    more = f" (first {CLASSES} of {len(counts):,})" if len(counts) > CLASSES else ""
    axis.set_title(f"images of each class{more}", fontsize=9)
    axis.legend(frameon=False, fontsize=7)


def _extents(axis: Any, sizes: Mapping[tuple[int, int], int]) -> None:
    """Width and height of the files' images; a larger dot is more images."""
    width, height = np.array(list(sizes)).T
    number = np.array(list(sizes.values()))
    axis.scatter(width, height, s=8 + 120 * number / number.max(), alpha=0.5)
    axis.set_xlabel("width, pixels", fontsize=8)
    axis.set_ylabel("height, pixels", fontsize=8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title("sizes of the files' images", fontsize=9)


def _aspects(axis: Any, sizes: Mapping[tuple[int, int], int]) -> None:
    aspects = np.log2([width / height for width, height in sizes])
    axis.hist(aspects, bins=np.linspace(-3, 3, 25), weights=list(sizes.values()))
    axis.set_xticks([-3, -2, -1, 0, 1, 2, 3], ["1:8", "1:4", "1:2", "1:1", "2:1", "4:1", "8:1"], fontsize=7)
    axis.set_title("width to height", fontsize=9)
