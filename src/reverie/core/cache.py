"""The cache folder, and a lock between processes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from reverie.core.errors import ReverieError, UsageError, argument

Progress = Callable[[int, int, str], None]  # (done, total, what)


def check_progress(progress: Progress | None) -> None:
    """Raise a UsageError unless this is a function, or None."""
    if progress is not None and not callable(progress):
        raise UsageError(f"{argument('progress')} must be a function of (done, total, what), not {progress!r:.80}.")


def home() -> Path:
    """``$REVERIE_HOME``, else ``reverie`` in the platform's cache folder. Does not create it."""
    if chosen := os.environ.get("REVERIE_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "reverie" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "reverie"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "reverie"


def _itself(path: str, flags: int) -> int:
    """Open a file, but not through a link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Lock the file ``path``; other processes wait for it. The system releases it when the process ends.

    Yields False if the file system has no locks (some network mounts): access is then not exclusive.
    Raises OSError if the file cannot be created; without ``wait``, BlockingIOError if another process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    alone = True
    with open(path, "ab", opener=_itself) as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    break
                except OSError as error:  # LK_LOCK gives up after ten seconds: try again
                    if not wait:
                        raise BlockingIOError(error.errno, "locked by another process") from error
        else:
            import fcntl

            mode = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
            try:
                try:
                    fcntl.flock(handle, mode)
                except BlockingIOError:  # perhaps ``is_locked``, for an instant
                    time.sleep(0.05)
                    fcntl.flock(handle, mode)
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


def is_locked(path: Path) -> bool:
    """Whether a process has ``locked`` the file; True also where that cannot be found out, as on Windows.

    It takes a shared lock for an instant, for which ``locked`` tries twice.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        with open(path, "rb", opener=_itself) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return not isinstance(error, FileNotFoundError)


def cannot_write(error: OSError, what: str, kept: str = "") -> ReverieError:
    """The error of a failed write to the cache folder: what failed, what is kept, what to do."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "it is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
    }
    detail = error.strerror or str(error)
    reason = f"{reasons[error.errno]} ({detail})" if error.errno in reasons else detail
    return ReverieError(
        f"Cannot write {what} under {home()}: {reason}. {kept}"
        "Free some space there, or set REVERIE_HOME to a writable folder on a disk with free space."
    )
