"""Writing that never leaves half a file: write aside, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.core.errors import ReverieError


@contextlib.contextmanager
def disk_errors(path: Path, kept: str = "nothing was overwritten") -> Iterator[None]:
    """Turn the disk's refusals into a ReverieError that says what was kept and what to do."""
    try:
        yield
    except OSError as error:
        why = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "your disk quota is used up: free some space",
            errno.EFBIG: "the file is larger than this system lets you write",
            errno.EROFS: "the file system is read-only: choose another place",
            errno.EACCES: "permission denied: choose a folder that you may write to",
            errno.EPERM: "permission denied: choose a folder that you may write to",
        }.get(error.errno or 0)
        if why is None:
            raise
        raise ReverieError(f"Cannot write {path}: {why}. Kept: {kept}.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is flushed and renamed over ``path``, else it is removed.

    Raises:
        OSError: the disk refuses; what was at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same ending, so that encoders which look at it choose the same format
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".aside-", suffix=path.suffix)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        flush(aside)
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
        flush(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """``replacing``, with the disk's refusals as a ReverieError that says what was kept and what to do."""
    path = Path(path)
    with disk_errors(path, kept=f"the previous {path.name}, if there was one"), replacing(path) as aside:
        yield aside


def flush(path: Path) -> None:
    """fsync a file or (where the system allows it) a folder."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path | str, value: Any) -> None:
    """``value`` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")


def read_json(path: Path | str) -> Any:
    """The value in a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8", errors="surrogateescape"))
