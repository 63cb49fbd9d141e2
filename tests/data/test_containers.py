"""Files that hold whole arrays are read as their formats say."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import fill, pixels

import reverie.data
from reverie.core.errors import ReverieError, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
LABELS = (np.arange(30) % 3).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    "names",
    [("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"), ("train-images.idx3-ubyte.gz", "t10k-images.idx3-ubyte")],
)
def test_idx_files_are_a_split_with_labels(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (slice(0, 20), slice(20, 30)), strict=True):
        for kind, data in (("images", IMAGES[rows]), ("labels", LABELS[rows])):
            path = tmp_path / name.replace("images", kind).replace("idx3", "idx3" if kind == "images" else "idx1")
            path.write_bytes(gzip.compress(idx(data)) if name.endswith(".gz") else idx(data))
    dataset = reverie.data(tmp_path)
    assert (dataset.train["x"][..., 0] == IMAGES[:20]).all() and (dataset.held_out["x"][..., 0] == IMAGES[20:]).all()
    assert dataset.classes == ["0", "1", "2"] and dataset.held_out.labels.tolist() == LABELS[20:].tolist()
    assert reverie.data.reopen(dataset.provenance).fingerprint == dataset.fingerprint


def test_a_damaged_idx_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES)[:-5])
    with pytest.raises(ReverieError, match="train-images-idx3-ubyte cannot be read as an idx file"):
        reverie.data(tmp_path)


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar_binaries_have_their_classes_and_their_split(tmp_path: Path, labels: int) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)
    records = np.concatenate(
        [np.full((30, labels - 1), 99, np.uint8), LABELS[:, None], colours.transpose(0, 3, 1, 2).reshape(30, -1)], 1
    )
    train, test, names = {1: ("data_batch_1", "test_batch", "batches.meta"), 2: ("train", "test", "fine_label_names")}[
        labels
    ]
    (tmp_path / f"{train}.bin").write_bytes(records[:20].tobytes())
    (tmp_path / f"{test}.bin").write_bytes(records[20:].tobytes())
    (tmp_path / f"{names}.txt").write_text("ant\nbee\ncat\n\n")
    dataset = reverie.data(tmp_path)
    assert (dataset.train["x"] == colours[:20]).all() and dataset.classes == ["ant", "bee", "cat"]
    assert dataset.train.labels.tolist() == LABELS[:20].tolist() and len(dataset.held_out) == 10
    (tmp_path / f"{train}.bin").write_bytes(records[:20].tobytes()[:-1])
    with pytest.raises(ReverieError, match="cut short"):
        reverie.data(tmp_path)


def test_hdf5_is_read_by_the_names_of_npz(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["set/images"], file["set/labels"] = IMAGES, LABELS
        file["set/captions"] = [f"image {i}" for i in range(30)]
    dataset = reverie.data(tmp_path / "d.h5")
    assert dataset.classes == ["0", "1", "2"] and dataset.train["text"][0].startswith("image ")
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["x_train"], file["x_test"] = IMAGES[:20], IMAGES[20:]
    split = reverie.data(tmp_path / "s.h5")
    assert (split.train["x"][..., 0] == IMAGES[:20]).all() and len(split.held_out) == 10
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file["pictures"] = IMAGES
    with pytest.raises(ReverieError, match=r"it has pictures \(30, 8, 8\)"):
        reverie.data(tmp_path / "o.h5")
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ReverieError, match="cannot be read as HDF5"):
        reverie.data(tmp_path / "bad.h5")


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_files_with_images_have_labels_captions_and_the_split_of_their_names(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    note = {"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}
    for name, seeds in (("train-00000-of-00001", range(20)), ("test-00000-of-00001", range(20, 26))):
        rows = [
            {
                "image": {"bytes": encoded(i), "path": f"{i}.png"},
                "label": i % 2,
                "caption": [f"a {i}", f"b {i}"],
                "id": i,
            }
            for i in seeds
        ]
        table = arrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(note)})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=7)
    dataset = reverie.data(tmp_path)
    assert (len(dataset.train), len(dataset.held_out), dataset.classes) == (20, 6, ["ant", "bee"])
    for name, image, label, texts in zip(
        dataset.train.names, dataset.train["x"], dataset.train.labels, dataset.train["captions"], strict=True
    ):
        i = int(name.rpartition("/")[2])
        assert (image == pixels(i)).all() and label == i % 2 and texts == [f"a {i}", f"b {i}"]
    assert reverie.data(tmp_path / "train-00000-of-00001.parquet").report.usable == 20
    parquet.write_table(arrow.table({"n": [1, 2]}), tmp_path / "x.parquet")
    with pytest.raises(ReverieError, match="no column of encoded images; its columns are n"):
        reverie.data(tmp_path / "x.parquet")


def test_an_lmdb_gives_its_images(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "d"), map_size=1 << 24) as environment, environment.begin(write=True) as writing:
        for i in range(12):
            writing.put(f"{i:04d}".encode(), encoded(i))
        writing.put(b"length", b"12")
    dataset = reverie.data(tmp_path / "d")
    assert dataset.report.usable == 12 and ("*", "ignored") in {(p.file, p.kind) for p in dataset.report.problems}


def test_explain_says_what_a_folder_of_arrays_or_shards_and_a_tar_are_read_as(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 4, 4), np.uint8))
    with pytest.raises(UsageError):
        reverie.data.explain(tmp_path / "a.npy")
    fill(tmp_path / "d" / "cat", 5)
    fill(tmp_path / "d" / "dog", 5, first=5)
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        archive.add(tmp_path / "d", ".")
    assert reverie.data.explain(tmp_path / "d.tar") == reverie.data.explain(tmp_path / "d")
    (tmp_path / "s").mkdir()
    shutil.copy(tmp_path / "d.tar", tmp_path / "s" / "0.tar")
    assert reverie.data.explain(tmp_path / "s")[0] == ("WebDataset shards", "yes", "it has 0.tar")


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [
        ("a.zip", "gzip/emnist-digits-train-images-idx3-ubyte.gz", "MNIST's idx files .*: unpack it"),
        ("a.tar.gz", "stl10_binary/train_X.bin", "STL-10's binary files .*: unpack it"),
        ("a.tar", "d/x.parquet", "Parquet files .*: unpack it"),
        ("a.tar.gz", "cifar-10-batches-py/data_batch_1", "Python pickles .*binary version"),
    ],
)
def test_archives_of_files_of_arrays_are_refused_with_what_to_do(
    tmp_path: Path, name: str, member: str, message: str
) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, b"x")
    else:
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as tar:
            tar.addfile(tarfile.TarInfo(member))
    with pytest.raises(ReverieError, match=message):
        reverie.data(path)


def test_a_file_of_another_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(UsageError, match=r"scipy\.io\.loadmat"):
        reverie.data(tmp_path / "train_32x32.mat")
