"""How much faster does a cache make the samples of PixelCNN++, against a whole pass of the network for every pixel?

Both draw the same images of 28x28 from the same network and seeds. The naive loop runs the network on the whole images
for each of the 784 pixels, in float32 (the faster type) and without gradients. All its passes cost the same: only some
of them are timed, and the loop is taken to be as many times longer as there are more. That both draw the same is
checked on a few images, in float64 and by complete loops.

Run:  python benchmarks/density_sampling.py [--rows 64] [--passes 12]
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from torch import Tensor

from reverie.core import registry
from reverie.core.noise import Noise
from reverie.core.verbs import Model
from reverie.probability.sequential import probs_of, quantile, sampled

SIDE = 28


def network(seed: int = 0) -> Model:
    """The default PixelCNN++ of grey images, with random weights: a trained one costs the same."""
    torch.manual_seed(seed)
    model = registry.build("pixelcnn++", shape=(SIDE, SIDE), channels=1).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def naive_pass(model: Model, levels: Tensor, u: Tensor, place: int) -> None:
    """Draw one pixel of all images (B, 1, H, W), by a pass over the whole of them."""
    dtype = next(model.net.parameters()).dtype
    row, column = divmod(place, SIDE)
    params = model.net(model.distribution.values(levels).to(dtype))[:, :, row, column, None]
    probs = probs_of(next(model.distribution.conditionals(params)))
    levels[:, :, row, column] = quantile(probs, u[:, place, None])


def naive(model: Model, rows: int) -> Tensor:
    """Levels (B, D) of the seeds 0 ... rows - 1 by complete loops in float64."""
    exact = copy.deepcopy(model).double()
    u, levels = Noise.of_seeds(range(rows)).uniform(SIDE * SIDE), torch.zeros(rows, 1, SIDE, SIDE, dtype=torch.int64)
    for place in range(SIDE * SIDE):
        naive_pass(exact, levels, u, place)
    return levels.flatten(1)


def cached(model: Model, rows: int) -> Tensor:
    """The same with the cache."""
    *_, levels = sampled(model.conditionals(rows), Noise.of_seeds(range(rows)).uniform(SIDE * SIDE))
    return levels


def equal_levels(rows: int = 2) -> bool:
    """Whether both ways draw the same levels."""
    model = network()
    return torch.equal(naive(model, rows), cached(model, rows))


def seconds(rows: int = 64, passes: int = 12) -> dict[str, float]:
    """Of a batch of samples: {"cached": ..., "naive": ...}; timed in turns, the fastest of each."""
    model, u = network(), Noise.of_seeds(range(rows)).uniform(SIDE * SIDE)
    levels = torch.zeros(rows, 1, SIDE, SIDE, dtype=torch.int64)
    naive_pass(model, levels, u, 0)
    each, whole = [], []
    for part in range(3):
        began = time.perf_counter()
        cached(model, rows)
        whole.append(time.perf_counter() - began)
        for place in range(part, SIDE * SIDE, SIDE * SIDE * 3 // passes):
            began = time.perf_counter()
            naive_pass(model, levels, u, place)
            each.append(time.perf_counter() - began)
    return {"cached": min(whole), "naive": min(each) * SIDE * SIDE}


def speedup(rows: int = 64, passes: int = 12) -> float:
    """Seconds of the naive loop over those of cached sampling."""
    measured = seconds(rows, passes)
    return measured["naive"] / measured["cached"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--passes", type=int, default=12)
    arguments = parser.parse_args()
    with torch.no_grad():
        if not equal_levels():
            raise SystemExit("The two ways drew different images.")
        print("equal levels: complete loops of 2 images drew what the cache draws, in every pixel")
        measured = seconds(arguments.rows, arguments.passes)
    for name, value in measured.items():
        print(f"{name}: {value:.2f} s for {arguments.rows} images of {SIDE}x{SIDE}")
    print(f"ratio: {measured['naive'] / measured['cached']:.2f}")


if __name__ == "__main__":
    main()
