"""What an evaluation leaves behind: scores.json, and images that show what the numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.files import read_json, write_json
from reverie.drawing import beside
from reverie.media import medium_of, montage, plots
from reverie.metrics.bench import Sets
from reverie.metrics.passport import Score, Scores

_SHOWN = 32  # images a side on the sheet


def leave_behind(found: Scores, sets: Sets, folder: Path) -> None:
    """scores.json, scores.png (generated beside real, or its truth, and the bars of what was measured), closest.png.

    Scores of other metrics that an earlier evaluation left in scores.json stay: each has its own passport.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", _merged(folder / "scores.json", found.summary()))
    if not found.scores:
        return
    _sheet(found, sets, folder / "scores.png")
    if "pairs" in found.pictures:
        pairs = found.pictures["pairs"].pairs
        fakes = sets.fake["x"][[pair.fake for pair in pairs]]
        originals = sets.learned_train["x"][[pair.train for pair in pairs]]
        spec = sets.fake.spec
        shown = [medium_of(spec).to_float(np.array(side), spec) for side in (fakes, originals)]
        montage.save(folder / "closest.png", beside(shown, spec=spec))


def _merged(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    try:
        old = read_json(path)
        met = {one["metric"] for kind in ("scores", "refused") for one in new[kind]}
        return {kind: [one for one in old[kind] if one["metric"] not in met] + new[kind] for kind in new}
    except (OSError, ValueError, KeyError, TypeError):
        return new  # none yet, or no whole one


def _sheet(found: Scores, sets: Sets, path: Path) -> None:
    aside = ("copying-share", "copying-z", "classes-covered")
    shown = [s for s in found.scores if s.floor is not None and "[" not in s.metric and s.metric not in aside]
    with plots.figure(path, 10, 3 + 0.3 * len(shown)) as figure:
        plan = figure.add_gridspec(2, 2, height_ratios=[2.7, max(0.5, 0.3 * len(shown))])
        sides = [("generated", sets.fake["x"]), ("real", sets.reference["x"])]
        if sets.truth is not None:  # the same rows on both sides
            sides = [("translated", sets.fake["x"]), ("truth", sets.truth)]
        for column, (title, images) in enumerate(sides):
            if not len(images):
                continue
            rows = np.linspace(0, len(images) - 1, min(_SHOWN, len(images))).astype(int)
            axes = figure.add_subplot(plan[0, column])
            spec = sets.reference.spec
            sheet = medium_of(spec).sheet(np.array(images[rows]), spec, columns=8)
            axes.imshow(sheet.repeat(3 // sheet.shape[-1], -1))
            axes.set_title(f"{title} ({len(images):,})")
            axes.axis("off")
        if shown:
            _bars(figure.add_subplot(plan[1, :]), shown)


def _bars(axes: Any, shown: list[Score]) -> None:
    """A line a score: its interval, and where real pictures would stand; each scaled by the larger of the two."""
    for row, score in enumerate(shown):
        floor = score.floor or 0.0
        scale = max(abs(score.value), abs(floor), 1e-12)
        if score.low is not None and score.high is not None:
            ends = [min(max(end / scale, -0.03), 1.15) for end in (score.low, score.high)]
            axes.plot(ends, [row, row], color="tab:blue", linewidth=3)
        value, real = (max(number / scale, 0) for number in (score.value, floor))  # unbiased distances may be below 0
        axes.plot(value, row, "o", color="tab:blue", label="" if row else "generated, 95 %")
        axes.plot(real, row, "|", color="black", markersize=16, label="" if row else "real pictures")
        told = f"{score.value:.4g}  (real {floor:.4g}; {score.passport['better']} is better)"
        axes.text(1.22, row, told, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [score.metric for score in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-0.05, 1.9)
    axes.set_xticks([])
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, fontsize=8, frameon=False)
