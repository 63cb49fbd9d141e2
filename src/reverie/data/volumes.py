"""Volumes in files, .npy and NIfTI: brought to one shape by their centre, and to 8 bits by one range for the set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.cache import Progress
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.terminal import count
from reverie.data.archive import read_npy
from reverie.data.intake import Seen, parallel
from reverie.data.members import (
    check_enough,
    files_of,
    first_by_content,
    inspect_files,
    list_members,
    unless_changed,
    without_copies,
)
from reverie.data.options import OpenOptions
from reverie.data.plan import Decoded, Plan, make_plan
from reverie.data.records import unusable, usable
from reverie.data.rows import CHANNELS
from reverie.data.types import Problem
from reverie.media import decode

SUFFIXES = (".npy", ".nii", ".nii.gz")
QUANTILES = (0.001, 0.999)  # of a volume's values: its range without outliers
SHARE = 0.05  # of the volumes whose ranges may exceed the set's on either side
MAX_VOXELS = 1 << 29
SAMPLED = 1 << 20  # values of a volume that its quantiles are of
AHEAD = 4


@dataclass(frozen=True)
class VolumeForm:
    """The form of volumes: their shape (D, H, W), channels, and the values that become 0 and 255."""

    shape: tuple[int, ...]
    channels: int
    range: tuple[float, float]

    @property
    def array(self) -> tuple[int, ...]:
        """(D, H, W, C)."""
        return (*self.shape, self.channels)

    def as_dict(self) -> dict[str, Any]:
        return {
            "medium": "volume",
            "size": list(self.shape),
            "channels": self.channels,
            "range": list(self.range),
        }


def plan_volumes(
    source: Path, options: OpenOptions, part: str | None, progress: Progress | None
) -> tuple[Plan, list[Problem], str]:
    """The plan of a folder of volumes, or of one; the problems; and what it is read as.

    Raises:
        TooFew: too few volumes, with the report.
        UsageError: volumes of several numbers of channels, a size of another number of extents.
    """
    problems: list[Problem] = []
    files = files_of(source, problems)
    candidates = {name: file for name, file in files.items() if name.lower().endswith(SUFFIXES)}
    inspected = inspect_files(source, "volume", candidates, _inspect, problems, progress)
    members = {name: (files[name],) for name in inspected}
    listing = list_members(members, candidates, files, problems, "volume", options)
    by_path = {files[name].path: inspected[name] for name in inspected}
    seen = []
    for item in without_copies(listing.items, {path: sha for path, (sha, _) in by_path.items()}, options, problems):
        sha, (_, height, width, *_) = by_path[item.file.path]
        seen.append(Seen(item, sha, "", (width, height)))
    seen, seconds_end = first_by_content(seen, options, problems, "volume")
    check_enough(str(source), seen, problems, "volume", part)
    used = [by_path[row.item.file.path][1] for row in seen]
    if len(channels := {fact[3] for fact in used}) > 1 or options.channels not in (None, *channels):
        raise UsageError(f"{source} has volumes of {sorted(channels)} channels; they need one number of channels.")
    for row, (*_, bad, _) in zip(seen, used, strict=True):
        if bad:
            problems.append(
                Problem(row.item.name, "not-finite", f"converted: {count(bad, 'value')} not finite, set to 0")
            )
    spacings = sorted({tuple(fact[-1]) for fact in used})
    if len(spacings) > 1:
        span = " to ".join(" x ".join(f"{side:g}" for side in spacing) for spacing in (spacings[0], spacings[-1]))
        problems.append(
            Problem("*", "voxel-sizes", f"used: {len(spacings)} sizes of voxels, {span}; none is resampled")
        )
    shape = _shape([fact[:3] for fact in used], options, problems)
    form = VolumeForm(shape, channels.pop(), _range([fact[4:7] for fact in used], options, problems))
    decoded = partial(decoded_volumes, form=form)
    chosen = (False, options.held_out, listing.attributes, options.keep_classes)
    plan = make_plan(seen, form, *chosen, medium="volume", decoded=decoded, seconds_end=seconds_end)
    return plan, problems, listing.read_as


def _shape(shapes: list[Sequence[int]], options: OpenOptions, problems: list[Problem]) -> tuple[int, ...]:
    """(D, H, W) as requested, else the volumes' own, else their medians; reports what is cropped and padded."""
    extents = np.array(shapes)
    size = options.size
    if size is not None and len(size) not in (1, 3):
        refused = argument("size", "x".join(map(str, size)))
        raise UsageError(f"{refused}: a volume has three extents, such as {argument('size', '32x64x64')}.")
    medians = np.sort(extents, 0)[len(extents) // 2]
    shape = tuple(int(side) for side in (medians if size is None else size * (3 // len(size))))
    cropped, padded = (extents > shape).any(1).sum(), (extents < shape).any(1).sum()
    if cropped or padded:
        of = " to ".join(dict.fromkeys("x".join(map(str, ends)) for ends in (extents.min(0), extents.max(0))))
        how = f"{cropped} cropped, {padded} padded, about their centres" + ", the medians" * (size is None)
        action = f"converted: volumes of {of} to {'x'.join(map(str, shape))} ({how})"
        problems.append(Problem("*", "mixed-sizes", action))
    return shape


def _range(ranges: list[Sequence[Any]], options: OpenOptions, problems: list[Problem]) -> tuple[float, float]:
    """The values that become 0 and 255: as requested, the type's or a usual range, else that of most volumes."""
    lows, highs = (np.array([values[i] for values in ranges], np.float64) for i in (0, 1))
    kinds = {values[2] for values in ranges}
    if options.low is not None and options.high is not None:
        low, high, how = options.low, options.high, "as requested"
    elif kinds == {"uint8"}:
        return 0.0, 255.0
    elif kinds == {"bool"}:
        low, high, how = 0.0, 1.0, "the type's range"
    else:
        low = float(np.quantile(lows, SHARE, method="lower"))
        high = float(np.quantile(highs, 1 - SHARE, method="higher"))
        how = f"the range of {100 * QUANTILES[0]:g} % to {100 * QUANTILES[1]:g} % of each volume's values"
        usual = [(a, b) for a, b in ((0.0, 1.0), (-1.0, 1.0)) if a <= low and high <= b and high - low > (b - a) / 2]
        if usual and all(kind.startswith("float") for kind in kinds):
            (low, high), how = usual[0], "a usual range"
        high = high if high > low else low + 1
    outside = int(((lows < low) | (highs > high)).sum())
    clipped = f"; what is beyond it in {count(outside, 'volume')} is clipped" if outside else ""
    asks = f"; {argument('low')} and {argument('high')} take another"
    action = f"converted: {low:g}..{high:g} scaled to 8 bits for all ({how}{clipped}{asks})"
    problems.append(Problem("*", "intensities", action))
    return low, high


# Files


def _inspect(path: str) -> list[Any]:
    """[D, H, W, C, low, high, type, number of values that are not finite, voxel size]. Raises as ``read_volume``."""
    values, spacing = read_volume(path)
    flat = values.reshape(-1)
    flat = flat[:: max(1, math.ceil(flat.size / SAMPLED))]
    finite = flat[np.isfinite(flat)].astype(np.float64)
    if not finite.size:
        raise decode.Unusable("not-finite", "skipped: no value is finite")
    low = float(np.quantile(finite, QUANTILES[0], method="higher"))
    high = float(np.quantile(finite, QUANTILES[1], method="lower"))
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    return [*values.shape, min(low, high), high, values.dtype.name, bad, spacing]


def read_volume(path: str) -> tuple[np.ndarray, list[float]]:
    """A file's values (D, H, W, C), and the size of its voxels, [] if unknown.

    NIfTI is turned to its closest axes to right, anterior, superior (RAS+); D is then from feet to head.

    Raises:
        Unusable: it is no volume.
        ReverieError: the ``nifti`` extra is missing.
    """
    spacing: list[float] = []
    if path.lower().endswith(".npy"):
        values = _npy(path)
    else:
        values, spacing = _nifti(path)
    if values.ndim == 3:
        values = values[..., None]
    elif values.ndim == 4 and values.shape[-1] not in CHANNELS["volume"] and values.shape[0] in CHANNELS["volume"]:
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 4 or 0 in values.shape or values.shape[-1] not in CHANNELS["volume"]:
        raise decode.Unusable("not-a-volume", f"skipped: shape {values.shape}; (D, H, W) or (D, H, W, C) is needed")
    if values.dtype.kind not in "fiub":
        raise decode.Unusable("not-a-volume", f"skipped: {values.dtype} is no type of intensities")
    if values.size > MAX_VOXELS:
        raise decode.Unusable("not-a-volume", f"skipped: {values.size:,} values, over {MAX_VOXELS:,}")
    return values, spacing


def _npy(path: str) -> np.ndarray:
    try:
        values = read_npy(Path(path))
    except ValueError as error:
        raise decode.Unusable("not-a-volume", f"skipped: damaged, or no .npy ({error})") from None
    if values is None:
        raise decode.Unusable("not-a-volume", "skipped: no .npy but an archive of arrays")
    return values


def _nifti(path: str) -> tuple[np.ndarray, list[float]]:
    try:
        import nibabel
    except ImportError:
        raise ReverieError("NIfTI needs an extra: pip install 'reverie[nifti]'") from None
    try:
        image: Any = nibabel.load(path)
        if math.prod(image.shape) > MAX_VOXELS:
            raise decode.Unusable("not-a-volume", f"skipped: it claims shape {image.shape}, over {MAX_VOXELS:,} values")
        if len(image.shape) not in (3, 4):
            raise decode.Unusable(
                "not-a-volume", f"skipped: NIfTI of shape {image.shape}; three or four axes are needed"
            )
        image = nibabel.as_closest_canonical(image)
        values = np.asanyarray(image.dataobj)
        values = values.astype(np.float32) if values.dtype == np.float64 else values
        spacing = [round(float(side), 3) for side in image.header.get_zooms()[2::-1]]
        return np.ascontiguousarray(values.transpose(2, 1, 0, *range(3, values.ndim))), spacing
    except decode.Unusable:
        raise
    except Exception as error:  # nibabel raises errors of many types on damaged files
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise decode.Unusable("not-a-volume", f"skipped: damaged, or no NIfTI ({reason})") from None


# Decoding


def decoded_volumes(rows: Sequence[Seen], form: VolumeForm) -> Iterator[Decoded]:
    """Records and arrays of volumes."""
    return parallel(lambda row: unless_changed(row, _decode(row, form)), rows, AHEAD)


def _decode(row: Seen, form: VolumeForm) -> Decoded:
    try:
        values, _ = read_volume(row.item.file.path)
    except decode.Unusable as error:
        return unusable([(error.kind, error.action)]), [np.zeros(form.array, np.uint8)]
    except (ReverieError, OSError) as error:
        return unusable([("unreadable", f"skipped: {error}")]), [np.zeros(form.array, np.uint8)]
    low, high = form.range
    fitted = centred(values, form.array, low).astype(np.float32)
    fitted[~np.isfinite(fitted)] = 0
    array = np.rint((fitted - low) * (255.0 / (high - low))).clip(0, 255).astype(np.uint8)
    return usable([]), [array]


def centred(values: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """Crop and pad each axis about its centre to ``shape``."""
    inside, places = [], []
    for have, want in zip(values.shape, shape, strict=True):
        kept = min(have, want)
        inside.append(slice((have - kept) // 2, (have - kept) // 2 + kept))
        places.append(slice((want - kept) // 2, (want - kept) // 2 + kept))
    result = np.full(shape, fill, np.result_type(values.dtype, np.float32))
    result[tuple(places)] = values[tuple(inside)]
    return result
