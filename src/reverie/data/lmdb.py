"""Images in the values of an LMDB."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from reverie.core.errors import ReverieError, UsageError
from reverie.core.terminal import count, printable
from reverie.data.items import File, Item, Listing
from reverie.data.types import Problem
from reverie.media.formats import MAGIC

NAMES = ("data.mdb", "lock.mdb")  # of its files


def is_lmdb(source: str) -> bool:
    """Whether it is a folder of an LMDB."""
    return (Path(source) / NAMES[0]).is_file()


def list_lmdb(folder: Path) -> Listing:
    """The values of an LMDB that are encoded images, in the order of their keys, as LSUN keeps them.

    Raises:
        UsageError: lmdb is missing.
        ReverieError: a damaged file.
    """
    try:
        import lmdb
    except ImportError:
        raise UsageError(f"{folder} needs lmdb: pip install 'reverie[lmdb]'") from None
    listing = Listing([], read_as="an LMDB of images")
    others = 0
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, subdir=True)
        with environment.begin() as reading:
            for key, value in reading.cursor():
                if not bytes(value[:8]).startswith(MAGIC):
                    others += 1
                    continue
                name = printable(key.decode("utf-8", "surrogateescape"))
                file = File(f"{folder}/{name}", reader=partial(_value, environment, key))
                listing.items.append(Item(name, file))
    except lmdb.Error as error:
        raise ReverieError(f"{folder} cannot be read as an LMDB: {error}.") from None
    if others:
        listing.problems.append(Problem("*", "ignored", f"ignored: {count(others, 'value')} without an image"))
    return listing


def _value(environment: Any, key: bytes) -> bytes:
    with environment.begin() as reading:
        return bytes(reading.get(key))
