"""How long does a step of DeepDream take: reverie against a plain script with the same network, layers and image?

Both are VGG-16 with gradient ascent on the norms of two layers. The plain script computes in float32 and NCHW, to the
network's last layer, and takes gradients of its weights, too. reverie computes in bf16 and channels-last where the
machine multiplies it, no deeper than the deepest layer, and takes gradients of the image alone. Steps alternate.

Run:  python benchmarks/dream_step.py [--size 512] [--rounds 3] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from peers.dream import plain_dream, plain_vgg16

from reverie.core.precision import keep_memory, pick_device
from reverie.dreaming.deepdream import dreamer
from reverie.pretrained import weights

LAYERS = {"relu4_3": 22, "relu5_1": 25}  # the plain network's modules of these layers


def dream_step(size: int = 512, rounds: int = 3, device: str = "cpu") -> dict[str, float]:
    """Median seconds of a step, {"ours": ..., "plain": ...}."""
    place = pick_device(device)
    photo = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = dreamer("vgg16", list(LAYERS), octaves=1, steps=rounds + 1, memory=64, device=device)
    plain = plain_vgg16(weights.load("vgg16")).to(place)
    runs: dict[str, Iterator[object]] = {
        "ours": ours.stream(photo),
        "plain": plain_dream(plain, photo.to(place), list(LAYERS.values())),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            next(run)
            if place.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    keep_memory()
    seconds = dream_step(arguments.size, arguments.rounds, arguments.device)
    for name, value in seconds.items():
        print(f"{name}: {value:.3f} s a step at {arguments.size} pixels")
    print(f"ratio: {seconds['plain'] / seconds['ours']:.2f}")


if __name__ == "__main__":
    main()
