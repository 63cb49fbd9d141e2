"""A damaged .npz ends with a message, and takes no memory for what its header only claims."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.core.errors import ReverieError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), np.uint8)


def npy(header: str, data: bytes = b"") -> bytes:
    padded = header.encode() + b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(padded)) + padded + data


def zipped(body: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("images.npy", body)
    return bytearray(buffer.getvalue())


def header(shape: str, dtype: str = "|u1") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


WHOLE = zipped(npy(header("(12, 6, 6, 3)"), IMAGES.tobytes()))
CENTRAL = WHOLE.rfind(b"PK\1\2")


def patched(*bytes_: tuple[int, int]) -> bytearray:
    damaged = WHOLE.copy()
    for place, value in bytes_:
        damaged[place] = value
    return damaged


DAMAGED = {
    "deflate": patched(*((place, 255) for place in range(50, 70))),
    "empty": bytearray(),
    "encrypted": patched((6, WHOLE[6] | 1), (CENTRAL + 8, WHOLE[CENTRAL + 8] | 1)),
    "header": zipped(npy("(((((")),
    "method": patched((8, 99), (CENTRAL + 10, 99)),
    "negative": zipped(npy(header("(-12, 6, 6)"), bytes(600))),
    "not-npy": zipped(b"hello"),
    "objects": zipped(npy(header("(12, 6, 6)", "|O"), bytes(600))),
    "terabytes": zipped(npy(header("(1000000000, 1000, 1000, 1)"))),
    "version": zipped(b"\x93NUMPY\x09\0" + bytes(100)),
}


@pytest.mark.parametrize("kind", sorted(DAMAGED))
def test_damage_is_an_error_with_the_file_and_the_reason(tmp_path: Path, kind: str) -> None:
    (tmp_path / "d.npz").write_bytes(DAMAGED[kind])
    with pytest.raises(ReverieError, match=r"d\.npz cannot be read as \.npz"):
        rv.open_data(tmp_path / "d.npz")


def test_a_header_that_claims_more_than_the_file_has_takes_no_memory(tmp_path: Path, monkeypatch) -> None:
    claims = zipped(npy(header("(1000, 1000, 1000)")), zipfile.ZIP_STORED)
    bomb = zipped(npy(header("(40, 1000, 1000)"), bytes(40_000_000)))  # 40 kB that unpack to 40 MB
    liar = bomb.copy()
    place = liar.rfind(b"PK\1\2")
    liar[place + 24 : place + 28] = struct.pack("<I", 0xF0000000)
    monkeypatch.setattr("reverie.core.memory.machine_memory", lambda: 64 << 20)
    for content, hint in ((claims, "claims 1,000,000,000 bytes"), (bomb, "half of this machine"), (liar, "compressed")):
        (tmp_path / "d.npz").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ReverieError, match=hint):
            rv.open_data(tmp_path / "d.npz")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_text_that_no_file_can_hold_is_refused_with_its_row(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, texts=np.array(["a", "\ud800"] * 6))
    with pytest.raises(ReverieError, match="the text of row 1 is no text"):
        rv.open_data(tmp_path / "d.npz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_any_damage_opens_or_ends_with_a_message(tmp_path: Path, changes: list[tuple[int, int]], cut: bool) -> None:
    damaged = patched(*changes)
    (tmp_path / "d.npz").write_bytes(damaged[: changes[0][0]] if cut else damaged)
    try:
        assert rv.open_data(tmp_path / "d.npz").report.usable <= 12
    except ReverieError as error:
        assert str(error)


@pytest.mark.parametrize("values", [(0, 2), (0, 1, 2), (0.0, 1.0), (0, 65535), (False, True), (0.1, 0.9)], ids=str)
def test_masks_of_an_array_are_stored_as_0_and_255(tmp_path: Path, values: tuple) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    masks = np.array(values)[np.random.default_rng(1).integers(0, len(values), (12, 8, 8))]
    np.savez(tmp_path / "d.npz", images=images, masks=masks)
    data = rv.open_data(tmp_path / "d.npz", held_out=0)
    rows = [int(name) for name in data.train.names]
    assert (data.train["mask"][..., 0] == np.where(masks[rows] > 0.5, 255, 0)).all()
    assert data.report.counts()["mask-values"] == 1


@pytest.mark.parametrize("odd", ["mixed", "negative", "wide"])
def test_what_is_no_mask_is_refused(tmp_path: Path, odd: str) -> None:
    masks = np.random.default_rng(1).integers(0, 2, (12, 8, 8))
    masks *= {"negative": -1, "wide": 70000, "mixed": np.where(np.arange(12) < 6, 1, 255)[:, None, None]}[odd]
    np.savez(tmp_path / "d.npz", images=np.zeros((12, 8, 8), np.uint8), masks=masks)
    with pytest.raises(ReverieError, match=r"0 and 255|0 to 255"):
        rv.open_data(tmp_path / "d.npz")


def test_images_beside_those_of_two_splits_and_repeated_names_of_attributes_are_reported(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
    attributes = {"attributes": np.zeros((24, 2)), "attribute_names": np.array(["a", "a"])}
    np.savez(tmp_path / "d.npz", images=images, x_train=images, x_test=255 - images, **attributes)
    report = rv.open_data(tmp_path / "d.npz").report
    actions = [problem.action for problem in report.problems if problem.kind in ("ignored", "columns")]
    assert "arrays images, because" in actions[0] and "several attributes are called a" in actions[1]
