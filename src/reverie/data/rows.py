"""Raw arrays to stored rows: infer the medium, the channel axis and the range of values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reverie.core.errors import ReverieError, argument
from reverie.data.columns import name_rows
from reverie.data.types import Problem
from reverie.media import Spec, medium_of

CHANNELS = {"image": (1, 3, 4), "video": (1, 3), "volume": (1, 2, 3, 4)}  # volumes with channels last: any number
LAYOUTS = {
    "image": "(N, H, W) or (N, H, W, C) with C = 1, 3 or 4",
    "video": "(N, T, H, W) or (N, T, H, W, C) with C = 1 or 3",
    "volume": "(N, D, H, W) or (N, D, H, W, C)",
    "sequence": "(N, L), (N, L, C) or (N, C, L)",
}
INT16 = (-32768.0, 32768.0)  # symmetric, as in sound files


@dataclass(frozen=True)
class Rows:
    """Stored rows and their spec."""

    values: np.ndarray
    spec: Spec


def to_rows(
    values: np.ndarray,
    what: str,
    problems: list[Problem],
    medium: str | None = None,
    channels_first: bool = False,
    low: float | None = None,
    high: float | None = None,
) -> Rows:
    """Any numeric array to stored rows; appends conversions to ``problems``.

    Args:
        values: see ``LAYOUTS``; channels may also come first (tensors), second in clips.
        what: the array's name in messages.
        medium: None: from the shape; (N, H, W) and (N, H, W, C) are images, five dimensions volumes.
        channels_first: try the first axis before the last; without it the longer axis of a sequence is its time.
        low, high: values that map to -1 and 1 in a model; 8-bit media are clipped to them. None: 0 to 255 for uint8,
            else the narrowest usual range that contains all values.

    Raises:
        ReverieError: an unknown layout, a type that is not numeric, values outside all usual ranges.
    """
    medium = medium or infer_medium(values.shape, what)
    values = _channels_last(values, medium, what, channels_first, problems)
    if values.dtype.kind not in "fiub":
        raise ReverieError(f"{what} are {values.dtype}; uint8, or floats in [0, 1], are needed.")
    shape, channels = values.shape[1:-1], values.shape[-1]
    if medium == "sequence":
        return _signal(values, what, low, high)
    return Rows(_to_uint8(values, what, problems, low, high), Spec(medium, shape, channels))


def to_mask(values: np.ndarray, what: str, n: int, spec: Spec) -> np.ndarray:
    """Masks (n, *shape), or with one channel, to uint8 (n, *shape, 1): 255 where marked. Accepts 0/1, 0..255 and bool.

    Raises:
        ReverieError: another shape, values that are not finite numbers.
    """
    shape = values.shape
    if values.ndim == len(spec.shape) + 2:
        values = np.moveaxis(values, 1, -1) if values.shape[-1] != 1 else values
    else:
        values = values[..., None]
    if values.shape != (n, *spec.shape, 1):
        raise ReverieError(f"{what} have shape {shape}; {(n, *spec.shape)} is needed.")
    if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
        raise ReverieError(f"{what} are {values.dtype}, not all of them finite; 0 and 1, or 0 to 255, are needed.")
    scale = 255.0 if values.dtype.kind == "b" or (values.size and values.max() <= 1) else 1.0
    return np.rint(values * scale).clip(0, 255).astype(np.uint8)


def infer_medium(shape: tuple[int, ...], what: str) -> str:
    """The medium of a shape. Raises ReverieError if it is ambiguous."""
    if len(shape) == 3 or (len(shape) == 4 and {shape[1], shape[3]} & set(CHANNELS["image"])):
        return "image"
    if len(shape) == 5:
        return "volume"
    raise ReverieError(
        f"{what} have shape {shape}, which fits no medium or several. Images are {LAYOUTS['image']}. For others use "
        f"{argument('medium', 'volume')} with {LAYOUTS['volume']}, {argument('medium', 'video')} with "
        f"{LAYOUTS['video']}, {argument('medium', 'sequence')} with {LAYOUTS['sequence']}."
    )


def _channels_last(
    values: np.ndarray, medium: str, what: str, channels_first: bool, problems: list[Problem]
) -> np.ndarray:
    dims = medium_of(medium).dims
    if values.ndim == dims + 1:
        values = values[..., None]
    elif values.ndim == dims + 2 and medium == "sequence":
        if channels_first or values.shape[1] <= values.shape[2]:
            if not channels_first:
                problems.append(Problem("*", "channels-first", f"converted: {what} from (N, C, L)"))
            values = np.moveaxis(values, 1, 2)
    elif values.ndim == dims + 2:
        axes = [1, 2] if medium == "video" else [1]
        last = values.ndim - 1
        axes = [*axes, last] if channels_first else [last, *axes]
        usual = [axis for axis in axes if values.shape[axis] in CHANNELS[medium]]
        axis = usual[0] if usual else axes[0] if medium == "volume" else None
        if axis is None:
            raise ReverieError(f"{what} have shape {values.shape}; {LAYOUTS[medium]} is needed.")
        if axis != last:
            if not channels_first:
                problems.append(Problem("*", "channels-first", f"converted: {what} from {_axes(medium, axis)}"))
            values = np.moveaxis(values, axis, last)
    else:
        raise ReverieError(f"{what} have shape {values.shape}; {LAYOUTS[medium]} is needed.")
    if 0 in values.shape:
        raise ReverieError(f"{what} have shape {values.shape}: they are empty.")
    return values


def _axes(medium: str, axis: int) -> str:
    names = {"image": ["H", "W"], "video": ["T", "H", "W"], "volume": ["D", "H", "W"]}[medium]
    return f"({', '.join(['N', *names[: axis - 1], 'C', *names[axis - 1 :]])})"


def _signal(values: np.ndarray, what: str, low: float | None, high: float | None) -> Rows:
    """Sequences (N, L, C): int16 and uint8 unchanged, all others as float32."""
    shape, channels = values.shape[1:-1], values.shape[-1]
    if values.dtype in (np.int16, np.uint8):
        usual = INT16 if values.dtype == np.int16 else (0.0, 255.0)
        ends = usual if low is None or high is None else (low, high)
        return Rows(np.ascontiguousarray(values), Spec("sequence", shape, channels, *ends, values.dtype.name))
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ReverieError(f"{what} contain values that are not finite.")
    if low is None or high is None:
        least, most = (float(f"{end:g}") for end in (values.min(), values.max()))
        ends_or_none = next(((a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0)) if a <= least and most <= b), None)
        if ends_or_none is None:
            raise ReverieError(
                f"{what} reach from {least:g} to {most:g}; floats in [-1, 1] are needed, or the values that map to "
                f"-1 and 1 in the model, such as {argument('low', least)} {argument('high', most)}."
            )
        low, high = ends_or_none
    return Rows(values, Spec("sequence", shape, channels, low, high, "float32"))


def _to_uint8(
    values: np.ndarray, what: str, problems: list[Problem], low: float | None, high: float | None
) -> np.ndarray:
    """Any numeric rows to uint8; reports conversions."""
    if values.dtype == np.uint8 and low is None:
        return values
    least, most = float(values.min()), float(values.max())
    floats = values.dtype.kind == "f"
    if math.isnan(least):
        raise ReverieError(f"{what} contain values that are not finite.")
    spans = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)] if floats else [(0.0, 255.0), (0.0, 65535.0)]
    if values.dtype.kind == "b":
        spans = [(0.0, 1.0)]
    span = next(((a, b) for a, b in spans if a <= least and most <= b), None)
    clipped = ""
    if low is not None and high is not None and np.isfinite([least, most]).all():
        span = (low, high)
        clipped = ", clipped to it" if least < low or most > high else ""
    if span is None:
        raise ReverieError(
            f"{what} are {values.dtype} from {least:g} to {most:g}; uint8, or floats in [0, 1], are needed, or the "
            f"values that map to -1 and 1 in the model: {argument('low')}, {argument('high')}."
        )
    if floats and span == (0.0, 255.0) and low is None:
        _check_one_range(values, what)
    kind = "float" if floats else "16-bit" if span[1] > 255 else "integer"
    action = f"converted: {what} from {values.dtype}, {span[0]:g}..{span[1]:g} scaled to 0..255{clipped}"
    problems.append(Problem("*", kind, action))
    rows = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):  # in parts: float64 needs eight times the memory of the result
        part = values[start : start + 256].astype(np.float64)
        rows[start : start + 256] = np.rint((part - span[0]) * (255.0 / (span[1] - span[0]))).clip(0, 255)
    return rows


def _check_one_range(values: np.ndarray, what: str) -> None:
    """Check that floats up to 255 have no rows of fractions within [0, 1], which would become black.

    Raises:
        ReverieError: lists such rows.
    """
    within = np.flatnonzero(values.max(axis=tuple(range(1, values.ndim))) <= 1)
    if rows := [int(row) for row in within if (values[row] != np.rint(values[row])).any()]:
        raise ReverieError(
            f"{what} of {name_rows(rows)} are floats in [0, 1], others in [0, 255]. Convert all to one range; if these "
            "are only dark, use low=0, high=255."
        )
