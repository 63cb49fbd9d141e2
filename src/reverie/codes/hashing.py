"""Semantic hashing: binary codes, in which similar images differ in few bits.

Salakhutdinov and Hinton, "Semantic hashing", International Journal of Approximate Reasoning 2009. Iterative
quantisation (ITQ): Gong and Lazebnik, "Iterative quantization: a Procrustean approach to learning binary codes", CVPR
2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.data.split import bit_count
from reverie.probability.pca import PCA

Method = Literal["itq", "median"]
_ITERATIONS = 50
_FIT = 20_000  # most codes that a hash is fitted to


@dataclass(frozen=True)
class Hash:
    """Codes (N, D) to bits: (codes - mean) axes > offset.

    Attributes:
        mean: (D,).
        axes: (D, B).
        offset: (B,).
    """

    mean: Tensor
    axes: Tensor
    offset: Tensor

    def __call__(self, codes: Tensor) -> np.ndarray:
        """Packed bits, uint8 (N, ceil(B / 8))."""
        bits = ((codes.double() - self.mean) @ self.axes) > self.offset
        return np.packbits(bits.numpy(), axis=1)

    @property
    def bits(self) -> int:
        return self.axes.shape[1]


def halves(width: int) -> Hash:
    """Codes that are binary already, or probabilities of ones: each is a bit, 1 above 1/2."""
    return Hash(torch.zeros(width).double(), torch.eye(width).double(), torch.full((width,), 0.5).double())


def fit(codes: Tensor, bits: int, method: Method = "itq", seed: int = 0) -> Hash:
    """A hash of real codes (N, D), fitted to at most 20,000 of them, evenly spaced.

    Args:
        bits: B, at most D.
        method: "median": each of the first B principal components is a bit, 1 above its median; "itq": the components
            are rotated so that they lie as close to +-1 as they can.
        seed: of the first rotation.
    Raises:
        UsageError: more bits than dimensions or codes.
    """
    if bits > min(codes.shape):
        raise UsageError(
            f"{argument('bits')} is at most the size of a code, here {codes.shape[1]}, and the number of images, here "
            f"{len(codes):,}; not {bits}. A run with a larger latent space has longer codes."
        )
    rows = codes[torch.linspace(0, len(codes) - 1, min(len(codes), _FIT)).long()].double()
    pca = PCA.fit(rows, bits)
    components = (rows - pca.mean) @ pca.axes
    if method == "median":
        return Hash(pca.mean, pca.axes, components.median(0).values)
    start = torch.linalg.qr(Noise.of_seeds(range(seed, seed + bits))(bits).double()).Q
    return Hash(pca.mean, pca.axes @ rotation(components, start), torch.zeros(bits).double())


def rotation(components: Tensor, start: Tensor, iterations: int = _ITERATIONS) -> Tensor:
    """The rotation R (B, B) that minimises |sign(V R) - V R|^2 of components V (N, B), by alternating minimisation."""
    turn = start
    for _ in range(iterations):
        u, _, v = torch.linalg.svd(torch.where(components @ turn > 0, 1.0, -1.0).double().T @ components)
        turn = (u @ v).T
    return turn


def hamming(queries: np.ndarray, base: np.ndarray, bits: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact k nearest of packed bits (M, ...) to each query (Q, ...); ties by row.

    Returns:
        distances (Q, k) in bits, and rows (Q, k).
    """
    words, results = _words(base), list[tuple[np.ndarray, np.ndarray]]()
    for query in _words(queries).T:
        distance = np.zeros(len(base), np.uint16)
        for word, part in zip(words, query, strict=True):
            distance += bit_count(word ^ part)
        low, high = 0, bits  # the smallest radius around the query with k rows
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if np.count_nonzero(distance <= middle) >= k else (middle + 1, high)
        rows = np.flatnonzero(distance <= low)
        rows = rows[np.argsort(distance[rows], kind="stable")[:k]]
        results.append((distance[rows], rows))
    distances, nearest = zip(*results, strict=True)
    return np.stack(distances).astype(np.int64), np.stack(nearest)


def _words(packed: np.ndarray) -> np.ndarray:
    """Packed bits (N, bytes) as words of 64 bits, (W, N)."""
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    return np.ascontiguousarray(padded.view(np.uint64).T)
