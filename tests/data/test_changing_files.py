"""Files that change or vanish while a store is built are an error, and nothing is kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import everything
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import ReverieError
from reverie.data import decoding, store

CHANGES = {  # of what -> its folder, the images' folder, options, column
    "image": ("", "", {}, "x"),
    "source": ("A", "B", {"layout": "pairs"}, "source"),
    "mask": ("masks", "images", {"masks": "yes"}, "mask"),
}


@pytest.mark.parametrize("vanish", [False, True])
@pytest.mark.parametrize("which", [*CHANGES])
def test_files_that_change_or_vanish_while_a_store_is_built_are_an_error_and_nothing_is_kept(
    tmp_path: Path, reverie_home: Path, which: str, vanish: bool
) -> None:
    below, images, options, column = CHANGES[which]
    changing = fill(tmp_path / below, 12, channels=1)
    if images != below:
        fill(tmp_path / images, 12, channels=3)
    old = {path: path.read_bytes() for path in sorted(changing.glob("*.png"))[:3]}

    def change(done: int, total: int, what: str) -> None:
        if what == ("reading masks" if which == "mask" else "reading") and done == total:
            for k, path in enumerate(old):
                path.unlink() if vanish else save(path, 90 + k, channels=1)

    with pytest.raises(ReverieError, match=r"3 images of .* changed while the data was read"):
        reverie.data(tmp_path, progress=change, held_out=0, **options)
    assert not [path for path in reverie_home.glob("stores/*") if path.is_dir()]
    for path, data in old.items():
        path.write_bytes(data)
    first = reverie.data(tmp_path, held_out=0, **options)
    for path in changing.glob("*.png"):
        os.utime(path)
    assert len(first.train) == 12 and column in first.train
    assert everything(reverie.data(tmp_path, held_out=0, **options)) == everything(first)
    assert first.report.counts().get("no-mask", 0) == 0


def test_a_file_that_changes_before_it_is_decoded_again_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path = tmp_path / "d"
    tmp_path.mkdir()
    for i in range(12):
        Image.fromarray(pixels(i, channels=1)[..., 0].astype(np.uint16) * 16).save(tmp_path / f"{i}.png")
    again = decoding.to_one_range

    def change(*arguments):
        save(tmp_path / "3.png", 90, channels=1)
        return again(*arguments)

    monkeypatch.setattr(store, "to_one_range", change)
    with pytest.raises(ReverieError, match=r"1 image of .* changed while the data was read, such as 3\.png"):
        reverie.data(tmp_path)


def test_a_file_that_changes_without_its_size_and_time_is_an_error_once(tmp_path: Path) -> None:
    fill(tmp_path / "d", 12)
    for seed, path in enumerate(sorted((tmp_path / "d").iterdir())):
        Image.fromarray(pixels(seed)).save(path.with_suffix(".bmp"))
        path.unlink()
        os.utime(path.with_suffix(".bmp"), (10**9, 10**9))
    reverie.data(tmp_path / "d")
    path = tmp_path / "d" / "0004.bmp"
    Image.fromarray(pixels(77)).save(path)
    os.utime(path, (10**9, 10**9))
    with pytest.raises(ReverieError, match=r"such as 0004\.bmp"):
        reverie.data(tmp_path / "d", channels=1)
    dataset = reverie.data(tmp_path / "d", held_out=0, channels=3)
    assert (dataset.train["x"][dataset.train.names.index("0004.bmp")] == pixels(77)).all()
