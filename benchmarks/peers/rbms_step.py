"""Updates of persistent contrastive divergence by the `rbms` package (PyPI), in the interpreter that has it.

Arguments: an .npz with "images" (N, V) of 0 and 1, hidden units, chains, sweeps, rows of a batch, seconds, threads. It
prints the seconds of an update: the package's chains, gradient and defaults, and SGD as its own loop uses it.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from rbms.bernoulli_bernoulli.classes import BBRBM


def main(file: str, hidden: int, chains: int, k: int, rows: int, seconds: float, threads: int) -> None:
    """Print the median time of an update."""
    torch.set_num_threads(threads)
    images = torch.from_numpy(np.load(file)["images"]).float()
    model = BBRBM.init_parameters(hidden, Data(images), torch.device("cpu"), torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, maximize=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state, times, began = model.init_chains(chains), [], time.perf_counter()
    with torch.no_grad():
        while time.perf_counter() - began < seconds or len(times) < 5:
            start = time.perf_counter()
            batch = images[torch.randperm(len(images))[:rows]]
            data = model.init_chains(rows, start_v=batch)
            state = model.sample_state(chains=state, n_steps=k)
            model.compute_gradient(data=data, chains=state)
            optimizer.step()
            times.append(time.perf_counter() - start)
    print(float(np.median(times)))


class Data:
    """What `init_parameters` reads of a data set."""

    def __init__(self, images: torch.Tensor):
        self.data = images
        self.weights = torch.ones(len(images))


if __name__ == "__main__":
    names = (str, int, int, int, int, float, int)
    main(*(kind(value) for kind, value in zip(names, sys.argv[1:], strict=True)))
