"""Raw arrays to stored rows: infer the medium, the channel axis and the range of values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reverie.core.errors import ReverieError, argument
from reverie.core.terminal import count
from reverie.data.columns import name_rows
from reverie.data.marking import mark_rows
from reverie.data.types import Problem
from reverie.media import Spec, medium_of
from reverie.media.values import USUAL, Decision, Tally, is_usual, range_of, tally

CHANNELS = {"image": (1, 3, 4), "video": (1, 3), "volume": (1, 2, 3, 4)}  # volumes with channels last: any number
LAYOUTS = {
    "image": "(N, H, W) or (N, H, W, C) with C = 1, 3 or 4",
    "video": "(N, T, H, W) or (N, T, H, W, C) with C = 1 or 3",
    "volume": "(N, D, H, W) or (N, D, H, W, C)",
    "sequence": "(N, L), (N, L, C) or (N, C, L)",
}
INT16 = (-32768.0, 32768.0)  # symmetric, as in sound files
MOST_BAD = 0.1  # share of values that are not finite, above which images are refused


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
        low, high: values that map to -1 and 1 in a model; 8-bit media are clipped to them. None: decided over all
            values, see ``media.values``.

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


def to_mask(values: np.ndarray, what: str, n: int, spec: Spec, problems: list[Problem]) -> np.ndarray:
    """Masks (n, *shape), or with one channel, to uint8 (n, *shape, 1): 255 where marked, which is reported.

    Raises:
        ReverieError: another shape, values that are no masks, see ``marking.mark_rows``.
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
    return mark_rows(values, what, problems)


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
    if bad := _bad_rows(values):
        raise ReverieError(f"{what} contain values that are not finite: {_in_rows(bad)}. Fill or drop them.")
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
    floats = values.dtype.kind == "f"
    if floats:
        values = _finite(values, what, problems)
    if low is not None and high is not None:
        least, most = float(values.min()), float(values.max())
        clipped = ", clipped to it" if least < low or most > high else ""
        kind = "float" if floats else "16-bit" if high > 255 else "integer"
        decision = Decision((low, high), f"{low:g}..{high:g}")
        return _scaled(values, decision, f"{what} from {values.dtype}", kind, clipped, problems)
    decision = _range_of_floats(values, what) if floats else _range_of_integers(values, what)
    if values.dtype == np.uint8 and decision.usual:
        return values
    kind = "float" if floats else "16-bit" if decision.range[1] > 255 else "integer"
    keep = ""
    if not decision.usual and not floats and decision.range != (0.0, 255.0) and values.dtype.kind != "b":
        full = 255 if values.dtype == np.uint8 else 65535
        keep = f"; {argument('low', 0)} {argument('high', full)} keep the full range"
    return _scaled(values, decision, f"{what} from {values.dtype}", kind, keep, problems)


def _scaled(
    values: np.ndarray, decision: Decision, what: str, kind: str, note: str, problems: list[Problem]
) -> np.ndarray:
    problems.append(Problem("*", kind, f"converted: {what}, {decision.words} scaled to 0..255{note}"))
    low, high = decision.range
    rows = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):  # in parts: float64 needs eight times the memory of the result
        part = values[start : start + 256].astype(np.float64)
        if not (finite := np.isfinite(part)).all():
            part[~finite] = low
        rows[start : start + 256] = np.rint((part - low) * (255.0 / (high - low))).clip(0, 255)
    return rows


def _finite(values: np.ndarray, what: str, problems: list[Problem]) -> np.ndarray:
    """The rows, with a problem for values that are not finite, which become black.

    Raises:
        ReverieError: these are more than ``MOST_BAD`` of all.
    """
    if bad := _bad_rows(values):
        if sum(bad.values()) > MOST_BAD * values.size:
            raise ReverieError(f"{what} contain values that are not finite: {_in_rows(bad)}. Fill or drop them.")
        problems.append(Problem("*", "not-finite", f"converted: {what}: {_in_rows(bad)} not finite, set to black"))
    return values


def _bad_rows(values: np.ndarray) -> dict[int, int]:
    """Row -> number of values that are not finite."""
    if np.isfinite(values.sum(dtype=np.float64)):  # one pass; a sum that overflows is looked at again
        return {}
    counts = {row: int(np.count_nonzero(~np.isfinite(values[row]))) for row in range(len(values))}
    return {row: number for row, number in counts.items() if number}


def _in_rows(bad: dict[int, int]) -> str:
    return f"{count(sum(bad.values()), 'value')} of {name_rows([*bad])}"


def _range_of_integers(values: np.ndarray, what: str) -> Decision:
    if values.dtype.kind == "b":
        return Decision((0.0, 1.0), "0..1", usual=False)
    kind = "uint8" if values.dtype == np.uint8 else "int"
    least, most = float(values.min()), float(values.max())
    if least < 0 or most > 65535:
        raise _no_range(values, what, least, most)
    decision = range_of([Tally(kind, least, most)])
    words = decision.words.removesuffix(",").replace(" (8 bits; the largest is", " (the largest is")
    if kind == "int" and decision.range[1] == 65535.0:
        words = "0..65535"
    return decision._replace(words=words)


def _range_of_floats(values: np.ndarray, what: str) -> Decision:
    """The usual range of floats, though a few values lie beyond it.

    Raises:
        ReverieError: none is, or some rows lie in another.
    """
    finite = values if np.isfinite(values).all() else values[np.isfinite(values)]
    least, most = float(finite.min()), float(finite.max())
    if least >= 0 and most <= 1:
        return Decision(USUAL[0], "0..1")
    decision = range_of([tally(row, "float") for row in values])
    if not is_usual(decision):
        raise _no_range(values, what, least, most)
    if decision.others:
        a, b = decision.range
        raise ReverieError(
            f"{what} of {name_rows(decision.others)} are floats beyond [{a:g}, {b:g}], the range of the others. "
            "Convert all to one range."
        )
    if decision.range == USUAL[2]:
        _check_one_range(values, what)
    return decision._replace(words=decision.words.removesuffix(","))


def _no_range(values: np.ndarray, what: str, least: float, most: float) -> ReverieError:
    return ReverieError(
        f"{what} are {values.dtype} from {least:g} to {most:g}; uint8, or floats in [0, 1], are needed, or the values "
        f"that map to -1 and 1 in the model: {argument('low')}, {argument('high')}."
    )


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
