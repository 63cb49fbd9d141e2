"""The sets of an evaluation without a run, and those of a reference that is a file of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.cache import Progress
from reverie.core.errors import UsageError, argument
from reverie.core.files import check_target
from reverie.data import Dataset, Split, open_data
from reverie.evaluation.base import Sets
from reverie.evaluation.estimate import shuffled
from reverie.evaluation.reference_file import OF_IMAGES, ReferenceFile
from reverie.media import Size

Source = str | Path | np.ndarray


def check_sources(run: Any, fake: Any, real: Any, reference: Any, save_stats: Any) -> None:
    """Raise a UsageError unless these are the sources of one evaluation."""
    flags = {name: argument(name) for name in ("fake", "real", "reference", "save_stats")}
    sides = sum(source is not None for source in (real, reference))
    if run is None and fake is None and real is not None and reference is None and save_stats is not None:
        return
    if (run is None) == (fake is None) or (run is None and sides == 0) or (run is not None and real is not None):
        raise UsageError(f"Name a RUN, or {flags['fake']} and {flags['real']} or {flags['reference']}.")
    if sides == 2:
        raise UsageError(f"{flags['real']} and {flags['reference']} are two references. Name one.")
    if reference is not None and save_stats is not None:
        raise UsageError(f"{flags['save_stats']} is of images, and {flags['reference']} is of statistics already.")


def check_statistics_path(path: Path) -> None:
    """Raise a UsageError unless statistics can be written there."""
    check_target(path, "save_stats")
    if path.suffix != ".npz":
        named = f"{path} is a folder" if path.is_dir() else f"{path} is named otherwise"
        example = path / "statistics.npz" if path.is_dir() else path.with_suffix(".npz")
        raise UsageError(f"{argument('save_stats')} is an .npz, and {named}. Write {example}.")


def sets_of_sources(
    fake: Source | None, real: Source | None, n: int | None, size: Size | None, seed: int, progress: Progress | None
) -> Sets:
    """Generated images of any source against real ones; either may be missing."""
    generated = None if fake is None else open_data(fake, size=size, progress=progress, copies=True)
    if real is None:
        assert generated is not None
        fakes = _joined(generated)
        train, held_out, reference, classes = (*[_empty_like(fakes)] * 3, [])
        of_reference: dict[str, Any] = {}
    else:
        shape = size if generated is None else generated.spec.shape
        data = open_data(real, size=shape, progress=progress, copies=True)
        train, held_out, reference, classes = data.train, data.held_out, _joined(data), data.classes
        fakes = _empty_like(reference) if generated is None else _joined(generated)
        of_reference = {"data": data.source, "split": "all", "fingerprint": data.fingerprint, "size": _side(data)}
        of_reference |= {"n": len(reference), "medium": data.spec.medium, "channels": data.spec.channels}
    if n is not None and n < len(fakes):
        fakes = fakes.take(shuffled(len(fakes), seed)[:n].sort().values.numpy())
    of_fake: dict[str, Any] = {"n": len(fakes)}
    if generated is not None:
        fakes = fakes | {"label": renumbered(fakes.labels, generated.classes, classes)}
        of_fake |= {"data": generated.source, "fingerprint": generated.fingerprint, "size": _side(generated)}
    return Sets(fakes, reference, train, held_out, classes, of_fake, of_reference, disjoint=False)


def against_file(sets: Sets, file: ReferenceFile, metrics: Sequence[str], progress: Progress | None) -> Sets:
    """The same generated images against a file of statistics.

    The images beside the statistics of an ADM reference batch are opened where a metric needs them.
    """
    reference, entry = _empty_like(sets.fake), file.passport
    if file.images and set(metrics) & set(OF_IMAGES):
        data = open_data(file.name, progress=progress, copies=True)
        if data.spec.shape != sets.fake.spec.shape:
            here, there = ("x".join(map(str, spec.shape)) for spec in (sets.fake.spec, data.spec))
            raise UsageError(
                f"The images in {file.name} are {there}, the generated ones {here}. Use fid alone, which needs none."
            )
        reference = _joined(data)
        entry = entry | {"images": {"n": len(reference), "fingerprint": data.fingerprint}}
    if "data" in sets.of_reference:
        entry = entry | {"floor_of": {name: sets.of_reference[name] for name in ("data", "fingerprint")}}
    return replace(sets, file=file, reference=reference, of_reference=entry, disjoint=False)


def _side(data: Dataset) -> int | list[int]:
    return data.spec.square or list(data.spec.shape)


def _empty_like(split: Split) -> Split:
    """No samples of the same kind."""
    return Split({"x": np.empty((0, *split["x"].shape[1:]), split["x"].dtype)}, [], split.spec)


def _joined(data: Dataset) -> Split:
    """Both splits as one."""
    parts = (data.train, data.held_out)
    columns = {"x": np.concatenate([part["x"] for part in parts])}
    columns["label"] = np.concatenate([part.labels for part in parts])
    return Split(columns, [name for part in parts for name in part.names], data.spec)


def renumbered(labels: np.ndarray, names: list[str], new_names: list[str]) -> np.ndarray:
    """Labels (N,) of ``names`` as indices into ``new_names``; -1 for a class that is not among them."""
    index = {name: i for i, name in enumerate(new_names)}
    return np.array([index.get(name, -1) for name in names] + [-1], np.int64)[labels]
