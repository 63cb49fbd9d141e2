"""test/ and val/ of a folder: together held out, and each alone by its name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import fill, pixels, save

import reverie as rv
from reverie.data import reopen
from reverie.data.naming import Columns
from reverie.data.sources import originals

PARTS = {"train": range(20), "val": range(100, 109), "test": range(200, 212)}


def source(root: Path, *parts: str) -> str:
    for k, part in enumerate(parts):
        fill(root / part, 10 + k, first=100 * k)
    return str(root)


def names(data: rv.data.Dataset) -> set[str]:
    return {name.split("/")[0] for split in (data.train, data.held_out) for name in split.names}


def test_test_and_val_are_each_alone_by_their_name_and_together_held_out(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "val", "test")
    data = rv.open_data(folder)
    assert len(data.held_out) == 23 and data.report.read_as == "images, 33, train 10 / test 12 / val 11 held out"
    for part in ("test", "val"):
        alone = rv.open_data(f"{folder}:{part}")
        assert names(alone) == {part} and alone.report.read_as.endswith(f"; {part} alone")
        assert reopen(alone.provenance).fingerprint == alone.fingerprint
    assert names(rv.open_data(f"{folder}:held_out")) == {"test", "val"}


@pytest.mark.parametrize("words", ["cars_{}", "2017-{}", "toy {}", "{}_images"])
def test_test_and_val_are_each_alone_where_other_words_stand_beside_them(tmp_path: Path, words: str) -> None:
    folder = source(tmp_path / "d", *(words.format(part) for part in ("train", "val", "test")))
    for part in ("test", "val"):
        assert names(rv.open_data(f"{folder}:{part}")) == {words.format(part)}
    assert len(names(rv.open_data(f"{folder}:held_out"))) == 2


@pytest.mark.parametrize("name", ["{}.csv", "labels_{}.csv", "{}.jsonl"])
def test_tables_named_by_splits_divide_their_images_and_a_held_out_one_counts(tmp_path: Path, name: str) -> None:
    fill(tmp_path, 20)
    for part, numbers in (("train", range(13)), ("val", range(12, 20))):
        rows = [{"image": f"{i:04}.png", "caption": f"picture {i}"} for i in numbers]
        lines = [json.dumps(row) for row in rows] if ".jsonl" in name else [",".join(row.values()) for row in rows]
        text = "\n".join(["image,caption"] * (".csv" in name) + lines)
        (tmp_path / name.format(part)).write_text(text, encoding="utf-8")
    data = rv.open_data(tmp_path)
    assert {*data.held_out.names} == {f"{i:04}.png" for i in range(12, 20)}
    assert data.report.read_as.endswith(", train 12 / val 8")
    assert reopen(data.provenance).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    "folders",
    [
        ("cat/train", "cat/test"),
        ("cats_train", "cats_test", "dogs_train", "dogs_test"),
        ("train_1", "train_2", "test_1", "test_2"),
    ],
)
def test_folders_named_by_splits_that_are_no_split_are_said(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for k, folder in enumerate((*folders, "dog/train", "dog/test")[: max(len(folders), 4)]):
        fill(tmp_path / folder, 8, first=20 * k)
    action = next(problem.action for problem in rv.open_data(tmp_path).report.problems if problem.kind == "no-split")
    assert "train/ and test/ above all classes" in action and f"{folders[0]}/" in action


def test_a_table_that_contradicts_the_folders_counts_and_is_said(tmp_path: Path) -> None:
    rows = []
    for part, first in (("train", 0), ("test", 100)):
        fill(tmp_path / part, 10, first=first)
        rows += [f"{part}/{first + i:04}.png,{'test' if i < 5 else 'train'}" for i in range(10)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split", *rows]))
    report = rv.open_data(tmp_path).report
    assert report.read_as == "images, 20; metadata.csv about 20 images, train 10 / test 10"
    assert any("the folders of 10 images are contrary" in problem.action for problem in report.problems)


def test_a_run_that_took_both_for_test_opens_both_again(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "val", "test")
    both = rv.open_data(f"{folder}:held_out")
    older = both.provenance | {"source": f"{folder}:test"}
    assert reopen(older).fingerprint == both.fingerprint


def test_of_one_held_out_folder_every_name_is_that_folder(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "test")
    prints = {rv.open_data(f"{folder}:{part}").fingerprint for part in ("held_out", "test", "val")}
    assert len(prints) == 1


# The same where tables, shards, Parquet files and arrays divide the images


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def table(root: Path, column: str = "split") -> str:
    lines = [f"file_name,{column}"]
    for part, seeds in PARTS.items():
        for seed in seeds:
            save(root / f"{seed:04d}.png", seed)
            lines.append(f"{seed:04d}.png,{part.title()}")
    (root / "metadata.csv").write_text("\n".join(lines))
    return str(root)


def shards(root: Path, name: str = "x-{}-0000.tar") -> str:
    for part, seeds in PARTS.items():
        path = root / name.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for seed in seeds:
                for ending, data in (("png", encoded(seed)), ("txt", b"a word")):
                    entry = tarfile.TarInfo(f"{seed:04d}.{ending}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return str(root)


def parquet(root: Path, name: str = "{}-0000.parquet") -> str:
    arrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    for part, seeds in PARTS.items():
        (path := root / name.format(part)).parent.mkdir(parents=True, exist_ok=True)
        write(arrow.Table.from_pylist([{"image": {"bytes": encoded(i), "path": ""}, "age": i} for i in seeds]), path)
    return str(root)


def arrays(root: Path) -> str:
    root.mkdir()
    np.savez(root / "d.npz", **{f"x_{part}": np.stack([*map(pixels, seeds)]) for part, seeds in PARTS.items()})
    return str(root / "d.npz")


def hdf5(root: Path) -> str:
    h5py = pytest.importorskip("h5py")
    root.mkdir()
    with h5py.File(root / "d.h5", "w") as file:
        for part, seeds in PARTS.items():
            file[f"{part}_images"] = np.stack([*map(pixels, seeds)])
    return str(root / "d.h5")


@pytest.mark.parametrize("write", [table, shards, parquet, arrays, hdf5])
def test_test_and_val_of_every_source_are_each_alone_by_their_name(
    tmp_path: Path, write: Callable[[Path], str]
) -> None:
    where = write(tmp_path / "d")
    complete = rv.open_data(where)
    together = 12 if write in (arrays, hdf5) else 21
    assert (len(complete.train), len(complete.held_out)) == (20, together)
    assert "train 20 / test 12" in complete.report.read_as.lower()
    for part, seeds in PARTS.items():
        alone = rv.open_data(f"{where}:{part}")
        images = {image.tobytes() for split in (alone.train, alone.held_out) for image in split["x"]}
        assert images == {pixels(seed).tobytes() for seed in seeds}
        again = reopen(json.loads(json.dumps(alone.provenance)))
        assert again.fingerprint == alone.fingerprint and len(originals(again, again.train)) == len(again.train)
    assert rv.open_data(f"{where}:held_out").report.usable == together


@pytest.mark.parametrize(
    ("write", "name"), [(shards, "{}/0.tar"), (parquet, "{}/0.parquet"), (parquet, "d_{}.parquet")]
)
def test_names_of_files_and_folders_say_the_split_anywhere(
    tmp_path: Path, write: Callable[..., str], name: str
) -> None:
    where = write(tmp_path, name)
    data = rv.open_data(where)
    assert (len(data.train), len(data.held_out)) == (20, 21)
    before = rv.open_data(where, columns=Columns(rules=2))
    assert len(before.train) != 20, "runs of older versions read them as one set"
    assert reopen(json.loads(json.dumps(before.provenance))).fingerprint == before.fingerprint != data.fingerprint


def test_conditions_see_the_rows_of_the_split_that_is_asked_for(tmp_path: Path) -> None:
    data = rv.open_data(f"{parquet(tmp_path)}:test", where="age >= 202")
    assert sorted(len(split) for split in (data.train, data.held_out)) == [1, 9]


def test_a_column_of_splits_leaves_out_other_words_and_keeps_the_held_out_copy(tmp_path: Path) -> None:
    table(tmp_path, "Data Set")
    save(tmp_path / "0300.png", 200), save(tmp_path / "0301.png", 301), save(tmp_path / "0302.png", 302)
    with (tmp_path / "metadata.csv").open("a") as file:
        file.write("\n0300.png,train\n0301.png,extra")
    data = rv.open_data(tmp_path)
    lines = [(problem.kind, problem.action) for problem in data.report.problems]
    assert ("outside-splits", "skipped: extra is neither training nor test (images: 1)") in lines
    assert ("outside-splits", "used: divided by content, as nothing says their split (images: 1)") in lines
    assert ("duplicate", "skipped: the same file as 0200.png") in lines and "0200.png" in data.held_out.names
    before = rv.open_data(tmp_path, columns=Columns(rules=2))
    assert {problem.action[:27] for problem in before.report.problems} >= {"ignored: columns Data Set; "}
    assert reopen(json.loads(json.dumps(before.provenance))).fingerprint == before.fingerprint


def test_a_column_of_other_words_is_no_split(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    (tmp_path / "a.csv").write_text("file_name,set\n" + "\n".join(f"{i:04d}.png,{'ab'[i % 2]}" for i in range(20)))
    data = rv.open_data(tmp_path)
    assert data.report.read_as == "images, 20; a.csv about 20 images" and data.report.counts() == {"ignored": 1}


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("train", "eval"), "train 15 / val 5"),
        (("Train", "dev"), "Train 15 / val 5"),
        (("training set", "test set"), "training 15 / test 5"),
    ],
)
def test_a_column_of_splits_has_more_words(tmp_path: Path, words: tuple[str, str], title: str) -> None:
    fill(tmp_path, 20)
    rows = [f"{i:04}.png,{words[i % 4 == 0]}" for i in range(20)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split", *rows]))
    data = rv.open_data(tmp_path)
    assert data.report.read_as.endswith(f", {title}") and len(data.held_out) == 5
    older = rv.open_data(tmp_path, columns=Columns(rules=2))
    assert older.report.read_as == "images, 20; metadata.csv about 20 images"


def test_a_column_of_a_splits_name_with_other_words_says_which_are_known(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    rows = [f"{i:04}.png,{('query', 'gallery')[i % 2]}" for i in range(20)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,split", *rows]))
    actions = [problem.action for problem in rv.open_data(tmp_path).report.problems]
    assert any("train and test, val, dev or eval" in action for action in actions)


def test_test_a_and_val_a_are_told_apart(tmp_path: Path) -> None:
    parts = ("trainA", "trainB", "valA", "valB", "testA", "testB")
    folder = source(tmp_path / "d", *parts)
    assert names(rv.open_data(f"{folder}:test")) == {"testA", "testB"}
    assert names(rv.open_data(f"{folder}:val")) == {"valA", "valB"}


def test_a_table_and_folders_may_divide_a_source_together(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "test")
    for i in range(10):
        save(tmp_path / "d" / "train" / f"more{i}.png", 300 + i)
    rows = [
        f"{path.name},{'val' if path.stem.startswith('more') else 'train'}" for path in Path(folder, "train").iterdir()
    ]
    Path(folder, "train", "metadata.csv").write_text("\n".join(["file_name,split", *rows]))
    assert len(rv.open_data(folder).train) == 10
    assert names(rv.open_data(f"{folder}:test")) == {"test"} and names(rv.open_data(f"{folder}:val")) == {"train"}


def test_a_split_that_a_source_does_not_have_is_said_in_the_first_line(tmp_path: Path) -> None:
    divided, undivided = source(tmp_path / "d", "train", "test"), source(tmp_path / "e", "", "x", "y", "z")
    assert rv.open_data(f"{divided}:val").report.read_as.endswith("; no val: its test")
    assert rv.open_data(f"{undivided}:test").report.read_as.endswith(
        "; nothing in it is named test: held out by content"
    )
    np.savez(tmp_path / "a.npz", **{f"x_{part}": np.stack([*map(pixels, PARTS[part])]) for part in ("train", "val")})
    data = rv.open_data(tmp_path / "a.npz:test")
    assert data.report.read_as == "arrays of an .npz, train 20 / val 9; no test: its val"
