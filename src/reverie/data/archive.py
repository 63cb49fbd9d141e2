"""The arrays of an ``.npz``, read one by one: no memory is allocated for what a header only claims."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from reverie.core.errors import ReverieError

DEFLATE = 1100  # bytes that one compressed byte can stand for, at most (1,032 for deflate)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(path: Path) -> np.ndarray | None:
    """The array of an ``.npy``, a read-only memory map; None if the file is an archive of several.

    Raises:
        ValueError: it is damaged, or holds Python objects; with the reason.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises errors of many types on damaged headers
        objects = "Python objects" in str(error) or "allow_pickle" in str(error)
        reason = "it holds Python objects, not numbers, and reading them may run code" if objects else str(error)
        raise ValueError(reason) from None
    return values if isinstance(values, np.ndarray) else None


class Archive:
    """An open ``.npz``; a context manager.

    Attributes:
        names: of its arrays.

    Raises:
        ReverieError: no zip archive of arrays, here and in ``read``.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._readable():
            with path.open("rb") as handle:
                if handle.read(6) == b"\x93NUMPY":
                    raise ReverieError(f"{path} is a single array; save it with numpy.savez(path, images=...).")
            self._zip = zipfile.ZipFile(path)
        self._members = {entry.filename.removesuffix(".npy"): entry for entry in self._zip.infolist()}
        self.names = [*self._members]

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def read(self, name: str) -> np.ndarray:
        """One array. Its header, the size of its member and the machine's memory must agree before it is allocated."""
        from reverie.core.memory import machine_memory

        with self._readable(name), self._open(name) as member:
            _, size = self._header(name, member)
            if size > machine_memory() // 2:
                need = f"{size / 2**30:,.0f} GiB, more than half of this machine's memory"
                raise ValueError(f"{name} takes {need}; save its images to a folder instead, which is read in parts")
        with self._readable(name), self._open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one array, without its values."""
        with self._readable(name), self._open(name) as member:
            return self._header(name, member)[0]

    def _open(self, name: str) -> IO[bytes]:
        entry = self._members[name]
        if entry.file_size > DEFLATE * (entry.compress_size + 64):
            raise ValueError(f"{name} claims {entry.file_size:,} bytes in {entry.compress_size:,} compressed ones")
        return self._zip.open(entry)

    def _header(self, name: str, member: IO[bytes]) -> tuple[tuple[int, ...], int]:
        """(shape, bytes) of the array of an open member."""
        version = np.lib.format.read_magic(member)
        shape, _, dtype = _HEADERS[min(version, (2, 0))](member)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError("it contains pickled objects, which may run code")
        if size > self._members[name].file_size:
            raise ValueError(f"its header claims {size:,} bytes of {dtype} {shape}, and it has fewer")
        return shape, size

    @contextlib.contextmanager
    def _readable(self, name: str = "") -> Iterator[None]:
        """Errors of the readers as a ReverieError."""
        try:
            yield
        except ReverieError:
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise errors of many types on damaged data
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            which = f" ({name})" if name and name not in reason else ""
            raise ReverieError(
                f"{self.path} cannot be read as .npz{which}: {reason}. Save plain arrays with numpy.savez."
            ) from None
