"""Media: conversion loses nothing, memory is laid out channels last, and what is saved is what was passed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from reverie.core.errors import ReverieError, UsageError
from reverie.media import MEDIA, Spec, medium_of, parse_size
from reverie.media.medium import to_float, to_rows, to_uint8

SPECS = {
    "image": Spec("image", (6, 10), 3),
    "video": Spec("video", (4, 6, 10), 3),
    "volume": Spec("volume", (4, 6, 10), 2),
    "sequence": Spec("sequence", (50,), 2, -32768, 32768, "int16"),
}


def some_rows(spec: Spec, count: int = 5) -> np.ndarray:
    dtype = np.dtype(spec.dtype or medium_of(spec).storage)
    rng, shape = np.random.default_rng(0), (count, *spec.shape, spec.channels)
    if dtype.kind == "f":
        return rng.uniform(spec.low, spec.high, shape).astype(dtype)
    info = np.iinfo(dtype)
    rows = rng.integers(info.min, info.max + 1, shape, dtype)
    rows.reshape(-1)[:2] = info.min, info.max
    return rows


@pytest.mark.parametrize("name", MEDIA)
def test_stored_rows_survive_the_way_to_floats_and_back_exactly(name: str) -> None:
    spec, medium = SPECS[name], medium_of(name)
    rows = some_rows(spec)
    x = medium.to_float(rows, spec)
    assert x.shape == (5, spec.channels, *spec.shape) and x.dtype == torch.float32
    assert x.min() >= -1 and x.max() <= 1
    back = medium.to_storage(x, spec)
    assert back.dtype == rows.dtype and (back == rows).all()


def test_all_256_values_and_all_int16_values_survive() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (to_uint8(to_float(every)) == every).all()
    every = np.arange(-32768, 32768).astype(np.int16).reshape(1, -1, 1)
    x = to_float(every, low=-32768, high=32768)
    assert (to_rows(x, "int16", -32768, 32768) == every).all() and x[0, 0, 32768] == 0


def test_float_sequences_keep_their_units() -> None:
    spec = Spec("sequence", (30,), 1, -80.0, 40.0)
    rows = some_rows(spec)
    x = medium_of(spec).to_float(rows, spec)
    assert torch.allclose(x[:, 0], torch.from_numpy(rows[..., 0] + 20) / 60, atol=1e-6)
    assert np.allclose(medium_of(spec).to_storage(x, spec), rows, atol=1e-5)


def test_conversion_leaves_the_stored_rows_alone() -> None:
    rows = some_rows(Spec("sequence", (8,), 1, -1, 1))
    before = rows.copy()
    to_float(rows, low=-1, high=1)
    assert (rows == before).all()


def test_values_outside_are_clamped_where_they_are_stored_as_integers() -> None:
    x = torch.tensor([-3.0, 1.5]).view(1, 1, 1, 2)
    assert to_uint8(x).ravel().tolist() == [0, 255]
    assert to_rows(x[:, :, 0], "int16", -32768, 32768).ravel().tolist() == [-32768, 32767]


def test_channels_are_last_in_memory() -> None:
    images, volumes = (to_float(some_rows(SPECS[name])) for name in ("image", "volume"))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert volumes.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("name", MEDIA)
def test_a_spec_goes_through_json(name: str) -> None:
    spec = SPECS[name]
    record = json.loads(json.dumps(spec.as_dict() | {"source": "x"}))
    assert Spec.of(record) == spec and hash(Spec.of(record)) == hash(spec)
    assert spec.dimensions == some_rows(spec)[0].size


def test_a_spec_reads_as_its_extents() -> None:
    assert str(Spec("image", (48, 64), 3)) == "48x64x3"
    assert Spec("image", (28, 28), 1).square == 28
    assert Spec("image", (48, 64), 3).square is None and Spec("sequence", (28,), 1).square is None
    with pytest.raises(UsageError, match="high must be above low"):
        Spec("sequence", (28,), 1, low=float("-inf"), high=1)
    with pytest.raises(UsageError, match="high must be above low"):
        Spec("sequence", (9,), 1, 1, 1)
    with pytest.raises(UsageError, match='Did you mean "volume"'):
        medium_of("volum")


def test_sizes_are_parsed_in_one_place() -> None:
    assert [parse_size(size) for size in (None, 48, "48", "48x64", "48X64", (48, 64), [8, 8, 8])] == [
        None,
        (48,),
        (48,),
        (48, 64),
        (48, 64),
        (48, 64),
        (8, 8, 8),
    ]
    for wrong in (0, -3, "x48", "48x", "wide", (48, 0), 5000, ()):
        with pytest.raises(UsageError, match="size must be"):
            parse_size(wrong)


@pytest.mark.parametrize("name", MEDIA)
def test_a_sheet_is_one_image_of_all_rows(name: str, real_plots: None) -> None:
    spec = SPECS[name]
    sheet = medium_of(spec).sheet(some_rows(spec), spec)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] in (1, 3)
    assert sheet.std() > 0


def test_strips_of_many_clips_stand_side_by_side() -> None:
    spec = Spec("volume", (16, 8, 8), 1)
    rows = np.zeros((40, 16, 8, 8, 1), np.uint8)
    rows[7, 15] = 99  # the last slice of the eighth
    sheet = medium_of(spec).sheet(rows, spec)
    assert 0.5 < sheet.shape[0] / sheet.shape[1] < 2 and (sheet == 99).any()
    assert medium_of(spec).sheet(rows[:3], spec).shape[0] == medium_of(spec).sheet(rows[:1], spec).shape[0] * 3 - 4


def test_images_that_stand_for_other_media() -> None:
    clips, volumes = some_rows(SPECS["video"]), some_rows(Spec("volume", (4, 6, 10), 1))
    frames, kind = medium_of("video").as_images(clips, SPECS["video"])
    assert kind == "frames" and frames.shape == (20, 6, 10, 3) and (frames[5] == clips[1, 1]).all()
    slices, kind = medium_of("volume").as_images(volumes, Spec("volume", (4, 6, 10), 1))
    assert kind == "central slices" and (slices == volumes[:, 2]).all()
    assert medium_of("volume").as_images(some_rows(SPECS["volume"]), SPECS["volume"]) is None  # two channels
    assert medium_of("sequence").as_images(some_rows(SPECS["sequence"]), SPECS["sequence"]) is None


@pytest.mark.parametrize("name", MEDIA)
def test_an_archive_holds_the_rows_and_what_is_known_of_them(tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    rows = some_rows(spec)
    medium_of(spec).save(tmp_path / "a.npz", rows, spec, {"seeds": [3, 4, 5, 6, 7]})
    with np.load(tmp_path / "a.npz") as archive:
        assert (archive["images" if name == "image" else "x"] == rows).all()
        assert archive["seeds"].tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("name", MEDIA)
def test_a_folder_holds_one_file_a_sample_and_foreign_files_are_never_overwritten(tmp_path: Path, name: str) -> None:
    spec, medium = SPECS[name], medium_of(name)
    rows = some_rows(spec)
    medium.save(tmp_path / "out", rows, spec, {})
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 6 and files[2].stem == "000002" and files[5].name == "reverie.json"
    if name != "video":  # lossless webp films are not read back
        assert (medium.read(files[2], spec) == rows[2]).all()
    medium.save(tmp_path / "out", rows[:2], spec, {})  # its own files are replaced
    assert len(list((tmp_path / "out").iterdir())) == 3
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match=r"nothing was touched. It holds mine.txt"):
        medium.save(tmp_path / "out", rows, spec, {})
    assert len(list((tmp_path / "out").iterdir())) == 4


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_clips_are_saved_as_one_film(tmp_path: Path, ending: str) -> None:
    spec = SPECS["video"]
    medium_of(spec).save(tmp_path / f"film{ending}", some_rows(spec), spec, {})
    with Pillow.open(tmp_path / f"film{ending}") as film:
        assert film.n_frames == 4


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 6, 11), np.uint8))
    with pytest.raises(ReverieError, match=r"\(4, 6, 11\).*\(4, 6, 10, 1\) is needed"):
        medium_of("volume").read(tmp_path / "a.npy", Spec("volume", (4, 6, 10), 1))
    (tmp_path / "a.npy").write_bytes(b"torn")
    with pytest.raises(ReverieError, match="cannot be read"):
        medium_of("volume").read(tmp_path / "a.npy", Spec("volume", (4, 6, 10), 1))
