"""How good are a run's samples after how many evaluations of its network: every sampler on one checkpoint.

The same seeds are drawn with every sampler at 4 to 50 evaluations, truly counted (``heun`` takes two a step: where it
cannot use all that the column says, what it used stands in brackets), and compared with the first 10,000 training
images by the plain Frechet distance of 2,000 samples: fit for comparing with one another only. Time grids are the
model's own; ``ddim``, the one to beat, is also run on its paper's even grid, and the better of the two counts.
``--grids`` runs every sampler on every grid instead.

Prints a table in markdown and leaves a plot (--out). What is found is kept in RUN/evaluation/sampler-steps.json, cell
by cell: an interrupted measurement goes on from there.

Run:  python benchmarks/sampler_steps.py RUN [--samples 2000] [--backbone small] [--samplers unipc,ddim] [--grids]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie as rv
from reverie.core.card import card_of
from reverie.core.files import read_json, write_json
from reverie.core.noise import Noise
from reverie.core.options import method_parameters
from reverie.core.verbs import Model
from reverie.diffusion.grids import GRIDS
from reverie.diffusion.samplers import SAMPLERS
from reverie.evaluation.distances import frechet_distance
from reverie.evaluation.features import Backbone, backbone, features
from reverie.evaluation.statistics import Moments
from reverie.inference.load import data_of
from reverie.media import plots
from reverie.models.diffusion.base import Diffusion
from reverie.pretrained import weights
from reverie.training.progress import clock
from reverie.training.run import locate

EVALUATIONS = (4, 6, 8, 10, 15, 20, 35, 50)
SAMPLER, STEPS, GRID = (
    method_parameters(Diffusion, "stream")[name].default for name in ("sampler", "steps", "time_grid")
)


@dataclass(frozen=True)
class Point:
    """One way to draw, and how often it evaluates the network."""

    sampler: str
    grid: str
    steps: int
    used: int

    def __str__(self) -> str:
        return f"{self.sampler} on {self.grid} in {self.steps} steps"


Row = dict[int, Point]  # by the largest number of evaluations
Rows = dict[tuple[str, str], Row]  # by the sampler's title and the grid
Draw = Callable[[Point], np.ndarray]
Score = Callable[[np.ndarray], float]


def point(model: Model, sampler: str, grid: str, steps: int) -> Point:
    """Evaluations are counted by running the sampler on nothing."""
    count = 0

    def denoise(x: Tensor, alpha: float, sigma: float) -> Tensor:
        nonlocal count
        count += 1
        return x

    levels = model.timesteps(sampler, steps, grid)
    for _ in SAMPLERS[sampler](denoise, torch.zeros(1, 1, 1, 1), levels, Noise.of_seeds([0])):
        pass
    return Point(sampler, grid, steps, count)


def row_of(model: Model, sampler: str, grid: str) -> Row:
    """For each number of evaluations the most steps that it allows."""
    points = [point(model, sampler, grid, steps) for steps in range(1, max(EVALUATIONS) + 1)]
    return {most: max((p for p in points if p.used <= most), key=lambda p: p.steps) for most in EVALUATIONS}


def rows_of(model: Model, samplers: list[str], grids: list[str] | None) -> Rows:
    """(title, grid) to points; a sampler that is another one by a second name shares its row."""
    titles: dict[Any, list[str]] = {}
    for name in dict.fromkeys([*samplers, SAMPLER, "ddim"]):
        if name not in SAMPLERS:
            raise SystemExit(f"There is no sampler {name}. There are: {', '.join(SAMPLERS)}.")
        titles.setdefault(SAMPLERS[name], []).append(name)
    pairs = [(names, grid) for names in titles.values() for grid in grids or [GRID]]
    pairs += [(titles[SAMPLERS["ddim"]], "uniform")]
    return {(" = ".join(names), grid): row_of(model, names[0], grid) for names, grid in pairs}


def look(images: np.ndarray, eye: Backbone, what: str, keep: bool = True) -> Moments:
    """Moments of features, telling every ten seconds how far it is."""
    reported = time.monotonic()

    def progress(done: int, total: int, _: str) -> None:
        nonlocal reported
        if time.monotonic() - reported > 10:
            reported = time.monotonic()
            print(f"{eye.name}: {what}, {done:,} of {total:,}", file=sys.stderr, flush=True)

    return features(images, eye, keep, progress).moments


def measure(
    points: Iterable[Point], draw: Draw, score: Score, distances: dict[str, float], keep: Callable[[], None]
) -> None:
    """Fill ``found``, the Frechet distances by point, the cheapest first, and say how long it will take."""
    left = sorted((p for p in dict.fromkeys(points) if str(p) not in distances), key=lambda p: p.used)
    drawing = looking = 0.0
    for done, p in enumerate(left, 1):
        began = time.monotonic()
        samples = draw(p)
        drawing += time.monotonic() - began
        began = time.monotonic()
        distances[str(p)] = score(samples)
        looking += time.monotonic() - began
        keep()
        per_evaluation, per_look = drawing / sum(q.used for q in left[:done]), looking / done
        seconds = sum(q.used * per_evaluation + per_look for q in left[done:])
        print(
            f"{done} of {len(left)}: {p}: {distances[str(p)]:.2f}; {clock(seconds)} left", file=sys.stderr, flush=True
        )


def table(rows: Rows, distances: dict[str, float]) -> str:
    """In markdown; the least of each column in bold."""
    lines = [f"| sampler | grid | {' | '.join(map(str, EVALUATIONS))} |", "|---" * (len(EVALUATIONS) + 2) + "|"]
    for (title, grid), row in rows.items():
        cells = []
        for most, p in row.items():
            value, least = distances[str(p)], min(distances[str(other[most])] for other in rows.values())
            cells.append(f"**{value:.2f}**" if value == least else f"{value:.2f}")
            cells[-1] += "" if p.used == most else f" ({p.used})"
        lines.append(f"| {title} | {grid} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(path: Path, rows: Rows, distances: dict[str, float], floor: float, measured: str) -> None:
    """A colour a sampler, a line style a grid."""
    titles, grids = (list(dict.fromkeys(names)) for names in zip(*rows, strict=True))
    with plots.figure(path, 8.2, 4.8) as drawing:
        axis = drawing.subplots()
        for (title, grid), row in rows.items():
            points = list(dict.fromkeys(row.values()))
            axis.plot(
                [p.used for p in points],
                [distances[str(p)] for p in points],
                linestyle=("-", "--", ":", "-.")[grids.index(grid) % 4],
                color=f"C{titles.index(title)}",
                marker="o",
                markersize=3,
                label=f"{title}, {grid}",
            )
        axis.axhline(floor, color="black", linewidth=0.8, label="real pictures")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(EVALUATIONS, [str(most) for most in EVALUATIONS])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("evaluations of the network")
        axis.set_ylabel(measured)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=10_000, help="training pictures to compare with")
    parser.add_argument("--backbone", default="inception", help="inception, or small, which is quick")
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="the default one and ddim come in any case")
    parser.add_argument("--grids", nargs="?", const=",".join(GRIDS), help="which time grids; all where none is named")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="the plot; RUN/evaluation/sampler-steps.png by default")
    flags = parser.parse_args()
    model, folder = rv.load(flags.run, flags.device), locate(flags.run)[0] / "evaluation"
    rows = rows_of(model, flags.samplers.split(","), flags.grids and flags.grids.split(","))
    default = point(model, SAMPLER, GRID, STEPS)
    few = row_of(model, SAMPLER, GRID)[10]
    slow = {point(model, "ddim", grid, max(EVALUATIONS)) for grid in (GRID, "uniform")}
    data, eye = data_of(model), backbone(flags.backbone, device=flags.device)
    reference = look(data.train["x"][: flags.reference], eye, "reference")
    spare = data.train["x"][flags.reference :]
    others = (spare if len(spare) >= flags.samples else data.held_out["x"])[: flags.samples]
    floor = frechet_distance(look(others, eye, "other real pictures"), reference)

    digest = weights.digest({name: value.cpu() for name, value in model.state_dict().items()})
    store = folder / "sampler-steps.json"
    kept = read_json(store) if store.exists() else {}
    setup = f"weights {digest[:12]}, {flags.samples} of {flags.reference}, {eye.name} {eye.sha256[:12]} {eye.precision}"
    distances = kept.setdefault(setup, {})
    labels = list(range(card_of(model).classes)) or None

    def draw(p: Point) -> np.ndarray:
        options: dict[str, Any] = {"sampler": p.sampler, "time_grid": p.grid, "steps": p.steps}
        return rv.sample(model, flags.samples, label=labels, chunk=250, **options).array

    def score(samples: np.ndarray) -> float:
        return frechet_distance(look(samples, eye, "samples", keep=False), reference)

    points = [p for row in rows.values() for p in row.values()]
    measure([*points, default, few, *slow], draw, score, distances, lambda: write_json(store, kept))
    measured = f"Frechet distance, {eye.name}, {flags.samples:,} samples against {reference.count:,}"
    plot(flags.out or folder / "sampler-steps.png", rows, distances, floor, measured)
    print(f"{measured}; {len(others):,} other real pictures have {floor:.2f}.\n")
    print(table(rows, distances))
    bar = min(distances[str(p)] for p in slow)
    excess = distances[str(few)] / bar - 1
    print(f"\n{few}: {distances[str(few)]:.2f} in {few.used} evaluations; ddim in {max(EVALUATIONS)}: {bar:.2f}.")
    print(f"{excess:+.1%}: {'within' if excess <= 0.05 else 'NOT within'} 5 %.")
    print(f"ratio: {bar / distances[str(default)]:.2f}")


if __name__ == "__main__":
    main()
