"""Writing that never leaves half a file: write aside, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.core.errors import ReverieError, UsageError


@contextlib.contextmanager
def disk_errors(path: Path, kept: str = "nothing was overwritten") -> Iterator[None]:
    """Turn the disk's refusals into a ReverieError that says what was kept and what to do.

    Raises:
        UsageError: ``path`` is no name of a file, or that of a device.
    """
    try:
        check_name(path)
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | InterruptedError | ChildProcessError):
            raise  # not of the disk
        why = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "your disk quota is used up: free some space",
            errno.EFBIG: "the file is larger than this system lets you write",
            errno.EROFS: "the file system is read-only: choose another place",
            errno.EACCES: "permission denied: choose a folder that you may write to",
            errno.EPERM: "permission denied: choose a folder that you may write to",
            errno.ENOTDIR: "a part of its path is a file, not a folder",
            errno.EEXIST: "a file, or a link that leads nowhere, stands where a folder is needed",
            errno.EISDIR: "a folder of this name is there",
            errno.ENOENT: "its folder is not there and cannot be made: choose another place",
            errno.ENAMETOOLONG: "its name is too long",
        }.get(error.errno, f"{error.strerror}: choose another place")
        raise ReverieError(f"Cannot write {path}: {why}. Kept: {kept}.") from error


def is_file(name: Path | str) -> bool:
    """Whether a text names a file; one that is too long for a name, such as a caption, does not."""
    try:
        return Path(name).is_file()
    except OSError:
        return False


def check_name(path: Path) -> None:
    """Raise a UsageError where neither a file nor a folder can stand at ``path``."""
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r} is no name of a file: it has a null character.")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is neither a file nor a folder: writing would replace it. Choose another place.")


def quoted(path: object) -> str:
    """A path as a shell takes it, for commands that are printed to be pasted."""
    return shlex.quote(str(path))


def check_target(path: Path) -> None:
    """Raise a UsageError unless something can be written at ``path``: for a check before the work, not after it."""
    with disk_errors(path):
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{path} is a link that leads nowhere. Remove it, or choose another place.")
        above = next((folder for folder in path.parents if folder.exists()), path.parent)
        if above.exists() and not above.is_dir():
            raise UsageError(f"Cannot write {path}: {above} is no folder.")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it is flushed and renamed over ``path``, else it is removed.

    Raises:
        OSError: the disk refuses; what was at ``path`` before is untouched.
        UsageError: what is there is neither a file nor a folder.
    """
    check_name(path)
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
