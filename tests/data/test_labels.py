"""Labels of arrays: numbers with gaps, signs, floats, bytes, indicators and lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_pictures import pixels
from torch.utils.data import DataLoader, TensorDataset

import reverie as rv
from reverie.core.errors import ReverieError

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


def actions(data, kind: str) -> list[str]:
    return [problem.action for problem in data.report.problems if problem.kind == kind]


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
    assert actions(some, "unlabelled") == ["used: 12 images with a negative number have no label"]
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
