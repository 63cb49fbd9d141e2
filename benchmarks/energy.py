"""How fast is a restricted Boltzmann machine trained: reverie against scikit-learn and the `rbms` package?

60,000 images of 784 black and white pixels, 500 hidden units. reverie in the precision that it picks (bf16 products
where the processor has them), scikit-learn in fp64, rbms in fp32.

- sklearn: `BernoulliRBM` (batches of 10, PCD-1, float64) for one epoch; then reverie's training (CD-1) until its
  pseudo-likelihood of 200 held-out images (all pixels) is as high. Evaluations are off both clocks. Beside it the times
  of a whole epoch.
- rbms: seconds of an update at equal chains, batch and sweeps, in an interpreter that has the package: `python -m venv
  V && V/bin/pip install rbms`, then `--rbms V/bin/python`.
- retrieval: queries a second among 100,000 codes, beside brute force in NumPy (`benchmarks/retrieval.py`).

Rounds take turns; ratios are those of the medians. The last line is the smaller of the two ratios over its aim (20 and
1.5), named.

Run:  python benchmarks/energy.py [--rbms PYTHON] [--rounds 3] [--threads 2] [--data binary-mnist:seeded]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from retrieval import throughput

import reverie as rv
from reverie.core.verbs import Model

AIMS = {"sklearn": 20.0, "rbms": 1.5}
HIDDEN = 500
OURS = {"batch_size": 100, "lr": 0.4, "momentum": 0.5, "ema": 0, "warmup": 20, "decay": "constant"}
UPDATE = {"k": 10, "chains": 500, "batch_size": 500}


def pseudo_likelihood(free_energy, v: np.ndarray) -> float:
    """Mean over images of sum_i log p(v_i | the other pixels), exactly: every pixel is flipped, nats."""
    energy, total = free_energy(v), np.zeros(len(v))
    for pixel in range(v.shape[1]):
        flipped = v.copy()
        flipped[:, pixel] = 1 - flipped[:, pixel]
        total -= np.logaddexp(0, energy - free_energy(flipped))
    return float(total.mean())


def scikit_learn(train: np.ndarray, test: np.ndarray, rows: int = 10) -> tuple[float, float]:
    """Seconds of one epoch, and its pseudo-likelihood."""
    from sklearn.neural_network import BernoulliRBM

    model = BernoulliRBM(HIDDEN, learning_rate=0.05, batch_size=rows, n_iter=1, random_state=0)
    began = time.perf_counter()
    model.fit(train)
    seconds = time.perf_counter() - began
    return seconds, pseudo_likelihood(model._free_energy, test)


def ours(data: rv.Dataset, test: np.ndarray, goal: float) -> tuple[float, float, float]:
    """Seconds until the pseudo-likelihood is at least ``goal``, seconds of an epoch, and the value reached."""
    model = rv.build("rbm", data, hidden=HIDDEN, negative="cd", ais_chains=0)
    steps = len(data.train) // OURS["batch_size"]
    spent, reached, value, began = 0.0, 0.0, -np.inf, time.perf_counter()
    for step in rv.fit(model, data, steps=steps, seed=0, **OURS):
        spent += time.perf_counter() - began
        if not reached and step.number % 10 == 0:
            value = pseudo_likelihood(lambda v: energies(model, v), test)
            reached = spent if value >= goal else 0.0
        began = time.perf_counter()
    return reached or float("inf"), spent, value


@torch.no_grad()
def energies(model: Model, v: np.ndarray) -> np.ndarray:
    """Free energies (N,) of images (N, V)."""
    return model.top.machine.free_energy(torch.from_numpy(v).float()).double().numpy()


def our_update(data: rv.Dataset, seconds: float) -> float:
    """Median seconds of a training step, data and likelihood in the log included."""
    model = rv.build("rbm", data, hidden=HIDDEN, k=UPDATE["k"], chains=UPDATE["chains"])
    options = OURS | {"batch_size": UPDATE["batch_size"], "lr": 0.01}
    times, began, start = [], time.perf_counter(), time.perf_counter()
    for _ in rv.fit(model, data, steps=10_000_000, seed=0, **options):
        times.append(time.perf_counter() - start)
        if time.perf_counter() - began > seconds and len(times) > 5:
            break
        start = time.perf_counter()
    return statistics.median(times)


def peer_update(python: str, file: Path, seconds: float, threads: int) -> float:
    """Median seconds of an update of `rbms`."""
    script = Path(__file__).parent / "peers" / "rbms_step.py"
    numbers = (HIDDEN, UPDATE["chains"], UPDATE["k"], UPDATE["batch_size"], seconds, threads)
    command = [python, str(script), str(file), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rbms", help="an interpreter that has the package rbms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", default="binary-mnist:seeded")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    data = rv.open_data(flags.data)
    train, test = ((split["x"] > 127).reshape(len(split["x"]), -1) for split in (data.train, data.held_out))
    test = test[:: max(1, len(test) // 200)][:200].astype(float)
    peers, times, updates = [], [], []
    for _ in range(flags.rounds):
        seconds, goal = scikit_learn(train.astype(float), test)
        reached, epoch, value = ours(data, test, goal)
        peers.append(seconds)
        times.append(reached)
        print(f"sklearn: an epoch in {seconds:.2f} s to a pseudo-likelihood of {goal:.1f} nats", flush=True)
        print(f"reverie: that in {reached:.2f} s ({value:.1f} nats); an epoch in {epoch:.2f} s", flush=True)
    ratios = {"sklearn": statistics.median(peers) / statistics.median(times)}
    print(f"sklearn: {ratios['sklearn']:.1f} times as fast to equal pseudo-likelihood (aim {AIMS['sklearn']:g})")
    if flags.rbms:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "images.npz"
            np.savez(file, images=train.astype(np.uint8))
            for _ in range(flags.rounds):
                pair = (peer_update(flags.rbms, file, flags.seconds, flags.threads), our_update(data, flags.seconds))
                updates.append(pair)
                print(f"update of PCD-{UPDATE['k']}: rbms {1e3 * pair[0]:.1f} ms, reverie {1e3 * pair[1]:.1f} ms")
        peer, mine = (statistics.median(column) for column in zip(*updates, strict=True))
        ratios["rbms"] = peer / mine
        print(f"rbms: {ratios['rbms']:.2f} times as fast an update (aim {AIMS['rbms']:g})")
    for name, rate in throughput(rounds=flags.rounds).items():
        print(f"retrieval, {name}: {rate:,.0f} queries/s")
    name = min(ratios, key=lambda name: ratios[name] / AIMS[name])
    print(f"ratio: {ratios[name] / AIMS[name]:.2f} of the aim, {name}")


if __name__ == "__main__":
    main()
