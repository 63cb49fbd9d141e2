"""Small ICC profiles: RGB of other primaries, grey of another gamma, CMYK of grey inks."""

from __future__ import annotations

import itertools
import struct

WIDE = (
    (0.6097, 0.3111, 0.0195),
    (0.2053, 0.6257, 0.0609),
    (0.1492, 0.0632, 0.7446),
)  # Adobe RGB, about
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))


def rgb(primaries=WIDE, gamma: float = 2.2, title: str = "Wide RGB") -> bytes:
    tags = {f"{c}XYZ".encode(): _xyz(xyz) for c, xyz in zip("rgb", primaries, strict=True)}
    return _profile(b"RGB ", b"XYZ ", b"mntr", title, tags | {f"{c}TRC".encode(): _gamma(gamma) for c in "rgb"})


def grey(gamma: float = 1.0) -> bytes:
    return _profile(b"GRAY", b"XYZ ", b"mntr", "Linear grey", {b"kTRC": _gamma(gamma)})


def cmyk() -> bytes:
    """Inks without colour: 8-bit table of 2 x 2 x 2 x 2 lightnesses."""
    steps = bytes(range(256))
    grid = b"".join(
        bytes([round(255 * (1 - k) * (3 - c - m - y) / 3), 128, 128])
        for c, m, y, k in itertools.product((0, 1), repeat=4)
    )
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + steps * 4 + grid + steps * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", "Grey inks", {b"A2B0": table})


def _profile(space: bytes, pcs: bytes, kind: bytes, title: str, tags: dict[bytes, bytes]) -> bytes:
    text = title.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz((0.9642, 1.0, 0.8249))} | tags
    table, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", offset + len(body), bytes(4), 0x02400000, kind, space, pcs, bytes(12), b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + body


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def _gamma(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
