"""Arrays of an ``.npz`` file, each read only after its header: no pickles, no more memory than the file declares."""

from __future__ import annotations

import contextlib
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from reverie.core.errors import ReverieError

_RATIO = 20  # of a compressed array: more than numbers that were measured have
_SLACK = 1 << 26  # bytes of any ratio
_DAMAGE: tuple[type[Exception], ...] = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, RuntimeError),
    *(ValueError, SyntaxError, tokenize.TokenError, TypeError, KeyError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class Header:
    """The shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Npz:
    """An open ``.npz``.

    Attributes:
        names: of its arrays.
        entries: all that the zip holds.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self.entries = archive.infolist()
        self.names = [entry.filename.removesuffix(".npy") for entry in self.entries if entry.filename.endswith(".npy")]

    def header(self, name: str) -> Header:
        """The header of an array.

        Raises:
            ReverieError: damaged, pickled objects, or of another size than its place in the file.
        """
        with self._opened(name) as (stream, info):
            return self._header(stream, info)

    def read(self, name: str) -> np.ndarray:
        """An array; its memory is that of its header. Raises ReverieError as ``header`` does."""
        self.header(name)
        with self._opened(name) as (stream, _):
            return np.lib.format.read_array(stream, allow_pickle=False)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[IO[bytes], zipfile.ZipInfo]]:
        with _damage(self.path, f"{name}: "):
            info = self._archive.getinfo(f"{name}.npy")
            if info.file_size > _RATIO * info.compress_size + _SLACK:
                raise ValueError(f"{info.compress_size:,} bytes claim to hold {info.file_size:,}")
            with self._archive.open(info) as stream:
                yield stream, info

    def _header(self, stream: IO[bytes], info: zipfile.ZipInfo) -> Header:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(stream)
        if version not in readers:
            raise ValueError("it is no plain array")
        shape, _, dtype = readers[version](stream)
        if dtype.hasobject:
            raise ValueError("it contains pickled objects, which may run code")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
            raise ValueError(f"{dtype} {shape} does not fit {info.file_size:,} bytes")
        return Header(tuple(shape), dtype)


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Npz]:
    """Open an ``.npz``.

    Raises:
        ReverieError: it cannot be read as one, or something in it is damaged, then or later.
    """
    with contextlib.ExitStack() as stack:
        with _damage(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
        yield Npz(path, archive)


@contextlib.contextmanager
def _damage(path: Path, where: str = "") -> Iterator[None]:
    """Errors of many types in a damaged file as one that names the file and the array."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, ReverieError):
            raise
        why = str(error).splitlines()[0] if str(error).strip() else type(error).__name__
        raise ReverieError(f"{path} cannot be read as .npz: {where}{why:.300}.") from error
