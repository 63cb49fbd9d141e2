"""The files of an evaluation: scores.json, scores.png and closest.png."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.files import read_json, write_json
from reverie.evaluation.base import Sets
from reverie.evaluation.passport import Score, Scores
from reverie.media import medium_of, montage, plots
from reverie.media.origin import Origin, complete_origin
from reverie.media.sheets import beside

_PER_SIDE = 32  # images on each side of the sheet


def write_sheet(scores: Scores, sets: Sets, folder: Path) -> None:
    """Write scores.json, scores.png (generated images beside real ones or their truth, and scores) and closest.png.

    Without generated images there is no scores.png: there is nothing to look at.
    scores.json keeps scores of other metrics from earlier evaluations: each has its own passport.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin = {"verb": "evaluate", "weights": scores.weights}
    write_json(folder / "scores.json", complete_origin(origin) | _merged(folder / "scores.json", scores.summary()))
    if not scores.scores or not len(sets.fake):
        return
    _plot(scores, sets, folder / "scores.png", origin)
    if pairs := scores.images.get("pairs"):
        fakes = sets.fake["x"][[pair.fake for pair in pairs]]
        originals = sets.learned_train["x"][[pair.train for pair in pairs]]
        spec = sets.fake.spec
        montage.save(folder / "closest.png", beside([np.array(fakes), np.array(originals)], spec), origin)


def _merged(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    try:
        old = read_json(path)
        replaced = {score["metric"] for kind in ("scores", "refused") for score in new[kind]}
        return {kind: [score for score in old[kind] if score["metric"] not in replaced] + new[kind] for kind in new}
    except (OSError, ValueError, KeyError, TypeError):
        return new  # no earlier file, or a damaged one


def _plot(scores: Scores, sets: Sets, path: Path, origin: Origin) -> None:
    omitted = ("copying-share", "copying-z", "class-coverage")
    bars = [s for s in scores.scores if s.floor is not None or sets.file]
    bars = [s for s in bars if "[" not in s.metric and s.metric not in omitted]
    height = 0.55 * max(2, len(bars)) if bars else 0  # of one bar with its legend, or of several
    with plots.figure(path, 10, 3 + height, origin) as figure:
        layout = figure.add_gridspec(2, 2, height_ratios=[2.7, height or 0.5])
        sides = [("generated", sets.fake["x"]), ("real", sets.reference["x"])]
        if sets.truth is not None:  # the same rows on both sides
            sides = [("translated", sets.fake["x"]), ("truth", sets.truth)]
        sides = [(title, images) for title, images in sides if len(images)]
        for column, (title, images) in enumerate(sides):
            wide = 3 - len(sides)  # alone it has the width of both
            rows = np.linspace(0, len(images) - 1, min(_PER_SIDE * wide, len(images))).astype(int)
            axes = figure.add_subplot(layout[0, column : column + wide])
            spec = sets.reference.spec
            sheet = medium_of(spec).sheet(np.array(images[rows]), spec, columns=8 * wide)
            axes.imshow(sheet.repeat(3, -1) if sheet.shape[-1] == 1 else sheet)
            axes.set_title(f"{title} ({len(images):,})")
            axes.axis("off")
        if bars:
            _plot_bars(figure, layout[1, :], bars)


def _plot_bars(figure: Any, layout: Any, scores: list[Score]) -> None:
    """A row for each score with an axis of its own: value, 95 % interval and floor."""
    rows = layout.subgridspec(len(scores), 1)
    for row, score in enumerate(scores):
        axis = figure.add_subplot(rows[row])
        ends = [end for end in (score.low, score.high, score.value, score.floor) if end is not None]
        if score.low is not None and score.high is not None:
            axis.plot([score.low, score.high], [0, 0], color="tab:blue", linewidth=3)
        axis.plot(score.value, 0, "o", color="tab:blue", label="generated, 95 %")
        if score.floor is not None:
            axis.plot(score.floor, 0, "|", color="black", markersize=14, label="real images")
        low, high = min(0.0, *ends), max(ends)  # unbiased distances may be below 0
        margin = 0.05 * (high - low) or 1.0
        axis.set_xlim(low - margin, high + margin)
        axis.set_yticks([0], [f"{score.metric} ({score.passport['better']} is better)"], fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["left", "right", "top"]].set_visible(False)
        if not row:
            axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=8, frameon=False)
