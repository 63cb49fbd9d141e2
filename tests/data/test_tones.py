"""Tones that Pillow reads otherwise than the file means: inverted, unsigned and signed TIFFs, 16-bit transparency."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reverie as rv
from reverie.media import decode

RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339


def write_tiff(path: Path, array: np.ndarray, **tags: int) -> Path:
    """A TIFF of the array, in which some tags have other values."""
    image = Image.fromarray(array)
    image.save(path, tiffinfo={SAMPLE_FORMAT: 2} if image.mode == "L" else {})
    data = bytearray(path.read_bytes())
    for name, value in tags.items():
        entry = struct.pack("<HHI", {"photometric": PHOTOMETRIC, "sample_format": SAMPLE_FORMAT}[name], 3, 1)
        start = data.index(entry) + len(entry)
        data[start : start + 2] = struct.pack("<H", value)
    path.write_bytes(data)
    return path


TIFFS = {
    "uint16, 0 is white": (65535 - RAMP.astype(np.uint16) * 257, {"photometric": 0}),
    "float32, 0 is white": ((1 - RAMP / 255).astype(np.float32), {"photometric": 0}),
    "uint32": ((RAMP.astype(np.uint32) * 16843009).view(np.int32), {"sample_format": 1}),
    "int8": (RAMP ^ 128, {}),
}


@pytest.mark.parametrize("name", sorted(TIFFS))
def test_a_tiff_has_the_tones_of_its_tags(tmp_path: Path, name: str) -> None:
    values, tags = TIFFS[name]
    data = write_tiff(tmp_path / "x.tif", values, **tags).read_bytes()
    array, _ = decode.decode(data, decode.Form((32, 32), 1, "crop", (255, 255, 255)))
    assert np.abs(array[..., 0].astype(int) - RAMP).max() <= 1
    if name != "uint32":
        half, _ = decode.decode(decode.cut(data, "left"), decode.Form((32, 16), 1, "crop", (255, 255, 255)))
        assert np.abs(half[..., 0].astype(int) - RAMP[:, :16]).max() <= 1


def test_the_transparent_grey_of_a_16_bit_png_is_composited_or_kept(tmp_path: Path) -> None:
    ramp = np.tile((np.arange(32) * 2000).astype(np.uint16), (32, 1))
    for i in range(10):
        Image.fromarray(np.roll(ramp, i, 1)).save(path := tmp_path / f"{i}.png")
        chunk = b"tRNS" + struct.pack(">H", 20000)
        data = path.read_bytes()
        path.write_bytes(data[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:])
    data = rv.open_data(tmp_path, held_out=0, background=(255, 0, 0))
    row = data.train["x"][data.train.names.index("0.png")]
    assert (row[:, 10] == (255, 0, 0)).all() and (row[:, 9] == round(18000 / 257)).all()
    row = rv.open_data(tmp_path, held_out=0, channels=4).train["x"][0]
    assert {*row[..., 3].ravel().tolist()} == {0, 255} and (row[..., 3] == 0).sum() == 32


def test_converted_tones_are_reported_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    for i in range(10):
        write_tiff(tmp_path / f"{i}.tif", np.roll(RAMP, 3 * i, 1) ^ 128)
    data = rv.open_data(tmp_path)
    assert data.report.counts()["tones"] == 10
    assert rv.data.reopen(data.provenance).fingerprint == data.fingerprint
