"""Likelihood beside sample quality: one autoregressive run at several temperatures, drowned in noise, and other runs.

    reverie train pixelcnn++ --data fashion-mnist
    reverie train codec --data fashion-mnist
    python benchmarks/likelihood_quality.py runs/pixelcnn++-fashion-mnist runs/codec-fashion-mnist

The first run has exact conditionals of 8-bit values, as the others have exact likelihoods of them. Prints a table and
writes the samples side by side.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch

import reverie as rv
from reverie.core.batch import Batch
from reverie.data.batches import in_order
from reverie.evaluation.distances import frechet_distance
from reverie.evaluation.features import backbone, features
from reverie.evaluation.statistics import Moments
from reverie.media import montage
from reverie.probability import sequential

SIGNAL = 0.01  # share of the mixture's samples that are the model's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.9, 0.8])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--out", default="likelihood-quality.png")
    args = parser.parse_args()
    data, net = rv.open_data(args.data), backbone(args.backbone)
    batch = next(in_order(data.held_out, args.held_out, torch.device("cpu")))
    values, pictures = data.spec.dimensions, []
    real = Moments.of(features(data.train["x"][:10_000], net, True)[:])

    def report(name: str, log_p: torch.Tensor, images: np.ndarray) -> None:
        bits = -log_p / values / math.log(2)
        distance = float(frechet_distance(Moments.of(features(images, net, False)[:]), real))
        error = 1.96 * float(bits.std()) / len(bits) ** 0.5
        print(f"{name:32} {float(bits.mean()):.3f} +- {error:.3f} bits per dimension, Frechet distance {distance:.1f}")
        pictures.append(montage.grid(images[:24], columns=4, gap=1))

    model = rv.load(args.runs[0], "cpu")
    levels = model.distribution.levels_of(batch["x"]).flatten(1)
    for temperature in args.temperatures:
        with torch.no_grad():
            steps = model.conditionals(len(levels), temperature=temperature)
            log_p = sequential.log_prob(steps, levels)
        images = rv.sample(model, args.samples, temperature=temperature).array
        report(f"{args.runs[0]}, temperature {temperature:g}", log_p, images)
        if temperature == 1:
            noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
            noise[: max(1, round(SIGNAL * len(noise)))] = images[: max(1, round(SIGNAL * len(noise)))]
            uniform = torch.full_like(log_p, math.log(1 - SIGNAL) - values * math.log(256))
            report(f"{1 - SIGNAL:.0%} noise", torch.logaddexp(log_p + math.log(SIGNAL), uniform), noise)
    for run in args.runs[1:]:
        model = rv.load(run, "cpu")
        with torch.no_grad():
            log_p = model.log_prob(Batch({"x": batch["x"]}))
        report(run, log_p, rv.sample(model, args.samples).array)
    montage.save(args.out, montage.grid(np.stack(pictures), columns=len(pictures), gap=8))


if __name__ == "__main__":
    main()
