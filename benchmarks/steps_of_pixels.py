"""What do coarser steps of an autoregressive model cost? `pixel-transformer` with 1, 4, 16 ... pixels in a step.

All are trained for the same minutes with the same options, one after the other: with pixels of a step that are
independent given the steps before (`--within independent`), and with a small network that draws them one by one
(`--within autoregressive`). Of each: bits per dimension of held-out images (nats of binary ones), the Frechet distance
of samples to training images in the features of the bundled encoder, samples a second, and samples, side by side.

`steps.png` has the curves, `samples.png` a column of samples for each number of pixels, `steps.json` the numbers.

Run:  python benchmarks/steps_of_pixels.py [--data fashion-mnist] [--minutes 5] [--pixels 1 4 16 49 196 784]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import reverie as rv
from reverie.core.files import write_json
from reverie.evaluation.likelihood import evenly, likelihood
from reverie.media import montage
from reverie.media.plots import figure
from reverie.training.run import fresh_path

WITHIN = ("independent", "autoregressive")


@dataclass(frozen=True)
class Result:
    """A trained model's numbers.

    Attributes:
        nll: bits per dimension, or nats an image of binary ones.
        floor: the Frechet distance of other training images.
    """

    pixels: int
    within: str
    images_seen: int
    nll: float
    unit: str
    frechet: float
    floor: float
    samples_per_second: float


def measure(flags: argparse.Namespace, pixels: int, within: str, out: Path) -> tuple[Result, np.ndarray]:
    """Train, score, and draw a few samples (N, H, W, C) to look at."""
    binary = {"likelihood": "bernoulli"} if flags.data.startswith("binary-mnist") else {}
    length = {"steps": flags.steps} if flags.steps else {"minutes": flags.minutes}
    options = {"pixels_per_step": pixels, "within": within, "sample_every": 10**9, **binary}
    run = rv.train("pixel-transformer", flags.data, out=out, seed=flags.seed, **length, **options)
    began = time.perf_counter()
    samples = rv.sample(run, flags.samples, seed=0).array
    rate = flags.samples / (time.perf_counter() - began)
    held_out = evenly(rv.open_data(flags.data).held_out, flags.held_out)
    values = {name: estimate.value for name, estimate, _ in likelihood(rv.load(run), held_out)}
    distance = rv.evaluate(fake=samples, real=f"{flags.data}:train", metrics=["frechet"], backbone="small")["frechet"]
    result = Result(
        pixels=pixels,
        within=within,
        images_seen=run.info["result"]["steps"] * run.info["training"]["batch_size"],
        nll=values["nll-binary" if binary else "bits-per-dim"],
        unit="nats an image" if binary else "bits per dimension",
        frechet=distance.value,
        floor=distance.floor or 0.0,
        samples_per_second=rate,
    )
    return result, samples[: flags.rows * flags.rows]


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """Three panels over the pixels of a step."""
    panels = {
        "nll": f"negative log-likelihood, {results[0].unit}",
        "frechet": "Frechet distance of samples",
        "samples_per_second": "samples a second",
    }
    with figure(path, 13, 3.6) as drawing:
        drawing.suptitle(title, fontsize=10)
        for axis, (name, label) in zip(drawing.subplots(1, 3), panels.items(), strict=True):
            for within in dict.fromkeys(result.within for result in results):
                points = [(r.pixels, getattr(r, name)) for r in results if r.within == within]
                axis.plot(*zip(*points, strict=True), "o-", label=within)
            axis.set_xscale("log")
            ticks = sorted({result.pixels for result in results})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            if name == "samples_per_second":
                axis.set_yscale("log")
            axis.set_xlabel("pixels a step", fontsize=8)
            axis.set_title(label, fontsize=10)
            axis.grid(alpha=0.3)
        axis.legend(frameon=False, title="pixels of a step", fontsize=8)


def sheet(samples: dict[tuple[str, int], np.ndarray], rows: int) -> np.ndarray:
    """A row of squares for each way, a square of samples for each number of pixels, uint8 (H, W, C)."""
    lines = []
    for within in dict.fromkeys(way for way, _ in samples):
        squares = [montage.grid(images, columns=rows, gap=1) for (way, _), images in samples.items() if way == within]
        lines.append(montage.grid(np.stack(squares), columns=len(squares), gap=12, scale=1))
    return np.concatenate(lines)


def main() -> None:
    """Train all, print a table, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="or binary-mnist")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each")
    parser.add_argument("--steps", type=int, help="of training, in place of minutes")
    parser.add_argument("--pixels", type=int, nargs="+", default=[1, 4, 16, 49, 196, 784])
    parser.add_argument("--within", nargs="+", choices=WITHIN, default=list(WITHIN))
    parser.add_argument("--samples", type=int, default=1000, help="that the Frechet distance is measured on")
    parser.add_argument("--held-out", type=int, default=2000, help="images for the likelihood")
    parser.add_argument("--rows", type=int, default=6, help="of each square of samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    folder = flags.out or fresh_path("steps", flags.data)
    folder.mkdir(parents=True)
    results: list[Result] = []
    samples: dict[tuple[str, int], np.ndarray] = {}
    print(f"{'pixels':>6} {'within':>15} {'images seen':>12} {'nll':>8} {'frechet':>8} {'floor':>6} {'samples/s':>10}")
    for within in flags.within:
        for pixels in flags.pixels:
            result, samples[within, pixels] = measure(flags, pixels, within, folder / f"{within}-{pixels}")
            results.append(result)
            print(
                f"{pixels:6} {within:>15} {result.images_seen:12,} {result.nll:8.3f} {result.frechet:8.2f} "
                f"{result.floor:6.2f} {result.samples_per_second:10.1f}",
                flush=True,
            )
    length = f"{flags.steps} steps" if flags.steps else f"{flags.minutes:g} minutes"
    plot(folder / "steps.png", results, f"{flags.data}, {length} of training each")
    montage.save(folder / "samples.png", sheet(samples, flags.rows))
    write_json(folder / "steps.json", [asdict(result) for result in results])
    print(f"{results[0].unit}; curves, samples and numbers: {folder}")


if __name__ == "__main__":
    main()
