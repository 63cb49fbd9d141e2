"""A contact sheet: images of a data set, their sizes, and the classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.terminal import printable
from reverie.data import contact_plots
from reverie.data.types import Dataset
from reverie.media import alpha, medium_of
from reverie.media.plots import check_plot, figure
from reverie.media.sheets import labelled_grid

IMAGES, COLUMNS = 72, 12  # that are shown
WIDTH, HEIGHT = 14.0, 7.5  # of the images, inches
DPI = 110
TILE = 96  # most pixels of the height of an image above words


def contact_sheet(dataset: Dataset, path: Path) -> None:
    """Write an image of the data: samples spread over the training split, and plots of sizes and classes beside.

    Raises:
        UsageError: an ending that no plot is written with.
        OSError: the file cannot be written.
    """
    check_plot(path)
    counts, sizes = dataset.counts_of_classes(), dataset.report.sizes
    plots: list[Callable[[Any], None]] = [partial(contact_plots.classes, counts=counts)] if counts else []
    plots += (
        [partial(contact_plots.extents, sizes=sizes), partial(contact_plots.aspects, sizes=sizes)]
        if len(sizes) > 1
        else []
    )
    images = _samples(dataset)
    height = min(HEIGHT, WIDTH * images.shape[0] / images.shape[1])
    with figure(path, WIDTH, 0.4 + height + 3.2 * bool(plots)) as drawing:
        drawing.suptitle(printable(f"{Path(dataset.source).name or dataset.source}: {_title(dataset)}"), fontsize=11)
        grid = drawing.add_gridspec(
            2 if plots else 1, max(1, len(plots)), height_ratios=[height, 3.2][: 1 + bool(plots)]
        )
        sheet = drawing.add_subplot(grid[0, :])
        sheet.imshow(images, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        sheet.set_axis_off()
        for column, plot in enumerate(plots):
            plot(drawing.add_subplot(grid[1, column]))


def _title(dataset: Dataset) -> str:
    read_as = dataset.report.read_as
    size = f"{len(dataset.train):,} to train on, {len(dataset.held_out):,} held out, {dataset.spec}"
    if len(sizes := dataset.report.sizes) == 1:
        size += " of files of {} x {} pixels".format(*next(iter(sizes)))
    return f"{read_as}; {size}" if read_as else size


def _samples(dataset: Dataset) -> np.ndarray:
    """Images spread over the split, those of a class together; of pairs the source to the left of each image."""
    spec, n, columns = dataset.spec, min(IMAGES, len(dataset.train)), COLUMNS
    if spec.medium == "image":
        height, width = spec.shape[0], spec.shape[1] * (1 + ("source" in dataset.train))
        columns = max(1, round(math.sqrt(n * WIDTH / HEIGHT * height / width)))
        n -= n % columns if n > columns else 0  # full rows
    rows = np.linspace(0, len(dataset.train) - 1, n).astype(np.int64)
    if dataset.classes:
        by_class = np.argsort(dataset.train.labels, kind="stable")
        rows = by_class[rows]
    images = dataset.train["x"][rows]
    if spec.medium != "image":
        return np.squeeze(medium_of(spec).sheet(images, spec, columns=columns))
    if "mask" in dataset.train:
        images = _outlined(images, dataset.train["mask"][rows, ..., 0] > 0)
    if "source" in dataset.train:
        channels = max(images.shape[-1], dataset.train["source"].shape[-1])
        sides = dataset.train["source"][rows], images
        images = np.concatenate([alpha.with_channels(side, channels) for side in sides], axis=2)
    if not (words := _words(dataset, rows)):
        return np.squeeze(labelled_grid(images, [], columns))
    step = math.ceil(height / TILE)  # large images are thinned, or the words would be too small
    images = images[:, ::step, ::step]
    most = DPI * WIDTH / columns / images.shape[2], DPI * HEIGHT / math.ceil(n / columns) / (images.shape[1] + 14)
    return np.squeeze(labelled_grid(images, words, columns, max(1, int(min(most)))))


def _words(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """The caption of each image, else its class; empty where there are neither."""
    if any(texts := dataset.train.get("text") or []):
        return [texts[row] for row in rows]
    labels = dataset.train.labels[rows]
    return [dataset.classes[label] if label >= 0 else "" for label in labels] if dataset.classes else []


def _outlined(images: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) with red outlines of their marked regions, bool (N, H, W), in RGB or RGBA."""
    padded = np.pad(marked, ((0, 0), (1, 1), (1, 1)), mode="edge")
    inner = padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    colours = images.repeat(3, -1) if images.shape[-1] == 1 else images.copy()
    colours[marked & ~inner] = (255, 0, 0, 255)[: colours.shape[-1]]
    return colours
