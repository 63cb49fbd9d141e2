"""Volumes in .npy and NIfTI files: one shape by their centres, one range of intensities; and single .npy arrays."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from reports import by_kind, by_name

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data import open_like, reopen
from reverie.data.volumes import centred, read_volume


def scan(seed: int, shape: tuple[int, ...] = (6, 8, 8)) -> np.ndarray:
    """Like a CT: from -1000 to about 2000, int16."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-1000, 2000, (2, 2, 2))
    return coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]].astype(np.int16)


def scans(folder: Path, number: int = 10, **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        np.save(folder / f"{seed}.npy", scan(seed, **options))
    return folder


def test_volumes_of_a_folder_share_one_range_which_is_said_and_recorded(tmp_path: Path) -> None:
    for label in ("ill", "well"):
        for seed in range(5):
            (tmp_path / label).mkdir(exist_ok=True)
            np.save(tmp_path / label / f"{seed}.npy", scan(seed + 5 * (label == "well")))
    (tmp_path / "ill" / "2.txt").write_text("a cyst")
    data = rv.open_data(tmp_path, medium="volume")
    low, high = data.provenance["intensities"]
    assert data.spec.medium == "volume" and data.spec.shape == (6, 8, 8) and data.classes == ["ill", "well"]
    assert f"{low:g}..{high:g} scaled to 8 bits for all" in by_kind(data)["intensities"]
    volume = by_name(data)["well/3.npy"][..., 0]
    expected = np.rint((scan(8).astype(float) - low) * 255 / (high - low)).clip(0, 255)
    assert np.abs(volume - expected).max() <= 1
    assert "a cyst" in data.train["text"] + data.held_out["text"]


def test_an_outlier_among_voxels_or_volumes_does_not_darken_the_others(tmp_path: Path) -> None:
    folder = scans(tmp_path / "d", 30)
    spike = scan(0).astype(np.float32)
    spike[0, 0, 0] = 1e9
    np.save(folder / "0.npy", spike)
    np.save(folder / "1.npy", scan(1).astype(np.float32) * 1e6)
    data = rv.open_data(folder, medium="volume")
    assert data.provenance["intensities"][1] < 2500
    assert "what is beyond it in" in by_kind(data)["intensities"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 7, 255], np.uint8), [0, 7, 255]),  # 8 bits stay
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([-1.0, 0.0, 1.0]), [0, 128, 255]),
        (np.array([np.nan, 0.0, 1.0]), [0, 0, 255]),
    ],
)
def test_usual_ranges_are_kept(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    for seed in range(8):
        volume = np.random.default_rng(seed).choice(values, (4, 4, 4))
        volume.flat[:3] = values
        np.save(tmp_path / f"{seed}.npy", volume)
    data = rv.open_data(tmp_path, medium="volume")
    assert by_name(data)["3.npy"].flat[:3].tolist() == expected
    assert ("not-finite" in by_kind(data)) == bool(np.isnan(values.astype(float)).any())


def test_other_shapes_are_cropped_and_padded_about_their_centres_and_counted(tmp_path: Path) -> None:
    folder = scans(tmp_path / "d")
    np.save(folder / "large.npy", np.pad(scan(50), 2, constant_values=0))
    np.save(folder / "flat.npy", scan(51, (2, 8, 8)))
    data = rv.open_data(folder, medium="volume")
    assert data.spec.shape == (6, 8, 8)
    assert "volumes of 2x8x8 to 10x12x12 to 6x8x8 (1 cropped, 1 padded" in by_kind(data)["mixed-sizes"]
    assert np.array_equal(centred(np.pad(scan(50), 2), (6, 8, 8), 0), scan(50))
    assert centred(np.ones((2, 3)), (4, 2), -1).tolist() == [[-1, -1], [1, 1], [1, 1], [-1, -1]]
    assert rv.open_data(folder, medium="volume", size="4x6x8").spec.shape == (4, 6, 8)
    assert rv.open_data(folder, medium="volume", size=4).spec.shape == (4, 4, 4)
    with pytest.raises(UsageError, match="three extents"):
        rv.open_data(folder, medium="volume", size=(4, 4))


def test_provenance_reopens_volumes_and_other_data_is_scaled_by_the_same_range(tmp_path: Path) -> None:
    data = rv.open_data(scans(tmp_path / "d"), medium="volume", size=(4, 8, 8), held_out=0.3)
    record = json.loads(json.dumps(data.provenance))
    again = reopen(record)
    assert again.fingerprint == data.fingerprint and again.provenance == data.provenance
    other = scans(tmp_path / "other")
    for seed in range(10):
        np.save(other / f"{seed}.npy", scan(seed + 20) // 4)
    like = open_like(other, record)
    assert like.spec == data.spec and like.provenance["intensities"] == record["intensities"]
    asked = rv.open_data(other, medium="volume", low=-500, high=500)
    assert asked.provenance["intensities"] == [-500, 500] and "as requested" in by_kind(asked)["intensities"]


def test_files_that_are_no_volumes_are_skipped_and_said(tmp_path: Path) -> None:
    folder = scans(tmp_path / "d")
    np.save(folder / "image.npy", np.zeros((8, 8)))
    np.save(folder / "objects.npy", np.array([{"a": 1}] * 3), allow_pickle=True)
    np.save(folder / "words.npy", np.full((2, 2, 2), "a"))
    np.save(folder / "nan.npy", np.full((2, 2, 2), np.nan))
    (folder / "text.npy").write_text("no array")
    (folder / "empty.npy").touch()
    (folder / "cut.npy").write_bytes((folder / "1.npy").read_bytes()[:200])
    (folder / "copy.npy").write_bytes((folder / "9.npy").read_bytes())
    data = rv.open_data(folder, medium="volume")
    problems = {problem.file: problem for problem in data.report.problems}
    assert len(by_name(data)) == 10
    assert "Python objects" in problems["objects.npy"].action and "(8, 8)" in problems["image.npy"].action
    kinds = {name: problems[f"{name}.npy"].kind for name in ("words", "nan", "text", "empty", "cut")}
    assert kinds == {
        "words": "not-a-volume",
        "nan": "not-finite",
        "text": "not-a-volume",
        "empty": "zero-byte",
        "cut": "not-a-volume",
    }
    with pytest.raises(ReverieError, match=r"0 usable images.*medium='volume' reads \.npy files"):
        rv.open_data(folder)


@pytest.mark.parametrize("vanish", [False, True])
def test_volumes_that_change_or_vanish_while_they_are_decoded_are_an_error_once(tmp_path: Path, vanish: bool) -> None:
    path = scans(tmp_path / "d") / "3.npy"
    for file in path.parent.iterdir():
        os.utime(file, (10**9, 10**9))

    def alter(done: int, total: int, what: str) -> None:
        if what == "reading" and done == total:
            path.unlink()
            if not vanish:
                np.save(path, scan(60))
                os.utime(path, (10**9, 10**9))

    with pytest.raises(ReverieError, match=r"1 volume of .*d changed while the data was read, such as 3\.npy"):
        rv.open_data(path.parent, medium="volume", progress=alter)
    assert ("3.npy" in by_name(rv.open_data(path.parent, medium="volume"))) is not vanish


def test_channels_of_volumes_are_one_number(tmp_path: Path) -> None:
    for seed in range(8):
        np.save(tmp_path / f"{seed}.npy", np.random.default_rng(seed).integers(0, 256, (2, 4, 5, 6), np.uint8))
    data = rv.open_data(tmp_path, medium="volume")
    assert str(data.spec) == "4x5x6x2"
    stored = np.load(tmp_path / "3.npy")
    assert np.array_equal(by_name(data)["3.npy"], np.moveaxis(stored, 0, -1))
    np.save(tmp_path / "grey.npy", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(UsageError, match=r"volumes of \[1, 2\] channels"):
        rv.open_data(tmp_path, medium="volume")


def test_nifti_is_turned_to_one_orientation_and_its_voxels_are_told(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for seed in range(8):
        values = scan(seed).transpose(2, 1, 0)  # (X, Y, Z)
        affine = np.diag([1.0, 1.0, 2.5 if seed else 3.0, 1.0])
        if seed == 5:  # the same scan, stored from right to left
            values, affine[0, 0] = values[::-1], -1
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{seed}.nii{'.gz' * (seed % 2)}")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "1.nii.gz").read_bytes()[:60])
    values, spacing = read_volume(str(tmp_path / "5.nii.gz"))
    assert np.array_equal(values[..., 0], scan(5)) and spacing == [2.5, 1, 1]
    data = rv.open_data(tmp_path, medium="volume")
    assert len(by_name(data)) == 8 and "2 sizes of voxels, 2.5 x 1 x 1 to 3 x 1 x 1" in by_kind(data)["voxel-sizes"]
    assert {p.kind for p in data.report.problems if p.file == "cut.nii.gz"} == {"not-a-volume"}


def test_without_the_extra_nifti_names_the_command_that_installs_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "a.nii.gz").write_bytes(b"scan")
    with pytest.raises(ReverieError, match=r"1 needs-extra.*pip install 'reverie\[nifti\]'"):
        rv.open_data(tmp_path, medium="volume")
    with pytest.raises(ReverieError, match=r"medium='volume' reads \.nii\.gz files"):
        rv.open_data(tmp_path)


def test_a_single_npy_is_an_array_of_images_or_of_another_medium(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = rv.open_data(tmp_path / "images.npy")
    assert data.fingerprint == rv.open_data(images).fingerprint == reopen(data.provenance).fingerprint
    np.save(tmp_path / "clips.npy", images[:, None].repeat(4, 1))
    assert str(rv.open_data(tmp_path / "clips.npy", medium="video").spec) == "4x8x8x3"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([[1, 2], [3]], object), "Python objects, not numbers"),
        (b"no array", "cannot be read as .npy"),
        (b"", "cannot be read as .npy"),
        (np.zeros((3, 3)), "fits no medium"),
    ],
)
def test_an_npy_that_is_no_data_is_refused_with_the_reason(tmp_path: Path, content, message: str) -> None:
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ReverieError, match=message):
        rv.open_data(path)
