"""Sample a model into a folder: written as it goes, continued after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reverie.core import distributed
from reverie.core.cache import check_progress, home, locked
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import only_new, path_of, remove_temporary
from reverie.core.values import check_bool, integer
from reverie.inference.conditions import Labels, Texts, complete, listed_values, seeds_of
from reverie.inference.load import Source, model_of, need, spec_of
from reverie.inference.rows import device_of, samples_at_once
from reverie.inference.sampling import sample, sample_origin
from reverie.media import medium_of
from reverie.media.medium import Medium, row_name
from reverie.media.origin import NOTE, complete_origin, difference, fresh_folder, of_row, origin_of


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
        ReverieError: another process samples into it, or samples were removed from it meanwhile.
    """
    check_progress(progress)
    check_bool(argument("overwrite"), overwrite)
    folder, model = path_of("folder", folder), model_of(model)
    need(model, "sample")
    n, spec = integer("n", n, least=1), spec_of(model)
    chunk = samples_at_once(model, spec, device_of(model)) if chunk is None else integer("chunk", chunk, least=1)
    seeds, chosen, medium = seeds_of(seed, n), complete(model, options), medium_of(spec)
    origin = sample_origin(model, seeds, label, text, options)
    leader, processes = not shard or distributed.rank() == 0, distributed.world() if shard else 1
    with alone(folder) if leader else contextlib.nullcontext():
        present = set[str]() if overwrite or not leader else _present(folder, origin, medium, n)
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
                    if not (folder / NOTE).is_file():
                        raise _removed(folder)
                    only_new(folder / files[index], True)
                    medium.save_row(folder / files[index], images.array[index - low], spec, of_row(origin, index))
            new += len(missing)
            if progress:
                progress(high, n, "sampling")
        if shard:
            distributed.any_rank(False, device_of(model))  # all have written
        if leader:
            remove_temporary(folder)
        if leader and any(not (folder / row_name(medium, index, n)).is_file() for index in range(n)):
            raise _removed(folder)
    return new


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process writes results into the folder; where the cache folder holds no locks, that is not known."""
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(home() / "locks" / name, wait=False))
        except BlockingIOError:
            raise ReverieError(f"Another process writes to {folder}. Wait for it, or choose another folder.") from None
        except OSError:
            pass
        yield


def _removed(folder: Path) -> ReverieError:
    return ReverieError(
        f"Samples of {folder} were removed or moved during the work. The same command writes those that are missing."
    )


def _present(folder: Path, origin: dict[str, Any], medium: Medium, n: int) -> set[str]:
    """The names of this request's samples in a folder that may be continued; none in another."""
    earlier = origin_of(folder)
    if earlier is None:
        return set()
    if change := difference(earlier, complete_origin(origin)):
        raise UsageError(
            f"{folder} holds samples of another request: {change}. Nothing was touched. Choose another folder, or "
            f"{argument('overwrite')} to replace them."
        )
    present = set[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            number = entry.name.partition(".")[0]
            index = int(number) if re.fullmatch(r"[0-9]{6,18}", number) else n
            if index < n and entry.name == row_name(medium, index, n):
                if not _is_row(entry, of_row(origin, index)):
                    raise UsageError(
                        f"{entry.path} is not the sample that has this name; nothing was touched. Move it away, or "
                        "choose another folder."
                    )
                present.add(entry.name)
    return present


def _is_row(entry: os.DirEntry[str], origin: dict[str, Any]) -> bool:
    """Whether a file is a sample's: by its origin, or its size where the format has none."""
    if not entry.is_file(follow_symlinks=False):
        return False
    if entry.name.endswith(".npy"):
        return entry.stat().st_size > 0
    written = origin_of(entry.path)
    return written is not None and not difference(written, complete_origin(origin))
