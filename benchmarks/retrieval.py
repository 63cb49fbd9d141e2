"""How many queries a second does a search of 100,000 codes answer: reverie against brute force in NumPy?

Codes are independent Gaussians of 64 numbers, in clusters, as those of an encoder are; queries are 1,000 others, ten
neighbours each. NumPy computes every difference of a query and all codes and sorts by partition, one query at a time
(the usual script), or the squared distances of a block of queries by one matrix product (the better script). Ours: the
exact search of ``reverie search``, and Hamming distances of 64 bits. Exact neighbours of both must be equal.

Run:  python benchmarks/retrieval.py [--codes 100000] [--width 64] [--queries 1000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from reverie.codes import hashing
from reverie.codes.index import Index

BLOCK = 64  # queries of a matrix product in NumPy


def plain(codes: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, k) by all differences, one query at a time."""
    rows = []
    for query in queries:
        distance = ((codes - query) ** 2).sum(1)
        near = np.argpartition(distance, k)[:k]
        rows.append(near[np.argsort(distance[near])])
    return np.stack(rows)


def by_product(codes: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (Q, k) by |c|^2 - 2 q'c, a block of queries at a time."""
    norms, rows = (codes**2).sum(1), []
    for low in range(0, len(queries), BLOCK):
        distance = norms - 2 * queries[low : low + BLOCK] @ codes.T
        near = np.argpartition(distance, k, 1)[:, :k]
        order = np.take_along_axis(distance, near, 1).argsort(1)
        rows.append(np.take_along_axis(near, order, 1))
    return np.concatenate(rows)


def throughput(
    codes: int = 100_000, width: int = 64, queries: int = 1000, k: int = 10, rounds: int = 3
) -> dict[str, float]:
    """Queries a second by method: the median of rounds, in which the methods take turns.

    Returns:
        "exact" and "hamming" (ours, 64 bits at most), "numpy" (one query at a time) and "numpy-product".
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (100, width))
    rows = (centres[rng.integers(0, 100, codes + queries)] + rng.normal(0, 1, (codes + queries, width))).astype(
        np.float32
    )
    base, some = rows[:codes], rows[codes:]
    index, asked_codes = Index(torch.from_numpy(base)), torch.from_numpy(some)
    hash = hashing.fit(index.codes, min(64, width))
    packed, asked_bits = hash(index.codes), hash(asked_codes)
    few = some[: max(1, queries // 20)]  # the slow one
    methods: dict[str, tuple[Callable[[], object], int]] = {
        "exact": (lambda: index.search(asked_codes, k)[1].numpy(), queries),
        "hamming": (lambda: hashing.hamming(asked_bits, packed, hash.bits, k)[1], queries),
        "numpy": (lambda: plain(base, few, k), len(few)),
        "numpy-product": (lambda: by_product(base, some, k), queries),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    results = {}
    for _ in range(rounds):
        for name, (method, _) in methods.items():
            began = time.perf_counter()
            results[name] = method()
            seconds[name].append(time.perf_counter() - began)
    assert np.array_equal(np.asarray(results["exact"])[: len(few)], results["numpy"])
    return {name: count / statistics.median(seconds[name]) for name, (_, count) in methods.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("codes", 100_000), ("width", 64), ("queries", 1000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = vars(parser.parse_args())
    rates = throughput(**arguments)
    for name, rate in rates.items():
        print(f"{name:14} {rate:10,.0f} queries/s")
    print(f"over one query at a time: {rates['exact'] / rates['numpy']:.1f}")
    print(f"ratio: {rates['exact'] / rates['numpy-product']:.2f}")


if __name__ == "__main__":
    main()
