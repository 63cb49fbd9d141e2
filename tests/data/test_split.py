"""The held-out split: by content, stable, and near duplicates on one side."""

from __future__ import annotations

import shutil
from pathlib import Path

import messy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pictures import fill, pixels

import reverie.data
from reverie.data import split


def sides(dataset) -> dict[bytes, str]:
    return {row.tobytes(): side for side in ("train", "held_out") for row in getattr(dataset, side)["x"]}


def test_the_split_survives_renaming(tmp_path: Path) -> None:
    fill(tmp_path / "a", 40)
    (tmp_path / "b").mkdir()
    for i, path in enumerate(sorted((tmp_path / "a").iterdir(), reverse=True)):
        shutil.copy(path, tmp_path / "b" / f"renamed {i}.png")
    a, b = reverie.data(tmp_path / "a"), reverie.data(tmp_path / "b")
    assert sides(a) == sides(b) and a.fingerprint == b.fingerprint


def test_adding_images_moves_no_old_one(tmp_path: Path) -> None:
    fill(tmp_path / "d", 60)
    before = sides(reverie.data(tmp_path / "d"))
    fill(tmp_path / "d", 40, first=100)
    after = sides(reverie.data(tmp_path / "d"))
    assert len(after) == 100 and "held_out" in before.values()
    assert all(after[image] == side for image, side in before.items())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 0.999), min_size=2, max_size=40, unique=True), st.integers(1, 30), st.floats(0.05, 0.9))
def test_no_trained_image_is_ever_held_out_later(numbers: list[float], old: int, held_out: float) -> None:
    """Even where new images join old groups of near duplicates; at least one natural member on either side."""
    fractions = np.array([*numbers, 0.0, 0.9999])
    group = np.minimum(np.arange(len(fractions)), (fractions * 7).astype(int) + 0)
    group = np.array([int(np.flatnonzero((fractions * 7).astype(int) == int(f * 7))[0]) for f in fractions])
    group[-2:] = [len(fractions) - 2, len(fractions) - 1]
    keep = np.r_[np.arange(min(old, len(numbers))), len(fractions) - 2, len(fractions) - 1]
    small = group[keep]
    small = np.array([int(np.flatnonzero(small == g)[0]) for g in small])
    before = split.divide(fractions[keep], small, held_out)
    after = split.divide(fractions, group, held_out)[keep]
    assert not (~before & after).any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 0.999), min_size=2, max_size=30), st.floats(0.01, 0.99), st.integers(1, 30))
def test_both_sides_hold_an_image(numbers: list[float], held_out: float, groups: int) -> None:
    group = np.arange(len(numbers)) % groups
    held = split.divide(np.array(numbers), group, held_out)
    assert held.any() and not held.all()


def test_near_duplicates_never_straddle(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    fill(folder, 30)
    for seed in range(30):
        image = messy.Image.fromarray(pixels(seed))
        (folder / f"{seed:04d} again.jpg").write_bytes(messy.encoded(image, "JPEG", quality=95))
        image.resize((72, 72)).save(folder / f"{seed:04d} large.png")
    dataset = reverie.data(folder, held_out=0.4)
    side = {name[:4]: set() for name in (*dataset.train.names, *dataset.held_out.names)}
    for which in ("train", "held_out"):
        for name in getattr(dataset, which).names:
            side[name[:4]].add(which)
    assert len(side) == 30 and dataset.report.usable == 90
    assert all(len(sides) == 1 for sides in side.values())
    assert dataset.report.counts()["near-duplicate"] == 60


def test_the_users_own_split_stands_and_a_copy_in_both_leaves_training(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "train", 20)
    fill(tmp_path / "d" / "val", 8, first=50)
    shutil.copy(tmp_path / "d" / "val" / "0050.png", tmp_path / "d" / "train" / "copy.png")
    (tmp_path / "d" / "train" / "like.jpg").write_bytes(
        messy.encoded(messy.Image.fromarray(pixels(51)), "JPEG", quality=90)
    )
    dataset = reverie.data(tmp_path / "d")
    assert (len(dataset.train), len(dataset.held_out)) == (20, 9)
    problems = {(p.file, p.kind) for p in dataset.report.problems}
    assert {("train/copy.png", "duplicate"), ("train/like.jpg", "moved")} <= problems


def test_images_that_only_hash_alike_are_no_duplicates() -> None:
    flat = np.stack([np.full((8, 8, 1), value, np.uint8) for value in range(0, 250, 10)])
    hashes = np.array([split.difference_hash(row) for row in flat], np.uint64)
    assert len(set(hashes)) == 1
    assert len(split.near_duplicates(hashes, lambda rows: flat[rows])) == 0


def test_many_blank_pages_are_one_group_after_one_look_at_each() -> None:
    looked = []

    def blank(rows: np.ndarray) -> np.ndarray:
        looked.append(len(rows))
        return np.zeros((len(rows), 2, 2, 1), np.uint8)

    links = split.near_duplicates(np.zeros(20_000, np.uint64), blank)
    assert (split.groups(links, 20_000) == 0).all() and sum(looked) < 50_000


def test_near_duplicates_are_found_among_many_without_comparing_all() -> None:
    n = 100_000
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, np.uint64)
    hashes[70_000] = hashes[5] ^ np.uint64(0b1011 << 20)
    looked = []

    def pixels_of(rows: np.ndarray) -> np.ndarray:
        looked.append(len(rows))
        return np.zeros((len(rows), 2, 2, 1), np.uint8)

    assert [5, 70_000] in split.near_duplicates(hashes, pixels_of).tolist()
    assert sum(looked) < 1000


@pytest.mark.parametrize("part", ["train", "held_out", "test"])
def test_a_named_split_is_a_whole_set_of_its_own(tmp_path: Path, part: str) -> None:
    fill(tmp_path / "d", 120)
    for seed in range(0, 120, 3):
        image = messy.Image.fromarray(pixels(seed))
        (tmp_path / "d" / f"{seed:04d} again.jpg").write_bytes(messy.encoded(image, "JPEG", quality=95))
    full = sides(reverie.data(tmp_path / "d", held_out=0.3))
    dataset = reverie.data(f"{tmp_path / 'd'}:{part}", held_out=0.3)
    expected = "train" if part == "train" else "held_out"
    assert set(sides(dataset)) == {image for image, side in full.items() if side == expected}
    assert len(dataset.train) > len(dataset.held_out) >= 1


def test_a_named_split_of_arrays_is_that_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.stack([pixels(seed) for seed in range(100)]))
    full = sides(reverie.data(tmp_path / "d.npz", held_out=0.3))
    for part in ("train", "held_out"):
        dataset = reverie.data(f"{tmp_path / 'd.npz'}:{part}", held_out=0.3)
        assert set(sides(dataset)) == {image for image, side in full.items() if side == part}
        assert len(dataset.train) > len(dataset.held_out) >= 1
