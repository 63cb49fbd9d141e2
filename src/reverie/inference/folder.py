"""Sample a model into a folder: written as it goes, continued after an interruption."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie.core import distributed
from reverie.core.errors import UsageError, argument
from reverie.core.memory import rows_at_once
from reverie.core.values import integer
from reverie.inference.conditions import Labels, Texts, complete, listed_values, seeds_of
from reverie.inference.load import Source, model_of, need, spec_of
from reverie.inference.rows import device_of
from reverie.inference.sampling import sample, sample_origin
from reverie.media import medium_of
from reverie.media.medium import row_name
from reverie.media.origin import complete_origin, difference, fresh_folder, of_row, origin_of


def sample_into(
    folder: Path | str,
    model: Source,
    n: int = 64,
    seed: int = 0,
    label: Labels = None,
    text: Texts = None,
    chunk: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    shard: bool = False,
    **options: Any,
) -> int:
    """Any number of samples as files of a folder, chunk by chunk; returns how many were new.

    Called again after an interruption it writes the files that are missing, to the byte as without the interruption.

    Args:
        folder: new, empty, or of an earlier call with the same request.
        model: a loaded model, or a run.
        n: how many.
        seed: the first sample's seed.
        label, text, chunk, progress, options: as for ``sample``.
        shard: the processes of torchrun's group, all of which call, share the chunks.
        overwrite: replace an earlier request's files.
    Raises:
        UsageError: the folder holds another request's samples or other files; else as for ``sample``.
    """
    model = model_of(model)
    need(model, "sample")
    folder, n, spec = Path(folder), integer("n", n, least=1), spec_of(model)
    chunk = rows_at_once(spec.shape, device_of(model)) if chunk is None else integer("chunk", chunk, least=1)
    seeds, chosen, medium = seeds_of(seed, n), complete(model, options), medium_of(spec)
    origin = sample_origin(model, seeds, label, text, options)
    leader, processes = not shard or distributed.rank() == 0, distributed.world() if shard else 1
    present = set[str]() if overwrite or not leader else _present(folder, origin)
    begun = bool(present)
    if processes > 1:
        if leader and not begun:
            fresh_folder(folder, origin, overwrite)
        begun, present = True, distributed.agree(present)
    turns = {name: listed_values(each) for name, each in (("label", label), ("text", text)) if each is not None}
    new = 0
    for number, low in enumerate(range(0, n, chunk)):
        high = min(low + chunk, n)
        files = {index: row_name(medium, index, n) for index in range(low, high)}
        missing = [index for index, file in files.items() if file not in present]
        if missing and number % processes == distributed.rank() % processes:
            # the whole chunk, so that its last bits do not depend on where an earlier call ended
            conditions: Any = {k: [v[i % len(v)] for i in range(low, high)] if v else v for k, v in turns.items()}
            images = sample(model, high - low, seeds[low], **conditions, chunk=chunk, **chosen)
            if not begun:  # only now: what cannot be sampled leaves no folder
                begun = bool(fresh_folder(folder, origin, overwrite))
            for index in missing:
                medium.save_row(folder / files[index], images.array[index - low], spec, of_row(origin, index))
        new += len(missing)
        if progress:
            progress(high, n, "sampling")
    if shard:
        distributed.any_rank(False, device_of(model))  # all have written
    for leftover in folder.glob(".aside-*") if leader else ():  # of a process that was killed
        leftover.unlink(missing_ok=True)
    return new


def _present(folder: Path, origin: dict[str, Any]) -> set[str]:
    """The names in a folder that may be continued; none in another."""
    earlier = origin_of(folder)
    if earlier is None:
        return set()
    if change := difference(earlier, complete_origin(origin)):
        raise UsageError(
            f"{folder} holds samples of another request: {change}. Nothing was touched. Choose another folder, or "
            f"{argument('overwrite')} to replace them."
        )
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries}
