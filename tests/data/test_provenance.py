"""What is recorded of a data set opens it again, exactly, or says why it cannot."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_pictures import fill, pixels, save

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.data import Dataset, open_like, reopen
from reverie.data.naming import FOUND

HOW = {"size": (12, 20), "fit": "pad", "background": (10, 20, 30), "held_out": 0.3}


def written(dataset: Dataset) -> dict:
    """Provenance as run.json gives it back."""
    return json.loads(json.dumps(dataset.provenance))


def same(a: Dataset, b: Dataset) -> bool:
    splits = [(a.train, b.train), (a.held_out, b.held_out)]
    return (
        a.provenance == b.provenance
        and all(x.names == y.names for x, y in splits)
        and all(np.array_equal(x[name], y[name]) for x, y in splits for name in x.columns)
    )


def test_provenance_says_everything(tmp_path: Path) -> None:
    fill(tmp_path / "d", 30)
    record = written(rv.open_data(tmp_path / "d", **HOW))
    assert record["source"] == str(tmp_path / "d") and record["reopenable"] is True
    assert (record["medium"], record["shape"], record["channels"]) == ("image", [12, 20], 3)
    assert (record["fit"], record["background"], record["held_out"]) == ("pad", [10, 20, 30], 0.3)
    assert (record["low"], record["high"], record["classes"], record["attributes"]) == (0, 255, [], [])
    assert sum(record["counts"].values()) == 30 and len(record["fingerprint"]) == 64


def test_a_folder_reopens_with_its_fit_its_background_and_its_share(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "d", 40, width=30, height=24)
    monkeypatch.chdir(tmp_path)
    dataset = rv.open_data("d", **HOW)
    monkeypatch.chdir("/")
    assert same(reopen(written(dataset)), dataset)
    assert len(dataset.held_out) != len(rv.open_data(tmp_path / "d").held_out)


@pytest.mark.parametrize("source", ["fashion:held_out", "emoji"])
def test_named_sets_reopen(source: str) -> None:
    dataset = rv.open_data(source, size=16, channels=1, held_out=0.2)
    assert same(reopen(written(dataset)), dataset)


def test_grey_images_and_pairs_of_grey_and_colour_reopen(tmp_path: Path) -> None:
    """Their channels were found, not asked for; asking for what was found is another request."""
    fill(tmp_path / "grey", 12, channels=1)
    for i in range(12):
        save(tmp_path / "pairs" / "A" / f"{i}.png", i, channels=1)
        save(tmp_path / "pairs" / "B" / f"{i}.png", 100 + i)
    for name in ("grey", "pairs"):
        dataset = rv.open_data(tmp_path / name)
        assert same(reopen(written(dataset)), dataset)


def test_a_changed_folder_is_refused_with_its_name_and_the_remedy(tmp_path: Path) -> None:
    fill(tmp_path / "d", 30)
    record = written(rv.open_data(tmp_path / "d"))
    save(tmp_path / "d" / "0003.png", 99)
    with pytest.raises(ReverieError, match=r"not what it was trained on.*30 samples.*data=") as caught:
        reopen(record)
    assert str(tmp_path / "d") in str(caught.value)
    save(tmp_path / "d" / "0003.png", 3)
    assert reopen(record).fingerprint == record["fingerprint"]


def test_a_folder_that_moved_is_passed_by_its_new_name(tmp_path: Path) -> None:
    fill(tmp_path / "d", 30)
    dataset = rv.open_data(tmp_path / "d", **HOW)
    record = written(dataset)
    (tmp_path / "d").rename(tmp_path / "e")
    with pytest.raises(ReverieError, match=r"/d, cannot be opened.*Put the old data back, or name"):
        reopen(record)
    again = reopen(record, data=tmp_path / "e")
    assert again.fingerprint == dataset.fingerprint and again.provenance["source"] == str(tmp_path / "e")
    assert again.provenance | {"source": record["source"]} == record
    fill(tmp_path / "other", 30, first=200)
    with pytest.raises(ReverieError, match="not what it was trained on"):
        reopen(record, data=tmp_path / "other")


@pytest.mark.parametrize(
    "folders",
    [("part1", "part2"), ("batch_1", "batch_2"), ("cars_train", "cars_test"), tuple(f"person{i}" for i in range(16))],
)
def test_a_run_of_older_layouts_reopens_with_its_class_folders(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """Their provenance has ``tables`` 2 or none; folders that are no classes now were classes then."""
    for k, folder in enumerate(folders):
        fill(tmp_path / folder, 16 // len(folders), first=20 * k)
    before = rv.open_data(tmp_path, layout="classes", columns=replace(FOUND, rules=2))
    record = written(before)
    assert record["requested"].pop("layout") == "classes" and {*before.classes} == {*folders}
    assert rv.open_data(tmp_path).classes == []
    again = reopen(record)
    assert again.fingerprint == before.fingerprint and again.classes == before.classes
    assert reopen(again.provenance).fingerprint == before.fingerprint
    with pytest.raises(ReverieError, match="not what it was trained on"):
        reopen(record | {"tables": 3})  # of this version: its data has changed


def test_a_run_of_older_layouts_that_no_layout_opens_is_told_why(tmp_path: Path) -> None:
    for k, folder in enumerate(("train/images/cat", "train/images/dog", "test/images/cat")):
        fill(tmp_path / folder, 8, first=20 * k)
    record = written(rv.open_data(tmp_path, layout="images", columns=replace(FOUND, rules=2)))
    del record["requested"]["layout"]
    with pytest.raises(
        ReverieError, match=r"older version, and this version reads its folders as \"class folders, 2 cl"
    ):
        reopen(record)


def test_an_array_reopens_when_it_is_passed_again(tmp_path: Path) -> None:
    images, labels = np.stack([pixels(seed) for seed in range(30)]), np.arange(30) % 3
    dataset = rv.open_data(images, labels=labels, held_out=0.3)
    record = written(dataset)
    assert reopen(record, data=dataset) is dataset and reopen(record) is dataset  # while it is in use
    assert reopen(written(rv.open_data(images, held_out=0.3)), data=images).held_out.names == dataset.held_out.names
    np.savez(tmp_path / "same.npz", images=images, labels=labels)
    assert reopen(record, data=tmp_path / "same.npz").fingerprint == dataset.fingerprint
    with pytest.raises(ReverieError, match="not what it was trained on"):
        reopen(record, data=images)  # without its labels
    with pytest.raises(ReverieError, match="not what it was trained on"):
        reopen(record, data=rv.open_data(images, labels=labels))  # another share
    del dataset
    gc.collect()
    with pytest.raises(UsageError, match=r"passed from Python \(array of 24x24x3\).*data = rv\.open_data"):
        reopen(record)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        ((20, 4, 6, 5, 2), {}),
        ((20, 4, 6, 5, 1), {"medium": "video", "size": (5, 5)}),
        ((20, 3, 40), {"medium": "sequence", "low": -2, "high": 3}),
    ],
)
def test_other_media_reopen(tmp_path: Path, shape: tuple[int, ...], how: dict) -> None:
    values = np.random.default_rng(0).random(shape)
    dataset = rv.open_data(values, **how)
    assert same(reopen(written(dataset), data=values), dataset)
    np.savez(tmp_path / "a.npz", x=values)
    dataset = rv.open_data(tmp_path / "a.npz", **how)
    assert same(reopen(written(dataset)), dataset)


def test_runs_of_format_1_reopen(tmp_path: Path) -> None:
    fill(tmp_path / "colour", 20, width=30, height=24)
    fill(tmp_path / "grey", 20, channels=1)
    for name, size, how in (("colour", 64, {}), ("colour", 16, {"size": 16, "fit": "pad"}), ("grey", 24, {})):
        dataset = rv.open_data(tmp_path / name, **how)
        old = {
            "spec": str(tmp_path / name),
            "fit": how.get("fit", "crop"),
            "size": size,
            "channels": dataset.spec.channels,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "held_out": len(dataset.held_out),
            "classes": [],
        }
        assert reopen(old).fingerprint == dataset.fingerprint
        with pytest.raises(ReverieError, match="not what it was trained on: then 20 samples"):
            reopen(old | {"fingerprint": "f" * 64})
    with pytest.raises(UsageError, match="imported without its data"):
        reopen(old | {"spec": ""})


FORMAT_1 = {  # fingerprints that runs of format 1 recorded
    "fashion": "89b1cfaedc1936c90e64ea35179bbf8e8a2fbb0475e1bbba65b73ebe02d73c0b",
    "fashion:held_out": "67af8f6866544fca507a42919e0de84a8536eb1dd95ba6ccded99a4b5773ceca",
    "emoji": "2b9c1d5912ee4966135555429c15132a909741da8325411c50755a26d2948495",
}


@pytest.mark.parametrize("source", FORMAT_1)
def test_fingerprints_of_the_bundled_sets_are_those_of_format_1(source: str) -> None:
    assert rv.open_data(source).fingerprint == FORMAT_1[source]


def test_fingerprints_of_folders_and_arrays_are_those_of_format_1(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "A" / f"{i}.png", i, channels=1)
        save(tmp_path / "B" / f"{i}.png", 100 + i)
    assert rv.open_data(tmp_path).fingerprint.startswith("9e3f4cb8ce9c")
    fill(tmp_path / "plain", 30)
    dataset = rv.open_data(tmp_path / "plain", size=16, fit="pad", background=(1, 2, 3), held_out=0.3)
    assert dataset.fingerprint.startswith("af8134a60e87")
    x, texts = np.stack([pixels(seed) for seed in range(40)]), np.array([f"t{i}" for i in range(40)])
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(40) % 3, texts=texts)
    assert rv.open_data(tmp_path / "a.npz").fingerprint.startswith("eceef2ba8d19")
    assert rv.open_data(tmp_path / "a.npz", size=16, channels=1, fit="pad").fingerprint.startswith("5bb4f1a65875")


def test_other_data_is_opened_in_the_form_of_a_runs_own(tmp_path: Path) -> None:
    fill(tmp_path / "d", 30)
    fill(tmp_path / "e", 12, first=100, width=50, height=20)
    record = written(rv.open_data(tmp_path / "d", channels=1, **HOW))
    other = open_like(tmp_path / "e", record)
    assert (str(other.spec), other.provenance["background"], other.provenance["held_out"]) == (
        "12x20x1",
        [10, 20, 30],
        0.3,
    )
    assert open_like(other, record) is other
