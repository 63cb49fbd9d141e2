"""Where reverie keeps what it can make again: the cache folder, and a lock between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from reverie.core.errors import ReverieError

Progress = Callable[[int, int, str], None]  # (done, total, what)


def home() -> Path:
    """``$REVERIE_HOME``, else the platform's cache folder with ``reverie`` in it. Not created here."""
    if chosen := os.environ.get("REVERIE_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "reverie" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "reverie"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reverie"


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path``; others that ask for it wait. The system frees it when its holder dies.

    Yields False where the file system has no locks (some network mounts): the caller is then not alone.
    Raises OSError where the file cannot be made; without ``wait``, BlockingIOError where another holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    alone = True
    with path.open("ab") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    break
                except OSError as error:  # LK_LOCK gives up after ten seconds: ask again
                    if not wait:
                        raise BlockingIOError(error.errno, "held by another process") from error
        else:
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise
            except OSError:
                alone = False
        try:
            yield alone
        finally:
            if sys.platform == "win32":
                handle.seek(0)
                msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)


def cannot_write(error: OSError, what: str, kept: str = "") -> ReverieError:
    """The error to raise when the cache folder takes no more: what failed, what is kept, what to do."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "it is read-only",
        errno.EACCES: "it may not be written to",
        errno.EPERM: "it may not be written to",
    }
    said = error.strerror or str(error)
    reason = f"{reasons[error.errno]} ({said})" if error.errno in reasons else said
    return ReverieError(
        f"Cannot write {what} under {home()}: {reason}. {kept}"
        "Free some space there, or set REVERIE_HOME to a folder on a disk that has room and can be written to."
    )
