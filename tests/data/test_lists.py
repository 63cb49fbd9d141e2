"""Lists of images: splits, labels and captions, and what is neither and said."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reports import actions
from small_pictures import fill

import reverie.data
from reverie.data.annotations import Annotations
from reverie.data.lists import read_lists

N = 24
SENTENCES = ("A dog runs", "The cat sleeps on a mat", "Two birds fly")


def lists(folder: Path, row: Callable[[int], str]) -> Path:
    """24 images, and two lists of 18 and 6 lines of a name and something."""
    fill(folder, N)
    for name, rows in (("train", range(18)), ("test", range(18, N))):
        (folder / f"{name}.txt").write_text("\n".join(f"{i:04}.png {row(i)}" for i in rows))
    return folder


@pytest.mark.parametrize(
    "row",
    [
        lambda i: f"10,20,{30 + i % 2},40,0",
        lambda i: f"{i % 3 / 10}",
        lambda i: f"{i % 2}e-5",
        lambda i: f"{(i + 1) % N:04}.png 1",
        lambda i: f"{i % 3:04}.png",
        lambda i: "cat indoor" if i % 2 else "dog outdoor",
        lambda i: f"{i % 2} {i % 3}",
        lambda i: "cat" if i % 5 else "",
        lambda i: ("1", "-1")[i % 2],
    ],
)
def test_what_follows_the_names_in_lists_is_no_label_unless_it_is_one_word_on_every_line(
    tmp_path: Path, row: Callable[[int], str]
) -> None:
    data = reverie.data(lists(tmp_path, row))
    assert data.classes == [] and data.train.get("text") is None and len(data.held_out) == 6
    assert "is neither a label on every line nor a caption" in " ".join(actions(data, "table"))


def test_sentences_behind_the_names_in_lists_are_captions(tmp_path: Path) -> None:
    data = reverie.data(lists(tmp_path, lambda i: f"{SENTENCES[i % 3]} {i}"))
    for side in (data.train, data.held_out):
        for name, text in zip(side.names, side["text"], strict=True):
            assert text == f"{SENTENCES[int(name[:4]) % 3]} {int(name[:4])}"
    assert data.classes == [] and "used: captions, such as 'A dog runs 18'" in actions(data, "table")


def test_labels_of_lists_are_said_and_so_is_that_they_replace_those_of_folders(tmp_path: Path) -> None:
    data = reverie.data(lists(tmp_path / "a", lambda i: ("cat", "dog_1")[i % 2]))
    assert data.classes == ["cat", "dog_1"] and {*data.held_out.labels.tolist()} == {0, 1}
    assert actions(data, "table") == ["used: labels from test.txt, train.txt, such as cat"]
    for k, name in enumerate(("cat", "dog")):
        fill(tmp_path / "b" / name, 10, first=40 * k)
    names = [f"{name}/{40 * k + i:04}.png" for k, name in enumerate(("cat", "dog")) for i in range(10)]
    lines = [f"{name} {('hard', 'easy')[i % 2]}" for i, name in enumerate(names)]
    (tmp_path / "b" / "train.txt").write_text("\n".join(lines))
    data = reverie.data(tmp_path / "b")
    assert data.classes == ["easy", "hard"]
    assert "used: labels from train.txt, such as hard, instead of the folders' names" in actions(data, "table")
    (tmp_path / "b" / "metadata.csv").write_text("file_name,label\ncat/0000.png,x\n")
    data = reverie.data(tmp_path / "b")
    assert "x" in data.classes and "easy" not in data.classes
    assert "ignored: labels, such as hard; a table has labels, too" in actions(data, "table")


def test_a_list_of_labels_alone_is_no_list_of_images_called_by_numbers(tmp_path: Path) -> None:
    for i, path in enumerate(sorted(fill(tmp_path, N).iterdir())):
        path.rename(tmp_path / f"{i}.png")
    (tmp_path / "train_labels.txt").write_text("\n".join(str(i % 12) for i in range(18)))
    (tmp_path / "test_labels.txt").write_text("\n".join(str(i % 6 + 12) for i in range(18, N)))
    assert not actions(reverie.data(tmp_path), "table")


@pytest.mark.parametrize("name", ["test.txt", "list.txt"])
def test_four_fields_are_not_oxfords_pets_unless_the_numbers_agree_with_the_names(tmp_path: Path, name: str) -> None:
    for i, path in enumerate(sorted(fill(tmp_path, N).iterdir())):
        path.rename(tmp_path / f"shot_{i}.png")
    (tmp_path / name).write_text("\n".join(f"shot_{i} 3 {i} 7" for i in range(6)))
    data = reverie.data(tmp_path)
    assert data.classes == [] and len(data.train) > 12


def test_many_long_lists_take_little_time_and_memory() -> None:
    images = [f"a/b/{i:06}.png" for i in range(2000)]
    text = "\n".join(f"{name}\tword{i}" for i, name in enumerate(images))
    start = time.process_time()
    read_lists([f"train{k}.txt" for k in range(100)], images, lambda _: text, notes := Annotations())
    assert time.process_time() - start < 2 and not notes.rows


def test_images_in_thousands_of_folders_take_little_memory() -> None:
    images = [f"{'a/' * 4000}{i}.png" for i in range(12)]
    texts = {"train.txt": "\n".join(f"{i}.png" for i in range(8)), "test.txt": "a/a/8.png\na/9.png\n" + images[10]}
    assert read_lists(texts, images, texts.__getitem__, notes := Annotations())
    assert np.unique([*notes.splits.values()], return_counts=True)[1].tolist() == [3, 8]
