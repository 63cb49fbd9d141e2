"""Tables beside images: several of them, those of published sets, columns that are used or said to be ignored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from small_pictures import fill, save

import reverie.data
from reverie.core.errors import UsageError
from reverie.data.naming import Columns
from reverie.data.types import Dataset

N = 12


def table(path: Path, header: str, row: Callable[[int], str | Iterable[str]], n: int = N) -> None:
    rows = [[text] if isinstance(text := row(i), str) else [*text] for i in range(n)]
    path.write_text("\n".join([header, *(line for lines in rows for line in lines)]) + "\n")


def actions(dataset: Dataset, file: str) -> list[tuple[str, str]]:
    return [(problem.kind, problem.action) for problem in dataset.report.problems if problem.file == file]


def test_two_tables_about_the_same_images_are_joined(tmp_path: Path) -> None:
    fill(tmp_path, N)
    table(tmp_path / "captions.csv", "filename,caption,year", lambda i: f"{i:04d}.png,a {i},1990")
    row = lambda i: f"{i:04d}.png,{'xy'[i % 2]},{i},{1990 + i % 3}"  # noqa: E731
    table(tmp_path / "labels.csv", "filename,label,score,year", row, 6)
    dataset = reverie.data(tmp_path)
    assert dataset.report.read_as == "images, 12; captions.csv about 12 images; labels.csv about 6 images"
    assert dataset.classes == ["x", "y"] and dataset.attributes == ["year", "score"]
    assert {*dataset.train["text"], *dataset.held_out["text"]} == {f"a {i}" for i in range(N)}
    assert actions(dataset, "labels.csv") == [
        ("table", "used: of 4 images earlier tables give another year; this counts")
    ]


def test_the_results_of_flickr30k_have_several_captions_and_no_attribute(tmp_path: Path) -> None:
    fill(tmp_path / "Images", N)
    row = lambda i: [f"{i:04d}.png| {k}| {k} discs , {i} ." for k in range(3)]  # noqa: E731
    table(tmp_path / "results.csv", "image_name| comment_number| comment", row)
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == [] and {len(several) for several in dataset.train["captions"]} == {3}
    assert actions(dataset, "results.csv") == [("table", "used: its fields are divided by bars")]
    assert actions(dataset, "comment_number")[0][0] == "ignored"


@pytest.mark.parametrize("header", ["image,caption", "name,caption"])
def test_a_text_file_with_the_header_of_a_table_is_one(tmp_path: Path, header: str) -> None:
    fill(tmp_path / "Images", N)
    table(tmp_path / "captions.txt", header, lambda i: [f"{i:04d}.png,a {i} , b", f"{i:04d}.png,c {i}"])
    dataset = reverie.data(tmp_path)
    if header == "image,caption":
        assert {len(several) for several in dataset.train["captions"]} == {2}
    else:
        assert dataset.train.get("text") is None and actions(dataset, "*.txt") == [("ignored", "ignored: 1 file")]


def test_columns_that_became_nothing_are_named_with_the_flag(tmp_path: Path) -> None:
    fill(tmp_path, N)
    table(tmp_path / "a.csv", "id,file_name,text,caption,breed,age", lambda i: f"{i},{i:04d}.png,t{i},c,pug,{i}")
    dataset = reverie.data(tmp_path)
    assert dataset.attributes == ["age"]
    assert actions(dataset, "a.csv") == [
        ("columns", "used: text as the text; so might be caption: columns='text=caption'"),
        ("ignored", "ignored: columns id, caption, breed; columns='label=caption' or columns='text=caption' uses one"),
    ]
    table(tmp_path / "a.csv", "id,file_name", lambda i: f"{i},{i:04d}.png")
    assert actions(reverie.data(tmp_path), "a.csv") == [("ignored", "ignored: columns id: it numbers the rows")]
    table(tmp_path / "a.csv", "id,file_name", lambda i: f"{i * 7 % 5},{i:04d}.png")
    assert reverie.data(tmp_path).attributes == ["id"]


def test_a_run_of_an_older_version_reads_its_tables_as_it_did(tmp_path: Path) -> None:
    fill(tmp_path, N)
    table(tmp_path / "captions.txt", "image,caption", lambda i: f"{i:04d}.png,a {i}")
    table(tmp_path / "a.csv", "id,file_name,comment", lambda i: f"{i},{i:04d}.png,good")
    table(tmp_path / "b.csv", "file_name,label", lambda i: f"{i:04d}.png,{'xy'[i % 2]}")
    before = reverie.data(tmp_path, columns=Columns(rules=1))
    assert before.attributes == ["id"] and before.classes == ["x", "y"] and before.train.get("text") is None
    assert "tables" not in before.provenance
    again = reverie.data.reopen(json.loads(json.dumps(before.provenance)))
    assert again.fingerprint == before.fingerprint and again.provenance == before.provenance
    now = reverie.data(tmp_path)
    assert now.attributes == [] and {len(several) for several in now.train["captions"]} == {2}
    again = reverie.data.reopen(json.loads(json.dumps(now.provenance)))
    assert again.fingerprint == now.fingerprint != before.fingerprint


def test_conditions_know_the_names_of_the_table_and_of_ours(tmp_path: Path) -> None:
    fill(tmp_path / "images", N)
    row = lambda i: f"{i:04d}.png,a {i},{'xy'[i % 4 == 0]},{i % 3 == 0}"  # noqa: E731
    table(tmp_path / "a.csv", "filename,caption,class,smiling", row)
    chosen = {
        "filename != 0003.png": N - 1,
        "file_name != images/0003.png": N - 1,
        "caption != 'a 3' and text != 'a 4'": N - 2,
        "class == x": 9,
        "smiling != true": 8,
        "smiling == 0": 8,
    }
    for condition, n in chosen.items():
        dataset = reverie.data(tmp_path, columns="label=class", where=condition)
        assert len(dataset.train) + len(dataset.held_out) == n, condition
    with pytest.raises(UsageError, match=r"has a column 'captoin'. Did you mean .caption.\?"):
        reverie.data(tmp_path, where="captoin == 1")


def test_a_bare_name_of_several_images_is_said_to_be_that(tmp_path: Path) -> None:
    for part, first in (("train", 0), ("test", 20)):
        for i in range(12):
            save(tmp_path / part / f"{i}.png", first + i)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,x\ntrain/1.png,y\n7777.png,y")
    actions = [problem.action for problem in reverie.data(tmp_path).report.problems if problem.kind == "bad-caption"]
    assert actions == [
        "skipped: row 2 names 0.png, of which there are 2, the first test/0.png: a path with folders says which; "
        "1 more row likewise"
    ]


def test_a_file_of_coco_is_about_the_folder_that_it_names(tmp_path: Path) -> None:
    for k, part in enumerate(("train2017", "val2017")):
        fill(tmp_path / part, N, first=0)
        for i in range(N):  # other pixels under the same names
            if k:
                (tmp_path / part / f"{i:04d}.png").unlink()
        images = [{"id": i, "file_name": f"{i:04d}.png"} for i in range(N)]
        words = [{"image_id": i, "caption": f"{part} {i}"} for i in range(N)]
        (tmp_path / "annotations").mkdir(exist_ok=True)
        content = json.dumps({"images": images, "annotations": words})
        (tmp_path / "annotations" / f"captions_{part}.json").write_text(content)
    for i, path in enumerate(fill(tmp_path / "other", N, first=50).iterdir()):
        path.rename(tmp_path / "val2017" / f"{i:04d}.png")
    (tmp_path / "other").rmdir()
    dataset = reverie.data(tmp_path)
    assert {text.split()[0] for text in dataset.train["text"]} == {"train2017"}
    assert {text.split()[0] for text in dataset.held_out["text"]} == {"val2017"} and not dataset.report.problems


# Layouts


def test_folders_below_classes_are_said_and_may_be_the_classes(tmp_path: Path) -> None:
    for k, name in enumerate(("animals/x", "animals/y", "plants/x")):
        fill(tmp_path / "data" / name, 6, first=10 * k)
    dataset = reverie.data(tmp_path)
    assert dataset.classes == ["animals", "plants"]
    assert actions(dataset, "*")[0] == (
        "layout",
        "used as the first line says; classes are the 2 folders of the first level (animals, plants); the 3 folders "
        "inside (animals/x, animals/y, plants/x) may be classes: layout='leaves' reads it so",
    )
    assert reverie.data(tmp_path, layout="leaves").classes == ["animals/x", "animals/y", "plants/x"]


def test_piles_are_named_by_their_folders(tmp_path: Path) -> None:
    for k, name in enumerate(("source/train", "source/val", "target/train", "target/val")):
        fill(tmp_path / name, 10, first=10 * k)
    title = "two piles, source/train 10 / target/train 10 / source/val 10 / target/val 10, unpaired"
    assert reverie.data(tmp_path).report.read_as == title


# Numbers


def test_missing_values_of_a_column_of_numbers_are_none_and_counted(tmp_path: Path) -> None:
    words = ["n/a", "", "NA", "nan", "-", "?"]
    fill(tmp_path, 24)
    row = lambda i: f"{i:04d}.png,{words[i] if i < 6 else i},{i % 2 == 0},{'FR' if i < 15 else 'NA'}"  # noqa: E731
    table(tmp_path / "a.csv", "file_name,age,smiling,country", row, 24)
    data = reverie.data(tmp_path)
    assert data.attributes == ["age", "smiling"]
    ages = {
        name: float(values[0])
        for split in (data.train, data.held_out)
        for name, values in zip(split.names, split["attributes"], strict=True)
    }
    assert [ages[f"{i:04d}.png"] for i in (0, 5, 6, 23)] == [0, 0, 6, 23]
    assert actions(data, "age") == [("missing-attribute", "used: 0 for 6 images without a value, the first 0000.png")]
    chosen = {"age != 7": 17, "age < 100": 18, "smiling == true": 12, "country == NA": 9}
    for condition, n in chosen.items():
        data = reverie.data(tmp_path, where=condition)
        assert len(data.train) + len(data.held_out) == n, condition
    before = reverie.data(tmp_path, columns=Columns(rules=2))
    assert before.attributes == [] and reverie.data.reopen(before.provenance).fingerprint == before.fingerprint


def test_a_column_of_nearly_only_numbers_says_what_is_none(tmp_path: Path) -> None:
    fill(tmp_path, 24)
    table(tmp_path / "a.csv", "file_name,age", lambda i: f"{i:04d}.png,{'twelve' if i in (3, 4) else i}", 24)
    action = "ignored: it is no attribute: 2 of 24 values are no numbers, the first 'twelve' of 0003.png"
    assert actions(reverie.data(tmp_path), "age") == [("ignored", action)]
    assert actions(reverie.data(tmp_path, where="age > 9"), "*")[0] == (
        "not-chosen",
        "left out as asked: age of 2 images, such as 'twelve', cannot be compared with '9': only numbers, and dates "
        "such as 2020-12-31, have an order",
    )


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (lambda i: f"{i},5", True),
        (lambda i: f"{i * 150:,}", False),  # of thousands, or of thousandths?
        (lambda i: f"1.{i:03d},25", False),
        (lambda i: f"{i}%", False),
        (lambda i: f"{i}_{i}", False),
    ],
)
def test_decimal_commas_are_read_where_they_can_be_nothing_else(
    tmp_path: Path, value: Callable[[int], str], numbers: bool
) -> None:
    fill(tmp_path, 24)
    table(tmp_path / "a.csv", "file_name;size", lambda i: f"{i:04d}.png;{value(i)}", 24)
    data = reverie.data(tmp_path)
    assert data.attributes == ["size"] * numbers
    if numbers:
        assert sorted(data.train["attributes"][:, 0])[0] % 1 == 0.5
        assert actions(data, "size") == [("table", "used: its numbers have decimal commas, such as 0,5")]
        chosen = reverie.data(tmp_path, where="size > 9.6")
        assert len(chosen.train) + len(chosen.held_out) == 14
    else:
        assert "size" in str(data.report.problems)


def test_dates_have_an_order(tmp_path: Path) -> None:
    fill(tmp_path, 24)
    table(tmp_path / "a.csv", "file_name,date", lambda i: f"{i:04d}.png,2020-{1 + i % 12:02d}-05", 24)
    data = reverie.data(tmp_path, where="date >= 2020-07-01")
    assert len(data.train) + len(data.held_out) == 12
    with pytest.raises(UsageError, match="date of 24 images, such as '2020-01-05', cannot be compared with '07/2020'"):
        reverie.data(tmp_path, where="date > 07/2020")


# Headers


@pytest.mark.parametrize(
    ("header", "row", "lines"),
    [
        (
            "# of 2024, by us\n# two lines\nfile_name,age",
            "{0:04d}.png,{0}",
            ["used: it begins with remarks, which are"],
        ),
        (
            "sep=;\nfile_name;age",
            "{0:04d}.png;{0}",
            ["used: it begins with remarks", "used: its fields are divided by"],
        ),
        ("file_name, age", '"{0:04d}.png", {0}', []),
        ("file_name,age,", "{0:04d}.png,{0},", []),
        ("file_name,age", "{0:04d}.png,{0},,", []),
        (",file_name,age", "{0},{0:04d}.png,{0}", ["ignored: a column without a name"]),
        ("file_name,age,age", "{0:04d}.png,x,{0}", ["used: the header has age several times; the last of them counts"]),
    ],
)
def test_odd_headers_are_read_and_what_is_lost_is_said(tmp_path: Path, header: str, row: str, lines: list[str]) -> None:
    fill(tmp_path, N)
    table(tmp_path / "a.csv", header, row.format)
    data = reverie.data(tmp_path)
    assert data.attributes == ["age"]
    assert [action[: len(line)] for (_, action), line in zip(actions(data, "a.csv"), lines, strict=True)] == lines


def test_captions_after_a_comma_and_a_blank_keep_theirs(tmp_path: Path) -> None:
    fill(tmp_path, N)
    table(tmp_path / "a.csv", "file_name, text", lambda i: f"{i:04d}.png, a dog, {i}")
    assert "a dog, 3" in reverie.data(tmp_path).train["text"]


def test_a_table_that_names_no_images_says_what_one_needs(tmp_path: Path) -> None:
    fill(tmp_path, N)
    (tmp_path / "a.csv").write_text("".join(f"{i:04d}.png,{i}\n" for i in range(N)))
    needs = "a table about images has a header, and a column of their files' names, such as file_name"
    assert actions(reverie.data(tmp_path), "*.csv") == [("ignored", f"ignored: 1 file; {needs}")]
