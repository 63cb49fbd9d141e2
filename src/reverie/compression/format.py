"""The file of compressed images: a header of about 24 bytes, the coded values, and checksums.

magic "RVC" · version · flags (1: conditionals) · length and bytes of the model's name · 4 bytes of the hash of its
weights · with conditionals 4 bytes of the environment's · runs of equal images (4 count + channels - 1, height, width),
after their number · CRC-32 of the images · coded values · CRC-32 of all bytes before. Numbers are little-endian;
counts and sizes have seven bits a byte, the lowest first.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from pathlib import Path

import numpy as np

from reverie.compression.coding import LEAST_BITS
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.media.decode import PIXEL_LIMIT
from reverie.probability.integer_logistic import LEAST_BITS as PORTABLE_LEAST_BITS

MAGIC, VERSION, ENDING = b"RVC", 2, ".rvc"
MOST_IMAGES = 1_000_000
_MOST_PIXELS = 100 * PIXEL_LIMIT
_CONDITIONALS = 1  # flag: coded by a model's conditionals in floating point
_SLACK = 64  # bits: the state of a range coder

Shape = tuple[int, int, int]  # (height, width, channels), 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha)


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        model: name of the system.
        weights: 4 bytes of a hash of its weights.
        environment: 4 bytes of a hash of the environment on whose rounding the code depends; b"" if it depends on none.
        shapes: of each image.
        checksum: ``checksum_of`` the images.
    """

    model: str
    weights: bytes
    environment: bytes
    shapes: Sequence[Shape]
    checksum: int


def checksum_of(images: Sequence[np.ndarray]) -> int:
    """CRC-32 of the shapes and bytes of images (H, W, C), one after the other."""
    checksum = 0
    for image in images:
        checksum = zlib.crc32(repr(image.shape).encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(image).tobytes(), checksum)
    return checksum


def is_compressed(path: Path) -> bool:
    """Whether a file is there that begins as those of ``pack`` do."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def pack(header: Header, payload: bytes) -> bytes:
    """The bytes of a file. Raises a UsageError for more images than one file holds."""
    name = header.model.encode()
    runs = [(len([*equal]), *shape) for shape, equal in groupby(header.shapes)]
    if not _is_allowed(runs):
        raise UsageError(
            f"A file holds at most {MOST_IMAGES:,} images and {_MOST_PIXELS:,} pixels, {PIXEL_LIMIT:,} in each image. "
            f"Compress fewer: {argument('number')}."
        )
    content = MAGIC + bytes([VERSION, _CONDITIONALS if header.environment else 0, len(name)])
    content += name + header.weights + header.environment + _varint(len(runs))
    content += b"".join(_varint(n) for count, h, w, channels in runs for n in (4 * count + channels - 1, h, w))
    content += header.checksum.to_bytes(4, "little") + payload
    return content + zlib.crc32(content).to_bytes(4, "little")


def unpack(data: bytes, name: str) -> tuple[Header, bytes]:
    """The header and the coded values; nothing is returned that is larger than the coded values can stand for.

    Args:
        name: of the file, for messages.
    Raises:
        ReverieError: no such file, of another version, damaged or truncated.
    """
    if not data.startswith(MAGIC):
        raise ReverieError(f"{name} was not written by `reverie compress`: it does not begin with RVC.")
    if data[3:4] and data[3] != VERSION:
        remedy = "Update it." if data[3] > VERSION else "Compress the images again."
        raise ReverieError(
            f"{name} has version {data[3]} of the format, this reverie reads version {VERSION}. {remedy}"
        )
    if len(data) < 24 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ReverieError(f"{name} is damaged or truncated: its checksum does not match its {len(data):,} bytes.")
    try:
        return _parsed(_Reader(data[4:-4]))
    except ValueError:
        raise ReverieError(f"{name} is damaged: its header cannot be right.") from None


class _Reader:
    """Reads bytes from the front. Raises ValueError at their end."""

    def __init__(self, data: bytes):
        self.rest = data

    def bytes(self, count: int) -> bytes:
        if len(self.rest) < count:
            raise ValueError
        head, self.rest = self.rest[:count], self.rest[count:]
        return head

    def byte(self) -> int:
        return self.bytes(1)[0]

    def varint(self) -> int:
        number = 0
        for shift in range(0, 49, 7):
            byte = self.byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError


def _parsed(reader: _Reader) -> tuple[Header, bytes]:
    flags = reader.byte()
    if flags & ~_CONDITIONALS:
        raise ValueError
    model = reader.bytes(reader.byte()).decode()
    weights, environment = reader.bytes(4), reader.bytes(4 if flags else 0)
    runs = list[tuple[int, int, int, int]]()
    for _ in range(reader.varint()):
        count, channels = divmod(reader.varint(), 4)
        runs.append((count, reader.varint(), reader.varint(), channels + 1))
    checksum = int.from_bytes(reader.bytes(4), "little")
    least = (LEAST_BITS if flags else PORTABLE_LEAST_BITS) * sum(map(math.prod, runs))
    if not _is_allowed(runs) or 0.99 * least > 8 * len(reader.rest) + _SLACK:  # 1 % is the coder's rounding
        raise ValueError
    shapes = [shape for count, *sides in runs for shape in repeat((sides[0], sides[1], sides[2]), count)]
    return Header(model, weights, environment, shapes, checksum), reader.rest


def _is_allowed(runs: Sequence[tuple[int, int, int, int]]) -> bool:
    """Whether a file may hold runs (count, height, width, channels) of images."""
    within = all(min(run) > 0 and run[1] * run[2] <= PIXEL_LIMIT for run in runs)
    pixels = sum(count * height * width for count, height, width, _ in runs)
    return bool(runs) and within and sum(run[0] for run in runs) <= MOST_IMAGES and pixels <= _MOST_PIXELS


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
