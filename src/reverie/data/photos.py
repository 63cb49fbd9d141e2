"""Photographs with free licences, as crops: those of photos.toml, from the data of the game GCompris."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.core.cache import Progress, home
from reverie.core.fetching import apt_download, deb_files, download, first_good
from reverie.core.files import replacing
from reverie.data.arrays import Arrays, of_images
from reverie.data.intake import parallel

SIDE = 256  # pixels of a crop
SHORT_SIDES = (256, 512)  # pixels of the photographs' short side, of which crops are taken
HELD_OUT = 0.15  # fraction of the photographs, with all of their crops

PACKAGE = "gcompris-qt-data"
DEB = f"{PACKAGE}_3.1-2_all.deb"
ADDRESS = f"https://snapshot.debian.org/archive/debian/20230701T000000Z/pool/main/g/gcompris-qt/{DEB}"

Files = dict[str, bytes]  # encoded photographs by name


@dataclass(frozen=True)
class Photo:
    """A photograph.

    Attributes:
        sha256: of its file.
        author: who took it.
        licence: "public domain", "CC0 1.0" or "CC BY" with its version.
        page: its description at its origin.
    """

    sha256: str
    author: str
    licence: str
    page: str

    @property
    def held_out(self) -> bool:
        return int(self.sha256[:8], 16) < HELD_OUT * 16**8


@cache
def catalogue() -> dict[str, Photo]:
    """The photographs by name."""
    table = tomllib.loads(Path(__file__).with_name("photos.toml").read_text("utf-8"))
    return {name: Photo(**row) for name, row in table.items()}


def folder() -> Path:
    """The folder of the original files, ``NAME.webp``, after the first use."""
    return home() / "public" / "photos"


def photos(progress: Progress | None = None) -> Arrays:
    """Crops uint8 (N, 256, 256, 3) of every photograph at two sizes; no photograph is in both splits.

    Raises:
        ReverieError: no source has all files unchanged; the message names each, and what to do by hand.
    """
    cached, deb = folder(), folder().parent / DEB
    sources: list[tuple[str, Callable[[Progress | None], Files]]] = [
        (f"cache ({cached})", lambda _: {name: (cached / f"{name}.webp").read_bytes() for name in catalogue()}),
        (f"file ({deb})", lambda _: select(deb_files(deb.read_bytes()))),
        (ADDRESS, lambda progress: select(deb_files(download(ADDRESS, progress)))),
        (f"apt-get download {PACKAGE}", lambda progress: select(apt_download(PACKAGE, progress))),
    ]
    advice = f"By hand: put the Debian package {DEB} into {deb.parent}, from {ADDRESS}"
    source, files = first_good("photos", sources, check, advice, progress)
    if source != sources[0][0]:
        with contextlib.suppress(OSError):  # they are fetched again next time
            for name, data in files.items():
                with replacing(cached / f"{name}.webp") as temporary:
                    temporary.write_bytes(data)
    names = sorted(files, key=lambda name: (catalogue()[name].held_out, name))
    crops = dict(zip(names, parallel(lambda name: crop(files[name]), names), strict=True))
    cut = sum(len(crops[name]) for name in names if not catalogue()[name].held_out)
    rows = [f"{name}/{i}" for name in names for i in range(len(crops[name]))]
    return of_images(np.concatenate(list(crops.values())), np.full(len(rows), -1), [], cut, rows)


def select(files: Files) -> Files:
    """The photographs among the files of the package, wherever they are: by their sha256."""
    names = {photo.sha256: name for name, photo in catalogue().items()}
    resources = (data for path, data in files.items() if path.endswith(".rcc"))
    entries = ((hashlib.sha256(entry).hexdigest(), entry) for data in resources for entry in rcc_entries(data))
    return {names[sha256]: entry for sha256, entry in entries if sha256 in names}


def check(files: Files) -> None:
    """Raise ValueError unless every photograph is there and unchanged."""
    pins = {name: photo.sha256 for name, photo in catalogue().items()}
    missing = [name for name, pin in pins.items() if hashlib.sha256(files.get(name, b"")).hexdigest() != pin]
    if missing:
        raise ValueError(f"{len(missing)} of {len(pins)} photographs are missing or changed: {', '.join(missing[:4])}")


def rcc_entries(data: bytes) -> Iterator[bytes]:
    """The entries of a Qt resource file, in its order, compressed ones as they are. Raises ValueError."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file")
    tree, start, names = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16))
    end = min(offset for offset in (tree, names, len(data)) if offset > start)
    while start < end:
        size = int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 4 + size]
        start += 4 + size


def crop(data: bytes) -> np.ndarray:
    """An encoded photograph to crops uint8 (N, 256, 256, 3), evenly spaced, at each of ``SHORT_SIDES``."""
    with Image.open(io.BytesIO(data)) as image:
        photo = image.convert("RGB")
    crops = []
    for short in SHORT_SIDES:
        scale = short / min(photo.size)
        resized = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
        lefts, tops = (np.linspace(0, side - SIDE, round(side / SIDE)).astype(int) for side in resized.size)
        pixels = np.asarray(resized)
        crops += [pixels[top : top + SIDE, left : left + SIDE] for top in tops for left in lefts]
    return np.stack(crops)
