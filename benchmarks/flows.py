"""Flows at equal minutes: likelihood, samples, and what a sample costs.

Every model is trained with its default options for the same minutes, one after the other. Of each: images seen; the
negative log-likelihood of held-out images, which for coupling flows is a bound in bits per dimension of 8-bit images,
and for tarflow the exact density of images with its training noise in nats per dimension, so not comparable with the
others; the Frechet distance of samples to the first --reference training images; and seconds a sample, by the flow's
inverse, in batches of 256. tarflow, by class, is also sampled with guidance. A learned inverse of tarflow, trained for
--distill-minutes, has no likelihood: it samples in one pass.

`table.md` has the table, `samples.png` squares of samples in the order of the table, `flows.json` the numbers. With the
same --out a benchmark that was stopped goes on after the last model that is in it.

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
from PIL import Image

import reverie as rv
from reverie.core.card import card_of
from reverie.core.files import read_json, write_json
from reverie.evaluation.distances import frechet_distance
from reverie.evaluation.features import backbone, features
from reverie.evaluation.likelihood import evenly, likelihood
from reverie.evaluation.statistics import Moments
from reverie.media import montage
from reverie.training.run import fresh_path

FLOWS = ("realnvp", "glow", "spline-flow", "tarflow")
DISTILLED = "tarflow"
GUIDED = {"guidance": 2.0, "temperature": 0.9}  # of tarflow, in a line of its own


@dataclass(frozen=True)
class Result:
    """A trained model's numbers.

    Attributes:
        nll: per dimension, see ``unit``; None: it has no likelihood.
    """

    model: str
    images_seen: int
    nll: float | None
    unit: str
    frechet: float
    seconds_per_sample: float


class Eye:
    """Frechet distances to the first training images, which are looked at once."""

    def __init__(self, flags: argparse.Namespace):
        train = rv.open_data(flags.data).train["x"]
        self.net = backbone(flags.backbone)
        self.reference = Moments.of(features(train[: flags.reference], self.net, True)[:])
        others = train[flags.reference : flags.reference + flags.samples]
        self.floor = self.distance(others) if len(others) else math.nan

    def distance(self, images: np.ndarray) -> float:
        return float(frechet_distance(Moments.of(features(images, self.net, False)[:]), self.reference))


def measure(flags: argparse.Namespace, eye: Eye, run: rv.Run, name: str, **options: float) -> tuple[Result, np.ndarray]:
    """Score a run, and return a few samples (N, H, W, C) to look at."""
    model = rv.load(run)
    rv.sample(model, 8, seed=1, **options)  # whatever is done once
    began = time.perf_counter()
    samples = rv.sample(model, flags.samples, seed=0, chunk=256, **options).array
    seconds = (time.perf_counter() - began) / flags.samples
    nll, unit = held_out_nll(flags, model)
    seen = run.info["result"]["steps"] * run.info["training"]["batch_size"]
    result = Result(name, seen, nll, unit, eye.distance(samples), seconds)
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


def table(results: Sequence[Result], floor: float, flags: argparse.Namespace) -> str:
    """Markdown."""
    length = f"{flags.steps} steps" if flags.steps else f"{flags.minutes:g} minutes"
    lines = [
        f"{flags.data}, {length} each; Frechet distance of {flags.samples:,} samples, features of {flags.backbone}; "
        f"as many other training images have {floor:.2f}.",
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
    parser.add_argument("--reference", type=int, default=10_000, help="training images to compare with")
    parser.add_argument("--held-out", type=int, default=2000, help="images for the likelihood")
    parser.add_argument("--backbone", default="inception", help="of the Frechet distance; small: quick")
    parser.add_argument("--rows", type=int, default=6, help="of each square of samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    folder = flags.out or fresh_path("flows", flags.data)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "flows.json"
    results = [Result(**kept) for kept in read_json(store)] if store.exists() else []
    eye = Eye(flags)

    def add(name: str, run: rv.Run, **options: float) -> None:
        result, samples = measure(flags, eye, run, name, **options)
        results.append(result)
        print(result, flush=True)
        montage.save(folder / f"{len(results):02}.png", montage.grid(samples, columns=flags.rows, gap=1, scale=1))
        write_json(store, [asdict(result) for result in results])

    def trained(name: str, folder_name: str, minutes: float, **options: object) -> rv.Run:
        path, length = folder / folder_name, {"steps": flags.steps} if flags.steps else {"minutes": minutes}
        if (path / "run.json").exists() and rv.Run.open(path).info["status"] == "finished":
            return rv.Run.open(path)
        return rv.train(name, flags.data, out=path, seed=flags.seed, sample_every=10**9, **options, **length)

    for name in flags.models:
        done = {result.model for result in results}
        by_class = {"conditional": "label"} if name == DISTILLED else {}
        if name not in done:
            add(name, trained(name, name, flags.minutes, **by_class))
        if name == DISTILLED and f"{name}, learned inverse" not in done:
            add(f"{name}, guided", rv.Run.open(folder / name), **GUIDED)
            teacher = str(folder / name)
            add(
                f"{name}, learned inverse",
                trained("learned-inverse", "quick", flags.distill_minutes, teacher=teacher),
            )
    text = table(results, eye.floor, flags)
    print(f"\n{text}\ntable, samples and numbers: {folder}")
    (folder / "table.md").write_text(text, encoding="utf-8")
    squares = [np.array(Image.open(folder / f"{i:02}.png")) for i in range(1, len(results) + 1)]
    shown = np.stack([square if square.ndim == 3 else square[..., None] for square in squares])
    montage.save(folder / "samples.png", montage.grid(shown, columns=len(squares), gap=12, scale=1))


if __name__ == "__main__":
    main()
