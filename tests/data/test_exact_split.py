"""test/ and val/ of a folder: together held out, and each alone by its name."""

from __future__ import annotations

from pathlib import Path

from small_pictures import fill

import reverie as rv
from reverie.data import reopen


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


def test_a_run_that_took_both_for_test_opens_both_again(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "val", "test")
    both = rv.open_data(f"{folder}:held_out")
    older = both.provenance | {"source": f"{folder}:test"}
    assert reopen(older).fingerprint == both.fingerprint


def test_of_one_held_out_folder_every_name_is_that_folder(tmp_path: Path) -> None:
    folder = source(tmp_path / "d", "train", "test")
    prints = {rv.open_data(f"{folder}:{part}").fingerprint for part in ("held_out", "test", "val")}
    assert len(prints) == 1
