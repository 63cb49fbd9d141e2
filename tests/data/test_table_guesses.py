"""Columns of tables and values of JSON that are labels, captions or names only where they can be nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reports import actions
from small_pictures import fill

import reverie.data
from reverie.data import words

N = 20
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def numbered(folder: Path, n: int = N) -> Path:
    """0.png, 1.png ..."""
    for i, path in enumerate(sorted(fill(folder, n).iterdir())):
        path.rename(folder / f"{i}.png")
    return folder


def write_csv(path: Path, *rows: str) -> None:
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize("image", ["file_name", "id"])
@pytest.mark.parametrize(
    ("values", "attribute"),
    [
        (("-1.5", "-2.5"), True),
        (("true", "false"), True),
        (("1e-5", "2e-5"), True),
        (("n/a", "3.5"), True),
        (("3,5", "4,5"), False),
        (("1,050", "2,000"), False),
        (("5%", "10%"), False),
        (("2020-01-01", "2021-05-06T10:00Z"), False),
    ],
)
def test_numbers_truths_dates_and_shares_are_no_classes(
    tmp_path: Path, image: str, values: tuple[str, str], attribute: bool
) -> None:
    fill(tmp_path, N)
    write_csv(tmp_path / "metadata.csv", f"{image},v", *(f'{i:04}.png,"{values[i % 2]}"' for i in range(N)))
    data = reverie.data(tmp_path)
    assert data.classes == [] and data.attributes == ["v"] * attribute
    assert attribute or "ignored: columns v" in actions(data, "ignored")[0]


def test_the_only_other_column_is_the_label_only_if_the_images_column_was_guessed_and_it_is_said(
    tmp_path: Path,
) -> None:
    fill(tmp_path, N)
    rows = [f"{i:04}.png,{('Ann', 'Bob')[i % 2]}" for i in range(N)]
    write_csv(tmp_path / "metadata.csv", "file_name,photographer", *rows)
    data = reverie.data(tmp_path)
    assert data.classes == [] and "ignored: columns photographer" in actions(data, "ignored")[0]
    write_csv(tmp_path / "metadata.csv", "id,photographer", *rows)
    data = reverie.data(tmp_path)
    assert data.classes == ["Ann", "Bob"]
    assert actions(data, "columns") == ["used: photographer as the label, the only other column"]
    write_csv(tmp_path / "metadata.csv", "id,mask", *(f"{i:04}.png,m{i % 2}.tif" for i in range(N)))
    assert reverie.data(tmp_path).classes == []


@pytest.mark.parametrize("name", ["class_names.json", "classes.csv"])
def test_numbers_of_classes_are_no_names_of_the_images_called_by_numbers(tmp_path: Path, name: str) -> None:
    numbered(tmp_path)
    if name.endswith(".json"):
        (tmp_path / name).write_text(json.dumps({str(i): label for i, label in enumerate(CLASSES)}))
    else:
        write_csv(tmp_path / name, "id,kind", *(f"{i},{('thing', 'animal')[1 < i < 8]}" for i in range(10)))
    data = reverie.data(tmp_path)
    assert data.classes == [] and data.train.get("text") is None and "about" not in data.report.read_as


def test_numbers_that_name_nearly_all_images_are_their_names(tmp_path: Path) -> None:
    numbered(tmp_path)
    write_csv(tmp_path / "classes.csv", "id,kind", *(f"{i},{('x', 'y')[i % 2]}" for i in range(19)))
    assert reverie.data(tmp_path).classes == ["x", "y"]


@pytest.mark.parametrize(
    ("value", "columns"),
    [
        (lambda i: f"a {i}", {"text": "a 3"}),
        (lambda i: [f"a {i}", "b"], {"text": "a 3"}),
        (lambda i: i % 2, {"label": "1"}),
        (lambda i: [1, 2, 3, 4], {}),
        (lambda i: 0.5 + i, {}),
        (lambda i: i > 3, {}),
        (lambda i: None, {}),
    ],
)
def test_of_the_values_in_json_texts_are_captions_and_whole_numbers_labels(
    tmp_path: Path, value: Any, columns: dict[str, str]
) -> None:
    fill(tmp_path, N)
    (tmp_path / "a.json").write_text(json.dumps({f"{i:04}.png": value(i) for i in range(N)}))
    data = reverie.data(tmp_path)
    side = next(side for side in (data.train, data.held_out) if "0003.png" in side.names)
    row = side.names.index("0003.png")
    assert (side["text"][row] if side.get("text") else None) == columns.get("text")
    assert (data.classes[side.labels[row]] if data.classes else None) == columns.get("label")
    assert columns or f"ignored: 20 values, such as {value(0)!r}" in actions(data, "ignored")


def test_json_that_begins_without_an_image_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, N)
    monkeypatch.setattr(words, "read_objects", None)
    (tmp_path / "log.json").write_text(json.dumps([{"step": i, "name": "größer"} for i in range(4000)]))
    assert actions(reverie.data(tmp_path), "ignored") == ["ignored: 1 file"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_long_json_is_recognised_by_its_first_bytes_and_has_a_limit(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, N)
    rows = [{"image": f"{i:04}.png", "text": "ü🖼" * 3000} for i in range(N)]
    (tmp_path / "a.json").write_bytes(json.dumps(rows, ensure_ascii=False).encode(encoding))
    assert reverie.data(tmp_path).train["text"][0][:2] == "ü🖼"
    monkeypatch.setattr("reverie.data.tables.LARGEST_JSON", 1 << 17)
    data = reverie.data(tmp_path)
    assert data.train.get("text") is None and actions(data, "ignored") == ["ignored: a table in JSON of over 0 MiB"]


@pytest.mark.parametrize(("delimiter", "attributes"), [(";", ["v"]), ("\t", ["v"]), (",", []), ("|", [])])
def test_commas_are_of_decimals_only_in_tables_divided_by_semicolons_or_tabs(
    tmp_path: Path, delimiter: str, attributes: list[str]
) -> None:
    fill(tmp_path, N)
    row = lambda *fields: delimiter.join(fields)  # noqa: E731
    rows = [row(f"{i:04}.png", f'"{("1,2", "3", "2,4")[i % 3]}"') for i in range(N)]
    write_csv(tmp_path / "a.csv", row("file_name", "v"), *rows)
    assert reverie.data(tmp_path).attributes == attributes


def test_of_columns_with_and_without_a_blank_the_exact_name_counts(tmp_path: Path) -> None:
    fill(tmp_path, N)
    for header in ('file_name,"file_name ",age', '"file_name ",file_name,age'):
        at = header.index('"') > 0
        rows = [(f"{i:04}.png,7,{i}", f"7,{i:04}.png,{i}")[not at] for i in range(N)]
        write_csv(tmp_path / "metadata.csv", header, *rows)
        assert reverie.data(tmp_path).attributes == ["file_name ", "age"]
