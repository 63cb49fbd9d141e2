"""Columns of Parquet files."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_pictures import save

import reverie.data
from reverie.core.errors import UsageError


def test_columns_of_parquet_are_chosen(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [save(tmp_path / f"{seed}.png", seed).read_bytes() for seed in range(20)]
    others = [save(tmp_path / f"{seed}.png", seed, channels=1).read_bytes() for seed in range(20)]
    names = [f"breed {seed % 2}" for seed in range(20)]
    table = {"image": images, "depth": others, "label": [0, 1] * 10, "breed": names, "alt": [["a", "b"]] * 20}
    table["tags"] = [["hat"] * (seed % 2) + ["smile"] for seed in range(20)]
    parquet.write_table(arrow.table(table), tmp_path / "d.parquet")
    data = reverie.data(tmp_path / "d.parquet")
    assert data.classes == ["0", "1"] and data.spec.channels == 3
    assert [p.action for p in data.report.problems if p.kind == "columns"] == [
        "used: image as the image; so might be depth: columns='image=depth', as its mask: columns='mask=depth'"
    ]
    data = reverie.data(tmp_path / "d.parquet", columns="image=depth,label=breed,text=alt")
    assert data.classes == ["breed 0", "breed 1"] and data.spec.channels == 1 and ["a", "b"] in data.train["captions"]
    some = reverie.data(tmp_path / "d.parquet", where="breed == 'breed 1'")
    assert len(some.train) + len(some.held_out) == 10 and some.classes == ["1"]
    with pytest.raises(UsageError, match=r"has a column 'bred'. Did you mean .breed.\? Columns: alt, breed, file_name"):
        reverie.data(tmp_path / "d.parquet", where="bred == 1")
    data = reverie.data(tmp_path / "d.parquet", columns="label=tags")
    assert data.attributes == ["hat", "smile"] and data.train["attributes"][:, 1].all() and not data.classes
    with pytest.raises(UsageError, match=r"no column 'bred' \(label\). Did you mean .breed."):
        reverie.data(tmp_path / "d.parquet", columns="label=bred")
    with pytest.raises(UsageError, match=r"column 'breed' has no encoded images; these do: image, depth"):
        reverie.data(tmp_path / "d.parquet", columns="image=breed")
