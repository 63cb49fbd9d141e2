"""Flows at equal minutes: likelihood, samples, and what a sample costs.

Every model is trained with its default options for the same minutes, one after the other. Of each: images seen; the
negative log-likelihood of held-out images, which for coupling flows is a bound in bits per dimension of 8-bit images,
and for tarflow the exact density of images with its training noise in nats per dimension, so not comparable with the
others; the Frechet distance of samples to training images; and seconds a sample, by the flow's inverse, in one batch
after another. A learned inverse of tarflow, trained for --distill-minutes, has no likelihood: it samples in one pass.

`table.md` has the table, `samples.png` squares of samples in the order of the table, `flows.json` the numbers.

Run:  python benchmarks/flows.py [--data fashion-mnist] [--minutes 15] [--distill-minutes 5] [--models glow tarflow]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import reverie as rv
from reverie.core.card import card_of
from reverie.core.files import write_json
from reverie.evaluation.likelihood import evenly, likelihood
from reverie.media import montage
from reverie.training.run import fresh_path

FLOWS = ("realnvp", "glow", "spline-flow", "tarflow")
DISTILLED = "tarflow"


@dataclass(frozen=True)
class Result:
    """A trained model's numbers.

    Attributes:
        nll: per dimension, see ``unit``; None: it has no likelihood.
        floor: the Frechet distance of other training images.
    """

    model: str
    images_seen: int
    nll: float | None
    unit: str
    frechet: float
    floor: float
    seconds_per_sample: float


def measure(flags: argparse.Namespace, run: rv.Run, name: str) -> tuple[Result, np.ndarray]:
    """Score a run, and return a few samples (N, H, W, C) to look at."""
    model = rv.load(run)
    rv.sample(model, 8, seed=1)  # whatever is done once
    began = time.perf_counter()
    samples = rv.sample(model, flags.samples, seed=0).array
    seconds = (time.perf_counter() - began) / flags.samples
    nll, unit = held_out_nll(flags, model)
    options = {"metrics": ["frechet"], "backbone": flags.backbone}
    distance = rv.evaluate(fake=samples, real=f"{flags.data}:train", **options)["frechet"]
    seen = run.info["result"]["steps"] * run.info["training"]["batch_size"]
    result = Result(name, seen, nll, unit, distance.value, distance.floor or 0.0, seconds)
    return result, samples[: flags.rows * flags.rows]


def held_out_nll(flags: argparse.Namespace, model: rv.Model) -> tuple[float | None, str]:
    """Of held-out images, by the cheapest method of the card, and its unit."""
    card = card_of(model)
    if not card.likelihoods:
        return None, "none"
    held_out = evenly(rv.open_data(flags.data).held_out, flags.held_out)
    values = {name: estimate.value for name, estimate, _ in likelihood(model, held_out)}
    if card.likelihoods[0].of == "density":
        name = next(name for name in values if name.startswith("nll"))
        return values[name] / (card.output.channels * math.prod(card.output.shape)), "nats/dim of noisy images, exact"
    return values["bits-per-dim-bound"], "bits/dim, bound"


def table(results: Sequence[Result], flags: argparse.Namespace) -> str:
    """Markdown."""
    length = f"{flags.steps} steps" if flags.steps else f"{flags.minutes:g} minutes"
    lines = [
        f"{flags.data}, {length} each; Frechet distance of {flags.samples:,} samples, features of {flags.backbone}; "
        f"other training images have {results[0].floor:.2f}.",
        "",
        "| | images seen | held-out negative log-likelihood | Frechet distance | seconds a sample |",
        "|---|---|---|---|---|",
    ]
    for r in results:
        nll = "-" if r.nll is None else f"{r.nll:.3f} {r.unit}"
        lines.append(f"| {r.model} | {r.images_seen:,} | {nll} | {r.frechet:.2f} | {r.seconds_per_sample:.5f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train all, print the table, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, for each")
    parser.add_argument("--distill-minutes", type=float, default=5.0, help=f"for the learned inverse of {DISTILLED}")
    parser.add_argument("--steps", type=int, help="of every training, in place of minutes")
    parser.add_argument("--models", nargs="+", default=list(FLOWS))
    parser.add_argument("--samples", type=int, default=2000, help="that the Frechet distance is measured on")
    parser.add_argument("--held-out", type=int, default=2000, help="images for the likelihood")
    parser.add_argument("--backbone", default="inception", help="of the Frechet distance; small: quick")
    parser.add_argument("--rows", type=int, default=6, help="of each square of samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    folder = flags.out or fresh_path("flows", flags.data)
    folder.mkdir(parents=True)
    results: list[Result] = []
    squares: list[np.ndarray] = []

    def add(name: str, run: rv.Run) -> None:
        result, samples = measure(flags, run, name)
        results.append(result)
        squares.append(montage.grid(samples, columns=flags.rows, gap=1))
        print(result, flush=True)

    for name in flags.models:
        length = {"steps": flags.steps} if flags.steps else {"minutes": flags.minutes}
        run = rv.train(name, flags.data, out=folder / name, seed=flags.seed, sample_every=10**9, **length)
        add(name, run)
        if name == DISTILLED:
            length = {"steps": flags.steps} if flags.steps else {"minutes": flags.distill_minutes}
            options = {"teacher": str(run.path), "seed": flags.seed, "sample_every": 10**9}
            add(
                f"{name}, learned inverse",
                rv.train("learned-inverse", flags.data, out=folder / "quick", **options, **length),
            )
    text = table(results, flags)
    print(f"\n{text}\ntable, samples and numbers: {folder}")
    (folder / "table.md").write_text(text, encoding="utf-8")
    montage.save(folder / "samples.png", montage.grid(np.stack(squares), columns=len(squares), gap=12, scale=1))
    write_json(folder / "flows.json", [asdict(result) for result in results])


if __name__ == "__main__":
    main()
