"""Atomic writes: write a temporary file, flush it to the disk, rename it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from reverie.core.errors import ReverieError, UsageError, argument, of_argument
from reverie.core.terminal import printable

_JSON_BYTES = 1 << 24  # larger than any of ours; the objects of a JSON file take up to 25 times its size

_OF_NAMES = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG)  # not of the disk


@contextlib.contextmanager
def disk_errors(path: Path, kept: str | Callable[[], str] = "nothing was overwritten") -> Iterator[None]:
    """Turn disk errors into a ReverieError that states what was kept and what to do.

    Args:
        kept: as text, or a function that finds out after the error.
    Raises:
        UsageError: ``path`` can name no file or folder, or names a device.
    """
    try:
        check_name(path)
        yield
    except OSError as error:
        if error.errno is None or isinstance(
            error, BlockingIOError | ConnectionError | InterruptedError | ChildProcessError
        ):
            raise  # no disk error
        why = {
            errno.ENOSPC: "the disk is full: free some space",
            errno.EDQUOT: "your disk quota is used up: free some space",
            errno.EFBIG: "the file is larger than this system lets you write",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.EACCES: "permission denied: choose a writable folder",
            errno.EPERM: "permission denied: choose a writable folder",
            errno.ENOTDIR: "a part of its path is a file, not a folder",
            errno.EEXIST: "a folder of its path exists as a file or a broken link",
            errno.EISDIR: "a folder with this name exists",
            errno.ENOENT: "its folder does not exist and cannot be created: choose another folder",
            errno.ENAMETOOLONG: "its name is too long",
        }.get(error.errno, f"{error.strerror}: choose another folder")
        kept = kept() if callable(kept) else kept
        kind = UsageError if error.errno in _OF_NAMES else ReverieError
        raise kind(f"Cannot write {path}: {why}. Kept: {kept}.") from error


def path_of(name: str, value: Any) -> Path:
    """The path that an argument holds.

    Raises:
        UsageError: neither text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"{argument(name)} must be a path, not {value!r:.80}.")
    return Path(value)


def is_file(name: Path | str) -> bool:
    """Whether a text names a file; False for a text that is too long for a file name, such as a caption."""
    return exists(name) and Path(name).is_file()


def exists(name: Path | str) -> bool:
    """Whether a text names a file or a folder; False for a text that can name neither."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def check_name(path: Path) -> None:
    """Raise a UsageError if ``path`` can be neither a file nor a folder, or goes up from a folder that is missing."""
    if "\0" in str(path):
        raise UsageError(f"{str(path)!r} is no file name: it has a null character.")
    for index, part in enumerate(path.parts):
        if part == ".." and not (below := Path(*path.parts[:index])).exists():  # a path that changes once it is made
            raise UsageError(f"{path} goes up from {below}, which does not exist. Write the path without it.")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is neither a file nor a folder: writing would replace it. Choose another path.")


def quoted(path: object) -> str:
    """A path quoted for the shell, for printed commands; ``$'...'`` where a terminal would not show its characters."""
    text = str(path)
    text = f"./{text}" if text.startswith("-") else text  # else it would be read as an option
    if printable(text) == text:
        return f'"{text}"' if "'" in text and not re.search(r'["$`\\!]', text) else shlex.quote(text)
    return "$'" + "".join(c if c.isprintable() and c not in "\\'" else _bytes_of(c) for c in text) + "'"


def _bytes_of(character: str) -> str:
    """A character as the escaped bytes of a file name."""
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", errors))


def check_target(path: Path, name: str = "out") -> None:
    """Raise a UsageError unless ``path``, an argument's value, can be written: before the work, not after it."""
    with of_argument(name), disk_errors(path):
        if path.is_symlink() and not path.exists():
            raise UsageError(f"{path} is a broken link. Remove it, or choose another path.")
        above = next((folder for folder in path.parents if folder.exists()), path.parent)
        if above.exists() and not above.is_dir():
            raise UsageError(f"Cannot write {path}: {above} is no folder.")
        with tempfile.TemporaryFile(dir=above):  # whether anything can
            pass


def first_free(path: Path) -> Path:
    """The first of NAME.ext, NAME-2.ext, NAME-3.ext ... that does not exist."""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def is_temporary(path: Path) -> bool:
    """Whether a path is a file that ``replacing`` makes, left behind by a process that was killed; by its name."""
    return bool(re.fullmatch(r"\.aside-[a-z0-9_]{8}(\.\w+)?", path.name)) and path.is_file() and not path.is_symlink()


def remove_temporary(folder: Path) -> None:
    """Remove the files of ``replacing`` that a process left behind; for a folder that no other process writes to."""
    for leftover in filter(is_temporary, folder.glob(".aside-*")):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed to ``path``, else removed.

    Raises:
        OSError: disk error; the previous ``path`` is unchanged.
        UsageError: ``path`` exists and is neither a file nor a folder.
    """
    check_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the same suffix, because encoders choose the format by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".aside-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        _publish(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        _NEW.discard(path.absolute())


_NEW: set[Path] = set()  # outputs that did not exist when they were checked


def only_new(path: Path, new: bool) -> None:
    """Say whether the next file that is written at ``path`` must not replace another."""
    (_NEW.add if new else _NEW.discard)(path.absolute())


def _publish(temporary: Path, path: Path) -> None:
    """Rename; where ``only_new`` finds a file that appeared during the work, that is kept and the result is beside."""
    if path.absolute() not in _NEW:
        temporary.replace(path)
        return
    try:
        _place(temporary, path)
    except FileExistsError:
        beside = first_free(path)
        _place(temporary, beside)
        raise ReverieError(f"{path} appeared during the work. It was kept; the result is in {beside}.") from None


def _place(temporary: Path, path: Path) -> None:
    """Rename, or FileExistsError."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        path.open("x").close()
        temporary.replace(path)


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """``replacing``, with disk errors as a ReverieError."""
    path = Path(path)
    with disk_errors(path, kept=f"the previous {path.name}, if there was one"), replacing(path) as temporary:
        yield temporary


def flush(path: Path) -> None:
    """fsync a file, or a folder where the system supports it."""
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


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_entries(handle: BinaryIO, entries: Iterable[tuple[str, Any]]) -> None:
    """A JSON object, entry by entry: of a large one, no text of all of it is in memory."""
    handle.write(b"{")
    for i, (key, entry) in enumerate(entries):
        handle.write(b", " * bool(i) + json.dumps({key: entry})[1:-1].encode())
    handle.write(b"}")


def write_json(path: Path | str, value: Any) -> None:
    """``value`` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def check_regular(path: Path) -> None:
    """Raise an OSError unless ``path`` itself is a regular file: a pipe would hang, a device or a hole never ends.

    A link is refused, too: the files of a run and of a checkpoint are its own.
    """
    status = os.lstat(path)
    holes = status.st_size > 1 << 30 and getattr(status, "st_blocks", status.st_size) * 512 * 8 < status.st_size
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.EINVAL, "a link, which is not followed")
    if not stat.S_ISREG(status.st_mode) or holes:
        raise OSError(errno.EINVAL, "mostly a hole" if holes else "not a regular file")


def read_json(path: Path | str, links: bool = True) -> Any:
    """The value in a JSON file.

    Args:
        links: whether the file may be a link.
    Raises:
        OSError: no file that can be read.
        ValueError: no JSON, larger than 16 MiB, or nested too deeply.
    """
    path = Path(os.path.realpath(path) if links else path)
    check_regular(path)
    if path.stat().st_size > _JSON_BYTES:
        raise ValueError("it is larger than 16 MiB")
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
