"""Values to bytes and back: by a portable density in integers, or by the conditionals of any exact model.

A range coder codes each value by its probability (Martin 1979; ``constriction`` by Bamler, arXiv:2201.01741); what is
here puts values in an order in which the decoder has all that a probability depends on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.compression.pictures import Planes
from reverie.core.errors import ReverieError
from reverie.core.verbs import Model, call
from reverie.probability.integer_logistic import SPANS
from reverie.probability.sequential import Step, driven
from reverie.probability.wavefront import Fronts, Layout, Portable, draw, groups_of, mixtures

Progress = Callable[[int], None]  # pixels that are done
_COARSE = 2.0**-24  # the coder's unit of a probability, and the least that a value has
LEAST_BITS = -math.log2(1 - 255 * _COARSE)  # of one of 256 values
_ROWS = 64  # images whose conditionals are computed together


def constriction() -> Any:
    """The library of entropy coders. Raises a ReverieError that says how to install it."""
    try:
        import constriction as library

        return library.stream
    except ImportError:
        raise ReverieError("Compression needs a library: pip install 'reverie[compress]'.") from None


class Encoder:
    """Collects coded values and their ideal length.

    Attributes:
        bits: -log2 of the probability of all values.
    """

    def __init__(self) -> None:
        stream = constriction()
        self.coder, self.family = stream.queue.RangeEncoder(), stream.model.Categorical(perfect=False)
        self.bits = 0.0

    def put(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Code values (n,) by weights (n, K) float64; returns the ideal length of each."""
        self.coder.encode(np.ascontiguousarray(values, np.int32), self.family, np.ascontiguousarray(weights))
        bits = np.log2(weights.sum(1) / weights[np.arange(len(values)), values])
        self.bits += float(bits.sum())
        return bits

    def bytes(self) -> bytes:
        """All that was put."""
        return self.coder.get_compressed().astype("<u4").tobytes()


class NotCoded(Exception):
    """Bytes that no encoder wrote for these probabilities."""


class Decoder:
    """Reads what an ``Encoder`` wrote. Raises NotCoded where that cannot have been written, or is at its end."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise NotCoded
        stream = constriction()
        self.coder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self.family = stream.model.Categorical(perfect=False)
        self.bits = 8.0 * len(data) + 64  # that may still be read; 64 is the state of the coder

    def get(self, weights: np.ndarray) -> np.ndarray:
        """Values (n,) int64 by weights (n, K) float64."""
        try:
            values = self.coder.decode(self.family, np.ascontiguousarray(weights)).astype(np.int64)
        except AssertionError:  # the library's, of bytes that stand for no value
            raise NotCoded from None
        p = weights[np.arange(len(values)), values] / weights.sum(1)
        self.bits += float(np.log2(p + 2 * _COARSE).sum())
        if self.bits < 0:  # the library reads on, in zeros
            raise NotCoded
        return values


# Portable densities


def _layouts(density: Portable, coded: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, Layout]]:
    """(coded channels, layout) of planes in the order in which they are coded; ``image`` is a plane's number."""
    for channels in (3, 1):
        numbers = [number for number, each in enumerate(coded) if each == channels]
        for group in groups_of([sizes[number] for number in numbers]):
            yield channels, Layout.of([(numbers[tile[0]], *tile[1:]) for tile in group], density)


def encode_planes(density: Portable, planes: Sequence[Planes], progress: Progress | None = None) -> Encoder:
    """Code planes by a density."""
    encoder, done = Encoder(), 0
    sizes = [plane.shape[1:] for plane, _ in planes]
    for channels, layout in _layouts(density, [coded for _, coded in planes], sizes):
        for tile, view in layout.views(layout.canvas):
            view.copy_(torch.from_numpy(planes[tile[0]][0][tile[1:]].astype(np.float32)))
        for fronts in mixtures(density, layout, channels):
            encoder.put(*_in_order(fronts))
            done += len(fronts.at)
            if progress:
                progress(done)
    return encoder


def _in_order(fronts: Fronts) -> tuple[np.ndarray, np.ndarray]:
    """The digits (m,) of fronts and their counts (m, 4), in the order of ``wavefront.draw``."""
    digits, counts = list[np.ndarray](), list[np.ndarray]()
    for mixture, level in zip(fronts.mixtures, fronts.levels, strict=True):
        spans = iter(SPANS)

        def choose(weights: np.ndarray, level: np.ndarray = level, spans: Iterator[int] = spans) -> np.ndarray:
            counts.append(weights)
            digits.append(level // next(spans) % 4)
            return digits[-1]

        mixture.descend(choose)
    sizes = fronts.sizes
    starts = np.cumsum(sizes) - sizes
    size, start = np.repeat(sizes, sizes), np.repeat(starts, sizes)
    rank = np.arange(len(size)) - start
    target = start * len(digits) + np.arange(len(digits))[:, None] * size + rank  # (digits of a pixel, n)
    values, weights = np.empty(target.size, np.int32), np.empty((target.size, 4))
    values[target], weights[target] = np.stack(digits), np.stack(counts)
    return values, weights


def decode_planes(
    density: Portable,
    data: bytes,
    sizes: Sequence[tuple[int, int]],
    coded: Sequence[int],
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Planes (C, H, W) of these sizes and numbers of coded channels."""
    decoder, done = Decoder(data), 0
    planes: list[Any] = [None] * len(sizes)
    for channels, layout in _layouts(density, coded, sizes):
        draw(density, layout, channels, lambda counts, at, channel: decoder.get(counts))
        for tile, view in layout.views(layout.canvas):
            if planes[tile[0]] is None:
                planes[tile[0]] = np.empty((density.channels, *sizes[tile[0]]), np.uint8)
            planes[tile[0]][tile[1:]] = view.numpy().astype(np.uint8)
        done += len(layout.at)
        if progress:
            progress(done)
    return planes


# Conditionals in floating point


def encode_rows(model: Model, levels: np.ndarray, progress: Progress | None = None) -> Encoder:
    """Code rows (N, D) of levels by the model's conditionals: what decodes them must round exactly as this does."""
    encoder = Encoder()
    for first in range(0, len(levels), _ROWS):
        rows = torch.from_numpy(levels[first : first + _ROWS].astype(np.int64))

        def choose(step: Step, rows: Tensor = rows) -> Tensor:
            values = rows[:, step.index.cpu()]
            weights = _weights(step)
            encoder.put(values.numpy().ravel(), weights)
            return values.to(step.probs.device)

        for _ in driven(call(model, "conditionals", len(rows)), choose):
            pass
        if progress:
            progress(first + len(rows))
    return encoder


def decode_rows(model: Model, data: bytes, count: int, values: int, progress: Progress | None = None) -> np.ndarray:
    """Rows (count, values) of levels."""
    decoder, levels = Decoder(data), np.empty((count, values), np.uint8)
    for first in range(0, count, _ROWS):
        rows = levels[first : first + _ROWS]

        def choose(step: Step, rows: np.ndarray = rows) -> Tensor:
            chosen = decoder.get(_weights(step)).reshape(len(rows), -1)
            rows[:, step.index.cpu().numpy()] = chosen
            return torch.from_numpy(chosen).to(step.probs.device)

        for _ in driven(call(model, "conditionals", len(rows)), choose):
            pass
        if progress:
            progress(first + len(rows))
    return levels


def _weights(step: Step) -> np.ndarray:
    """Probabilities (B n, K) float64, none of them zero. Raises a ReverieError unless they are finite."""
    probs = step.probs.detach().double().cpu().numpy().reshape(-1, step.probs.shape[-1])
    if not np.isfinite(probs).all():
        raise ReverieError("The model's probabilities are not finite: it cannot compress.")
    return np.maximum(probs, math.ldexp(1.0, -40))
