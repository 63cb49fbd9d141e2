"""The file of compressed images: a header of about 24 bytes, the coded values, and checksums.

magic "RVC" · version · flags (channels - 1 in two bits, conditionals in the third) · length and bytes of the model's
name · 4 bytes of the hash of its weights · with conditionals 4 bytes of the environment's · runs of equal sizes
(count, height, width), after their number · CRC-32 of the pixels · coded values · CRC-32 of all bytes before.
Numbers are little-endian; counts and sizes have seven bits a byte, the lowest first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from reverie.core.errors import ReverieError
from reverie.media.decode import PIXEL_LIMIT

MAGIC, VERSION = b"RVC", 1
_CONDITIONALS = 4  # flag: coded by a model's conditionals in floating point


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        model: name of the system.
        weights: 4 bytes of a hash of its weights.
        environment: 4 bytes of a hash of the environment on whose rounding the code depends; b"" if it depends on none.
        channels: of the images: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        sizes: (height, width) of each image.
        pixels: CRC-32 of the images' bytes (H, W, C), one after the other.
    """

    model: str
    weights: bytes
    environment: bytes
    channels: int
    sizes: Sequence[tuple[int, int]]
    pixels: int


def pack(header: Header, payload: bytes) -> bytes:
    """The bytes of a file."""
    name = header.model.encode()
    flags = header.channels - 1 + (_CONDITIONALS if header.environment else 0)
    runs = [(len([*equal]), *size) for size, equal in groupby(header.sizes)]
    content = MAGIC + bytes([VERSION, flags, len(name)]) + name + header.weights + header.environment
    content += b"".join(map(_varint, (len(runs), *(number for run in runs for number in run))))
    content += header.pixels.to_bytes(4, "little") + payload
    return content + zlib.crc32(content).to_bytes(4, "little")


def unpack(data: bytes, name: str) -> tuple[Header, bytes]:
    """The header and the coded values.

    Args:
        name: of the file, for messages.
    Raises:
        ReverieError: no such file, of a later version, damaged or truncated.
    """
    if not data.startswith(MAGIC):
        raise ReverieError(f"{name} was not written by `reverie compress`: it does not begin with RVC.")
    if data[3:4] and data[3] > VERSION:
        raise ReverieError(f"{name} has version {data[3]} of the format, this reverie reads 1 to {VERSION}. Update it.")
    if len(data) < 24 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ReverieError(f"{name} is damaged or truncated: its checksum does not match its {len(data):,} bytes.")
    try:
        return _parsed(data)
    except (IndexError, ValueError, StopIteration):
        raise ReverieError(f"{name} has a header that cannot be read.") from None


def _parsed(data: bytes) -> tuple[Header, bytes]:
    stream = iter(data[4:-4])
    flags = next(stream)
    model = _bytes(stream, next(stream)).decode()
    weights, environment = _bytes(stream, 4), _bytes(stream, 4 if flags & _CONDITIONALS else 0)
    sizes = list[tuple[int, int]]()
    pixels = 0
    for _ in range(_number(stream)):
        count, height, width = (_number(stream) for _ in range(3))
        pixels += count * height * width
        if not min(count, height, width) or height * width > PIXEL_LIMIT or pixels > 100 * PIXEL_LIMIT:
            raise ValueError
        sizes += [(height, width)] * count
    checksum = int.from_bytes(_bytes(stream, 4), "little")
    return Header(model, weights, environment, (flags & 3) + 1, sizes, checksum), bytes(stream)


def _varint(number: int) -> bytes:
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _number(stream: Iterator[int]) -> int:
    number = shift = 0
    while True:
        byte = next(stream)
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number
        if shift > 42:
            raise ValueError


def _bytes(stream: Iterator[int], count: int) -> bytes:
    return bytes(next(stream) for _ in range(count))
