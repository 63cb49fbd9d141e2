"""Labels of arrays: numbers with gaps, signs, floats, bytes, indicators and lists."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from reports import actions
from small_pictures import pixels, save
from torch.utils.data import DataLoader, TensorDataset

import reverie as rv
from reverie.core.errors import ReverieError
from reverie.data.labels import label_value

COUNT = 24
IMAGES = np.stack([pixels(seed, 8, 8) for seed in range(COUNT)])
KEYS = {image.tobytes(): row for row, image in enumerate(IMAGES)}


def column(data, name: str) -> list:
    """A column of both splits, in the order of IMAGES."""
    rows = {}
    for split in (data.train, data.held_out):
        rows |= {KEYS[x.tobytes()]: value for x, value in zip(split["x"], split[name], strict=True)}
    return [rows[row] for row in range(COUNT)]


def named(data) -> list:
    """The class of each image by its name, None for none."""
    return [None if label < 0 else data.classes[label] for label in column(data, "label")]


def test_numbers_with_gaps_are_as_many_classes_as_there_are_numbers() -> None:
    numbers = np.array([3, 7, 250])[np.arange(COUNT) % 3]
    data = rv.open_data(IMAGES, labels=numbers)
    assert data.classes == ["3", "7", "250"] and named(data) == [str(n) for n in numbers]
    assert actions(data, "label-numbers") == ["used: 3 classes, named by their numbers: 3, 7, 250"]
    for equal in (numbers.astype(float), [int(n) for n in numbers], [np.int64(n) for n in numbers]):
        assert rv.open_data(IMAGES, labels=equal).fingerprint == data.fingerprint


def test_a_set_that_names_its_classes_keeps_their_numbers_where_some_are_missing() -> None:
    samples = TensorDataset(torch.from_numpy(IMAGES).permute(0, 3, 1, 2), torch.arange(COUNT) % 2 * 2)
    samples.classes = ["ant", "bee", "cat", "dog"]
    data = rv.open_data(samples)
    assert data.classes == samples.classes and set(column(data, "label")) == {0, 2}
    assert not actions(data, "label-numbers")


def test_minus_one_is_no_label_and_other_negative_numbers_are_classes() -> None:
    some = rv.open_data(IMAGES, labels=[-1, 0, 1, -100] * 6)
    assert named(some) == [None, "0", "1", None] * 6
    assert actions(some, "unlabelled") == ["used: no label for 12 images with a negative number"]
    for numbers in ([-2, -1, 0, 5], [-1, 1, 1, 1]):
        data = rv.open_data(IMAGES, labels=numbers * 6)
        assert data.classes == [str(n) for n in sorted({*numbers})] and named(data) == [str(n) for n in numbers * 6]
        assert actions(data, "label-numbers")


def test_bytes_are_text(tmp_path: Path) -> None:
    words = ["ant", "bée"] * 12
    expected = rv.open_data(IMAGES, labels=words, texts=words).fingerprint
    encoded = [word.encode() for word in words]
    for equal in (encoded, np.array(encoded)):
        data = rv.open_data(IMAGES, labels=equal, texts=equal)
        assert data.classes == ["ant", "bée"] and data.fingerprint == expected
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=np.array(encoded), texts=np.array(encoded))
    assert rv.open_data(tmp_path / "d.npz").fingerprint == expected


@pytest.mark.parametrize("kind", ["array", "list", "tensor", "loader"])
def test_one_hot_rows_are_labels(kind: str) -> None:
    table = np.eye(4, dtype=np.float32)[np.arange(COUNT) % 4]
    table[5] = 0
    loader = DataLoader(TensorDataset(torch.from_numpy(IMAGES).movedim(-1, 1), torch.from_numpy(table)), batch_size=5)
    labels = {"array": table, "list": table.tolist(), "tensor": torch.from_numpy(table)}
    data = rv.open_data(loader) if kind == "loader" else rv.open_data(IMAGES, labels=labels[kind])
    assert data.classes == ["0", "1", "2", "3"] and data.attributes == []
    assert named(data) == [None if row == 5 else str(row % 4) for row in range(COUNT)]
    assert actions(data, "labels")


def test_several_labels_an_image_are_attributes() -> None:
    lists = [["hat"], ["hat", "smile"], []] * 8
    table = np.array([[1, 0], [1, 1], [0, 0]] * 8)
    pairs = rv.open_data([(image, words) for image, words in zip(IMAGES, lists, strict=True)])
    for data in (rv.open_data(IMAGES, labels=lists), pairs):
        assert data.attributes == ["hat", "smile"] and data.classes == []
        assert (np.array(column(data, "attributes")) == table).all() and actions(data, "labels")
    numbers = rv.open_data(IMAGES, labels=[[3, 7], [7], [250, 3]] * 8)
    assert numbers.attributes == ["3", "7", "250"] and column(numbers, "attributes")[2].tolist() == [1, 0, 1]
    multi = rv.open_data(IMAGES, labels=table)
    assert multi.attributes == ["0", "1"] and (np.array(column(multi, "attributes")) == table).all()
    assert rv.open_data(IMAGES, labels=[["a"], ["b"]] * 12).classes == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        ([0.5, 1.0] * 12, r"label of row 0 is 0\.5; whole numbers or strings"),
        ([b"\xff"] * 24, "labels are not UTF-8"),
        (["\ud800", "b"] * 12, "label of row 0 is no text"),
        ([1, [2]] * 12, "a number or a name"),
        ([{"a": 1}] * 24, "label of row 0 is"),
        (np.full(24, 1j), "labels are complex128"),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(labels, hint: str) -> None:
    with pytest.raises(ReverieError, match=hint):
        rv.open_data(IMAGES, labels=labels)


def sources_of(folder: Path, values: list) -> dict[str, Path]:
    """The same labels as a table, JSON lines, shards and Parquet."""
    for name in ("csv", "jsonl"):
        for row in range(COUNT):
            save(folder / name / f"{row:02d}.png", row)
    rows = [{"file_name": f"{row:02d}.png", "label": value} for row, value in enumerate(values)]
    lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
    (folder / "csv" / "metadata.csv").write_text("\n".join(lines))
    (folder / "jsonl" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(folder / "d.tar", "w") as tar:
        for row, value in enumerate(values):
            image = (folder / "csv" / f"{row:02d}.png").read_bytes()
            for name, data in ((f"{row:02d}.png", image), (f"{row:02d}.cls", str(value).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    paths = {"csv": folder / "csv", "jsonl": folder / "jsonl", "shards": folder / "d.tar"}
    if find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        images = [(folder / "csv" / f"{row:02d}.png").read_bytes() for row in range(COUNT)]
        pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": values}), folder / "d.parquet")
        paths["parquet"] = folder / "d.parquet"
    return paths


@pytest.mark.parametrize(
    ("numbers", "classes", "none"),
    [([-1, 0, 1, -100], ["0", "1"], 12), ([-1, 1, 1, 1], ["-1", "1"], 0), ([-2, -1, 0, 5], ["-2", "-1", "0", "5"], 0)],
)
def test_every_source_has_the_same_rule_for_negative_numbers(
    tmp_path: Path, numbers: list[int], classes: list[str], none: int
) -> None:
    values = numbers * (COUNT // 4)
    expected = sorted(values.count(int(name)) for name in classes)
    for kind, path in sources_of(tmp_path, values).items():
        data = rv.open_data(path)
        counts = sorted(sum(both) for both in data.counts_of_classes().values())
        assert (sorted(data.classes), counts) == (sorted(classes), expected), kind
        line = [f"used: no label for {none} image{'s' * (none != 1)} with a negative number"] if none else []
        assert actions(data, "unlabelled") == line, kind


def test_a_table_of_names_has_no_label_at_minus_1_and_a_folder_of_that_name_is_a_class(tmp_path: Path) -> None:
    paths = sources_of(tmp_path / "d", ["cat", "dog", "-1", " "] * (COUNT // 4))
    for kind, path in paths.items():
        assert rv.open_data(path).classes == ["cat", "dog"], kind
    named = rv.open_data(IMAGES, labels=["cat", "dog", "-1", ""] * (COUNT // 4))
    assert named.classes == ["cat", "dog"]
    for row in range(COUNT):
        save(tmp_path / "e" / ("-1", "0", "1")[row % 3] / f"{row}.png", row)
    assert sorted(rv.open_data(tmp_path / "e").classes) == ["-1", "0", "1"]


def test_a_label_is_a_number_a_name_or_none() -> None:
    values = [None, "", "  ", float("nan"), 3, np.int64(3), 3.0, "3", 0.5, True, "cat", -1]
    plain = [None, None, None, None, 3, 3, 3, "3", "0.5", "True", "cat", -1]
    assert [label_value(value) for value in values] == plain
    assert [label_value(value, ["ant", "bee"]) for value in (0, 1, 2, -1)] == ["ant", "bee", 2, None]
    assert [label_value(value, numerals=True) for value in ("3", "-1", "3.5")] == [3, -1, "3.5"]


@pytest.mark.parametrize("word", ["#N/A", "NULL", "n/a", "nan"])
def test_words_of_tables_for_missing_values_are_no_label(tmp_path: Path, word: str) -> None:
    words = [("cat", "none", word)[i % 3] for i in range(12)]
    rows = [f"{save(tmp_path / 'x' / f'{i}.png', i).name},{words[i]}\n" for i in range(12)]
    (tmp_path / "x" / "labels.csv").write_text("file_name,label\n" + "".join(rows))
    data = rv.open_data(tmp_path)
    assert data.classes == ["cat", "none"] and actions(data, "unlabelled") == [
        f"used: no label for 4 images with {word}"
    ]
    assert [*data.train.labels].count(-1) + [*data.held_out.labels].count(-1) == 4
