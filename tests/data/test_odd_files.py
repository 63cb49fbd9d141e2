"""What generated layouts and junk brought to light: odd tables, doubles, files beside others of another kind."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from container_cases import tar
from layout_cases import encoded
from PIL import Image
from reports import kinds
from small_pictures import fill, pixels

import reverie.data
from reverie.core.errors import ReverieError, UsageError
from reverie.data import originals, shards
from reverie.data.classes import index_labels
from reverie.data.items import natural_key
from reverie.data.words import decode_text

# Words and labels


def test_utf16_without_a_mark_and_with_few_zeros_is_read_where_it_is_no_utf8() -> None:
    text = "写真 🖼\r\n"
    assert decode_text(text.encode("utf-16-le")) == (text, "read as UTF-16-LE")
    assert decode_text("déjà vu".encode("latin-1")) == ("déjà vu", "not UTF-8, read as Latin-1")


def test_numbers_of_any_length_and_form_have_one_order() -> None:
    names = ["10", "2", "02", "a10", "a2", "a", "b", "9" * 5000]
    order = ["02", "2", "10", "9" * 5000, "a", "a2", "a10", "b"]
    assert sorted(names, key=natural_key) == order
    assert sorted(["02", "2"], key=natural_key) == sorted(["2", "02"], key=natural_key)
    assert index_labels([*names, None])[1] == order


ODD_COCO = (
    {"images": [{"id": 1, "file_name": "0000.png"}], "annotations": [{"image_id": [], "category_id": {}}]},
    {"images": [{"id": {}, "file_name": "0000.png"}, 5], "annotations": [3], "categories": 4},
    {
        "images": [{"id": 1, "file_name": "0000.png"}],
        "annotations": [{"image_id": 1}],
        "categories": ["id", {"id": []}],
    },
)


@pytest.mark.parametrize("content", ODD_COCO, ids=range(len(ODD_COCO)))
def test_coco_with_values_of_other_types_is_read_as_far_as_it_goes(tmp_path: Path, content: dict) -> None:
    (fill(tmp_path, 8) / "odd.json").write_text(json.dumps(content))
    assert reverie.data(tmp_path).report.usable == 8


def test_a_category_of_coco_takes_the_place_of_a_tables_label(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    (tmp_path / "a.csv").write_text("file_name,label\n" + "\n".join(f"{i:04d}.png,cat" for i in range(8)))
    images = [{"id": i, "file_name": f"{i:04d}.png"} for i in range(8)]
    notes = [{"image_id": i, "category_id": 1} for i in range(8)]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "b.json").write_text(json.dumps(content))
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["dog"] and dataset.attributes == []


def test_captions_in_a_table_and_beside_the_image_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    (tmp_path / "metadata.csv").write_text("file_name,text\n" + "\n".join(f"{i:04d}.png,table" for i in range(8)))
    (tmp_path / "0003.txt").write_text("beside")
    dataset = reverie.data(tmp_path)
    assert {*dataset.train["text"]} == {"table"}
    assert [p.action for p in dataset.report.problems if p.kind == "bad-caption"] == [
        "used: 1 image with captions in a table and in a file beside; the table's count"
    ]


def test_a_list_about_no_image_is_ignored_and_no_more(tmp_path: Path) -> None:
    (fill(tmp_path, 8) / "list.txt").write_bytes("nobody".encode("utf-16"))
    assert kinds(reverie.data(tmp_path)) == {("*.txt", "ignored")}


def test_labels_of_dataset_json_that_are_none_are_lines_of_the_report(tmp_path: Path) -> None:
    fill(tmp_path / "00000", 8)
    rows = [[f"00000/{i:04d}.png", i % 2] for i in range(8)]
    rows += [["00000/0000.png", 1], ["00000/0001.png", {"a": 1}], ["00000/0002.png", [10**400]]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": rows}))
    dataset = reverie.data(tmp_path)
    actions = [p.action for p in dataset.report.problems if p.kind == "bad-caption"]
    assert ["repeats" in action for action in actions] == [True, True, False, True, False]
    assert dataset.classes == ["0", "1"] and len(dataset.train) + len(dataset.held_out) == 8


# Zips and tars


def test_doubles_links_and_hidden_files_of_a_tar_are_lines_of_the_report(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name in (*(f"{i}.png" for i in range(8)), "7.png", "._0.png"):
            data = encoded(int(name.strip("._png")))
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (("link.png", tarfile.SYMTYPE), ("folder", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.png"
            archive.addfile(info)
    dataset = reverie.data(tmp_path / "d.tar")
    expected = {("d.tar/7.png", "duplicate"), ("d.tar/._0.png", "hidden"), ("d.tar/link.png", "not-a-file")}
    assert kinds(dataset) == expected and dataset.report.usable == 8


def test_paths_in_a_zip_that_lead_out_of_it_are_so_called_and_drives_are_no_classes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("../../x.png", encoded(50))
        for i in range(16):
            archive.writestr(f"C:\\{'xy'[i % 2]}\\{i}.png" if i < 8 else f"{'xy'[i % 2]}/{i}.png", encoded(i))
    dataset = reverie.data(tmp_path / "d.zip")
    lines = [(problem.file, problem.action) for problem in dataset.report.problems if problem.kind == "hidden"]
    assert lines == [("../../x.png", "skipped: its path leads out of the zip")] and dataset.classes == ["x", "y"]


def test_a_file_that_a_tar_stores_in_pieces_is_skipped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for seed in range(9):
            data = encoded(seed)
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(data)
            if seed == 8:
                info.pax_headers = {"GNU.sparse.map": f"4096,{len(data)}", "GNU.sparse.size": str(4096 + len(data))}
            archive.addfile(info, io.BytesIO(data))
    dataset = reverie.data(tmp_path / "d.tar")
    assert dataset.report.usable == 8 and ("d.tar/8.png", "sparse") in kinds(dataset)


def test_names_that_are_printed_alike_are_numbered(tmp_path: Path) -> None:
    fill(tmp_path / "a", 8)
    fill(tmp_path / "b", 8, first=20)
    for name in ("a", "b"):
        files = {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())}
        (tmp_path / name / "s.tar").write_bytes(tar({f"{i}.png": data for i, data in enumerate(files.values())}))
    listing = shards.list_shards([tmp_path / name / "s.tar" for name in ("a", "b")])
    listing.number_equal_names()
    names = [item.name for item in listing.items]
    assert len({*names}) == 16 and names[0] == "s.tar/0.png" and "s.tar/0.png (2)" in names


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no undecodable names")
def test_the_original_of_an_undecodable_name_is_its_own(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    fill(tmp_path, 2, first=20)
    (tmp_path / "0020.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.png"))
    (tmp_path / "0021.png").rename(tmp_path / "a\\xff.png")
    dataset = reverie.data(tmp_path, held_out=0)
    for name, data, image in zip(
        dataset.train.names, originals(dataset, dataset.train), dataset.train["x"], strict=True
    ):
        assert (np.asarray(Image.open(io.BytesIO(data))) == image).all(), name


def test_the_later_file_of_a_name_in_a_zip_counts_and_it_is_said(tmp_path: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        warnings.simplefilter("ignore")
        for i in (*range(8), 7):
            archive.writestr(f"{i}.png", encoded(i))
    assert kinds(reverie.data(tmp_path / "d.zip")) == {("7.png", "duplicate")}


def test_a_tar_with_a_readme_is_a_folder_and_one_with_captions_can_be(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": encoded(10 * k + i) for k, name in enumerate(("cat", "dog")) for i in range(6)}
    (tmp_path / "a.tar").write_bytes(tar({**files, "README.txt": b"read me"}))
    dataset = reverie.data(tmp_path / "a.tar")
    assert dataset.classes == ["cat", "dog"] and ("*.txt", "ignored") in kinds(dataset)
    (tmp_path / "b.tar").write_bytes(tar(files | {"cat/0.txt": b"a cat"}))
    dataset = reverie.data(tmp_path / "b.tar")
    assert dataset.classes == [] and ("*", "layout") in kinds(dataset)
    dataset = reverie.data(tmp_path / "b.tar", layout="classes")
    assert dataset.classes == ["cat", "dog"] and dataset.summary()["captions"] == 1


def test_several_labels_in_a_shard_are_attributes(tmp_path: Path) -> None:
    files = {}
    for i in range(9):
        label = [["hat"], ["hat", "smile"], []][i % 3]
        files |= {f"{i}.png": encoded(i), f"{i}.json": json.dumps({"label": label}).encode()}
    (tmp_path / "d.tar").write_bytes(tar(files))
    dataset = reverie.data(tmp_path / "d.tar")
    assert dataset.attributes == ["hat", "smile"] and dataset.classes == []
    rows = zip(dataset.train.names, dataset.train["attributes"].tolist(), strict=True)
    assert all(row == [[1, 0], [1, 1], [0, 0]][int(name[6]) % 3] for name, row in rows)


def test_a_preview_beside_shards_or_parquet_files_is_no_data_set(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name in ("shards", "tables"):
        fill(tmp_path / name, 1)
    for k in range(2):
        files = {f"{i}.png": encoded(10 * k + i) for i in range(8)}
        (tmp_path / "shards" / f"{k}.tar").write_bytes(tar(files))
        rows = [{"image": {"bytes": data}} for data in files.values()]
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "tables" / f"{k}.parquet")
    (tmp_path / "tables" / "broken.parquet").write_bytes(b"PAR1")
    for name, extra in (("shards", set()), ("tables", {("broken.parquet", "unreadable")})):
        dataset = reverie.data(tmp_path / name)
        assert dataset.report.usable == 16 and kinds(dataset) == {("*.png", "ignored")} | extra
    with pytest.raises(UsageError, match="layout='classes' is for a folder, a zip or one tar, not for 2 shards"):
        reverie.data(tmp_path / "shards", layout="classes")


def test_a_webp_beyond_pillows_own_limit_is_skipped_by_its_header(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    data = bytearray(encoded(9, ".webp"))
    assert data[12:16] == b"VP8L"
    data[21:25] = b"\xff\xff\xff\x0f"  # 16384 x 16384
    (tmp_path / "bomb.webp").write_bytes(data)
    assert kinds(reverie.data(tmp_path)) == {("bomb.webp", "decompression-bomb")}


# Arrays


def test_arrays_by_position_are_images_and_labels_and_others_are_said_to_be_ignored(tmp_path: Path) -> None:
    x = np.stack([pixels(i) for i in range(12)])
    np.savez(tmp_path / "adm.npz", x, np.arange(12) % 3)
    assert reverie.data(tmp_path / "adm.npz").classes == ["0", "1", "2"]
    np.savez(tmp_path / "logits.npz", x, np.linspace(0, 1, 12), weights=np.zeros(3))
    dataset = reverie.data(tmp_path / "logits.npz")
    assert dataset.classes == [] and "arrays weights, arr_1" in dataset.report.problems[0].action


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_files_beside_idx_files_are_reported_and_a_layout_reads_them(tmp_path: Path) -> None:
    fill(tmp_path / "previews", 8)
    grey = np.stack([pixels(i, channels=1)[..., 0] for i in range(12)])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(grey))
    assert kinds(reverie.data(tmp_path)) == {("*.png", "ignored")}
    assert reverie.data(tmp_path, layout="images").report.usable == 8
    packed = bytearray(gzip.compress(idx(grey)))
    packed[10] ^= 255
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed)
    with pytest.raises(ReverieError, match="cannot be read as an idx file"):
        reverie.data(tmp_path)


def test_a_header_of_an_npy_that_is_no_python_is_a_reason(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((8, 4, 4), np.uint8))
    data = (tmp_path / "a.npy").read_bytes().replace(b"}", b"(")
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ReverieError, match=r"cannot be read as \.npy"):
        reverie.data(tmp_path / "a.npy")
    with pytest.raises(ReverieError, match="not-a-volume"):
        reverie.data(tmp_path, medium="volume")
