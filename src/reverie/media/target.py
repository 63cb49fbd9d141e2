"""Whether results can be written to a path, and replace nothing that reverie did not write."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from reverie.core.errors import UsageError, argument
from reverie.core.files import check_target, exists, only_new
from reverie.media.montage import check_ending
from reverie.media.origin import check_name_before_ending, ending_of, origin_of


def check_output(
    path: Path,
    overwrite: bool = False,
    endings: Collection[str] = (".npz",),
    name: str = "out",
    verb: str = "",
    others: Collection[str | Path | None] = (),
) -> None:
    """Check a file or a folder that is to be written: before the work, not after it.

    Args:
        overwrite: replace a file, whatever it is.
        endings: beside those of images; with "" a name that ends in no file format is a folder.
        name: of the argument.
        verb: whose folders are replaced.
        others: inputs (text) and other outputs (paths), which it must not be.
    Raises:
        UsageError: nothing can be written there, or something that reverie did not write is there.
    """
    check_target(path, name)
    check_name_before_ending(path, name)
    if any(other and _same(path, other) for other in others):
        raise UsageError(f"{argument(name, str(path))} is an input or another output, too. Choose another name.")
    ending = ending_of(path) if "" in endings else path.suffix.lower()
    if ending not in endings:
        check_ending(path)
    folder = path.is_dir()
    if folder and ending:
        raise UsageError(f"{path} is a folder.")
    taken = any(path.iterdir()) if folder else path.exists() and not overwrite
    if taken and ((origin := origin_of(path)) is None or (folder and verb not in ("", origin["verb"]))):
        remedy = "Choose an empty or a new folder" if folder else f"Choose another name, or {argument('overwrite')}"
        author = "did not write it" if origin is None else f"wrote it for `{origin['verb']}`"
        raise UsageError(
            f"{argument(name, str(path))} is there already, and reverie {author}; nothing was touched. {remedy}."
        )
    only_new(path, not overwrite and not path.exists())


def _same(path: Path, other: str | Path) -> bool:
    """Whether an output is also another one (a Path), or an input (text, which may name no file)."""
    if isinstance(other, Path):
        return os.path.realpath(path) == os.path.realpath(other)
    return path.exists() and exists(other) and path.samefile(other)
