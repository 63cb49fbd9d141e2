"""Captions and tables out of all proportion: too long, about nothing, with many odd rows, with values that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import actions
from small_pictures import fill

import reverie as rv
from reverie.data import items
from reverie.data.captions import Captions
from reverie.data.tree import of_folder


def rows_of(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_caption_file_of_over_a_mebibyte_is_not_read(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    names = sorted(path.stem for path in tmp_path.iterdir())
    for name in names:
        (tmp_path / f"{name}.txt").write_text("short")
    with (tmp_path / f"{names[0]}.txt").open("ab") as handle:
        handle.truncate(2 << 20)
    data = rv.open_data(tmp_path)
    assert actions(data, "bad-caption") == ["skipped: over 1 MiB of text"]


def test_an_image_file_of_over_the_limit_is_not_read(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path, 10)
    (tmp_path / "x.png").write_bytes(bytes(1 << 20))
    monkeypatch.setattr("reverie.data.intake.LARGEST_IMAGE", (1 << 20) - 1)
    assert actions(rv.open_data(tmp_path), "too-large")[0].startswith("skipped: the file has")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_of_a_large_table_about_something_else_only_the_first_rows_are_read(tmp_path, monkeypatch, ending) -> None:
    fill(tmp_path, 10)
    line = {"csv": "a,b,c\n", "jsonl": '{"a": 1, "b": 2}\n'}[ending]
    (tmp_path / f"x.{ending}").write_text(line * 100_000)
    sizes = []
    head = items.File.head
    monkeypatch.setattr(items.File, "head", lambda file, size: sizes.append(size) or head(file, size))
    monkeypatch.setattr(Captions, "_rows_of", lambda *_: pytest.fail("it is read completely"))
    Captions(of_folder(tmp_path).files, [])
    assert sizes == [items.HEADER]


def test_a_large_table_about_images_is_read_completely(tmp_path: Path) -> None:
    fill(tmp_path, 300)
    names = sorted(path.name for path in tmp_path.iterdir())
    text = "é" * 1500
    for encoding in ("utf-8", "utf-16-le"):
        table = "file_name,text\n" + "".join(f"{name},{text} {i}\n" for i, name in enumerate(names))
        (tmp_path / "words.csv").write_bytes(table.encode(encoding))
        rows = Captions(of_folder(tmp_path).files, []).rows
        assert rows[names[299]]["text"] == [f"{text} 299"]


def test_rows_about_no_image_are_one_line_of_the_report(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    names = sorted(path.name for path in tmp_path.iterdir())
    rows_of(tmp_path / "metadata.jsonl", [{"file_name": name, "text": "a"} for name in [*names, *"abcdefgh"]])
    (action,) = actions(rv.open_data(tmp_path), "bad-caption")
    assert action == "skipped: row 11 names a, which does not exist; 7 more rows likewise"


def test_many_captions_of_one_image_are_each_looked_at_once(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    name = min(path.name for path in tmp_path.iterdir())
    rows_of(tmp_path / "metadata.jsonl", [{"file_name": name, "text": f"{i % 5_000}"} for i in range(10_000)])
    assert Captions(of_folder(tmp_path).files, []).rows[name]["text"] == [str(i) for i in range(5_000)]


def test_values_that_are_none_are_neither_captions_nor_attributes(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    names = sorted(path.name for path in tmp_path.iterdir())
    labels = [float("nan"), -1, ["hat", "smile"], ["hat"], [], ["smile", float("nan")], ["hat", -1]]
    texts = [float("nan"), ["a", float("nan")]]
    rows = [{"file_name": n, "label": labels[i % 7], "text": texts[i % 2]} for i, n in enumerate(names)]
    rows_of(tmp_path / "metadata.jsonl", rows)
    data = rv.open_data(tmp_path, held_out=0)
    assert data.attributes == ["hat", "smile"] and {*data.train["text"]} == {"", "a"}


@pytest.mark.parametrize("written", ["regions\\{}", "./regions/{}", "regions/{}"])
def test_masks_that_a_table_names_in_another_spelling_are_masks(tmp_path: Path, written: str) -> None:
    fill(tmp_path / "photos", 12)
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    (tmp_path / "regions").mkdir()
    for name in names[1:]:
        Image.fromarray(np.eye(24, dtype=np.uint8) * 255).resize((24, 24)).save(tmp_path / "regions" / name)
    rows_of(tmp_path / "m.jsonl", [{"file_name": f"photos/{n}", "mask": written.format(n)} for n in names])
    data = rv.open_data(tmp_path)
    assert data.summary()["masks"] == 11 and not data.classes
    assert any("1 that a table names do not exist, the first: " in action for action in actions(data, "no-mask"))
