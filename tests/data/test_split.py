"""The held-out split: by content, stable, and near duplicates on one side."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import messy
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_pictures import fill, pixels, save

import reverie as rv
import reverie.data
from reverie.core.errors import UsageError
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


def hash_of_one(image: np.ndarray) -> int:
    """The difference hash of a uint8 (H, W, C) image, resized by Pillow alone."""
    grey = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image[..., :3]).convert("L")
    if image.shape[-1] == 4:
        grey = Image.blend(grey, Image.fromarray(image[..., 3]), 0.5)
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(cells[:, :-1] > cells[:, 1:]).tobytes(), "big")


SIDES = [(1, 1), (1, 300), (5, 9), (7, 8), (8, 8), (8, 9), (9, 8), (16, 18), (31, 37), (64, 64), (97, 300), (300, 1)]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), SIDES)
def test_images_hash_alike_together_and_alone(height: int, width: int, channels: int) -> None:
    rng = np.random.default_rng(height * width + channels)
    noise = rng.integers(0, 256, (5, height, width, channels), np.uint8)
    smooth = np.linspace(0, 255, height * width * channels).reshape(noise.shape[1:]) + rng.normal(0, 3, noise.shape)
    nearly_flat = 128 + noise // 86
    for images in (noise, smooth.clip(0, 255).astype(np.uint8), nearly_flat):
        assert split.difference_hashes(images).tolist() == [hash_of_one(image) for image in images]


def test_hashes_of_natural_images_are_the_same_in_a_list_an_array_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = reverie.data("emoji", size=32).held_out["x"][:100]
    expected = [hash_of_one(image) for image in images]
    assert split.difference_hashes(images).tolist() == expected == split.difference_hashes(list(images)).tolist()
    monkeypatch.setattr(split, "HASHED_PIXELS", 32 * 32 * 7)
    assert split.difference_hashes(images).tolist() == expected
    assert split.difference_hashes(images[:0]).shape == (0,)


def test_images_that_only_hash_alike_are_no_duplicates() -> None:
    flat = np.stack([np.full((8, 8, 1), value, np.uint8) for value in range(0, 250, 10)])
    hashes = split.difference_hashes(flat)
    assert len(set(hashes)) == 1
    assert len(split.near_duplicates(hashes, lambda rows: flat[rows])) == 0


def test_many_blank_pages_are_one_group_after_one_look_at_each() -> None:
    looked = []

    def blank(rows: np.ndarray) -> np.ndarray:
        looked.append(len(rows))
        return np.zeros((len(rows), 2, 2, 1), np.uint8)

    links = split.near_duplicates(np.zeros(20_000, np.uint64), blank)
    assert (split.groups(links, 20_000) == 0).all() and sum(looked) < 50_000


def test_many_flat_colours_of_one_hash_are_looked_at_a_few_times_each() -> None:
    flat = np.random.default_rng(0).integers(0, 256, (20_000, 1, 1, 3), np.uint8)
    looked = []

    def pixels_of(rows: np.ndarray) -> np.ndarray:
        looked.append(len(rows))
        return flat[rows]

    links = split.near_duplicates(np.zeros(20_000, np.uint64), pixels_of)
    assert len(links) and sum(looked) < 4 * 20_000


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 255), st.sampled_from([1, 3, 4]), st.integers(0, 30))
def test_no_pair_that_is_the_same_is_left_out_by_its_means(seed: int, noise: int, grey: int, c: int, up: int) -> None:
    """So the links are those of comparing all candidates."""
    rng = np.random.default_rng(seed)
    image = np.clip(grey + rng.integers(-noise, noise + 1, (5, 4, c)), 0, 255)
    other = np.clip(image + rng.integers(-up, up + 1, c) + rng.integers(-2, 3, image.shape), 0, 255)
    rows = np.stack([image, other, np.clip(image + 2, 0, 255)]).astype(np.uint8)
    a, b = np.array([0, 0, 1]), np.array([1, 2, 2])
    likely = split._Means(3, lambda index: rows[index])(a, b)
    assert (likely | ~split._same(rows[a], rows[b])).all()


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


def test_a_class_keeps_its_only_image_and_its_only_group_in_training() -> None:
    fractions = np.array([0.01, 0.02, 0.03, 0.04, 0.5, 0.6, 0.7])
    labels = np.array([0, 1, 1, -1, 2, 2, 2])
    group = np.array([0, 1, 1, 3, 4, 5, 6])
    held = split.divide(fractions, group, 0.1, labels=labels)
    assert held.tolist() == [False, False, False, True, False, False, False]
    assert split.divide(fractions, group, 0.1).tolist() == [True] * 4 + [False] * 3
    sides = np.array([1, 0, 0, 1, 0, 0, 0])
    assert split.divide(fractions, group, 0.1, sides, labels).tolist() == [True, False, False, True, *[False] * 3]
    alone = split.divide(fractions, np.arange(7), 0.1, labels=np.arange(7))
    assert alone.tolist() == [True] * 4 + [False] * 3, "where every class has one image, labels do not decide"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 5), min_size=2, max_size=40), st.integers(0, 99), st.floats(0.05, 0.9))
@example([0, 0, 0, 0, -1], 0, 0.875)  # all would be held out
def test_no_class_is_held_out_completely_and_only_such_classes_change(
    labels: list[int], seed: int, held_out: float
) -> None:
    n, classes = len(labels), np.array(labels)
    fractions, group = np.random.default_rng(seed).random(n), np.arange(n) // 2
    held, before = (split.divide(fractions, group, held_out, labels=each) for each in (classes, None))
    lost = {k for k in set(labels) - {-1} if before[classes == k].all()}
    changed = np.flatnonzero(held != before)
    assert (not held[changed].any()) and held.any() and not held.all()
    assert all(lost & {*classes[group == group[row]].tolist()} for row in changed)
    if len(changed):
        assert not any(held[classes == k].all() for k in lost)


def numbered(folder: Path, count: int = 30) -> Path:
    """A class for each of the first ten images, and one of the others."""
    for seed in range(count):
        save(folder / (f"{seed:02d}" if seed < 10 else "rest") / f"{seed}.png", seed)
    return folder


def test_classes_of_one_image_are_trained_on_and_the_report_names_those_without_a_held_out_image(
    tmp_path: Path,
) -> None:
    """A run recorded before has its old split; an array has the rule of a folder."""
    folder = numbered(tmp_path / "d")
    data, old = (rv.open_data(folder, held_out=0.3, keep_classes=keep) for keep in (True, False))
    assert all(train for train, _ in data.counts_of_classes().values())
    assert 0 < len(data.held_out) < len(old.held_out) and data.fingerprint != old.fingerprint
    action = next(p.action for p in data.report.problems if p.kind == "no-held-out")
    assert action.startswith("used: no held-out image in 10 of 11 classes (00, 01, 02")
    assert "no-training" in old.report.counts() and "no-training" not in data.report.counts()
    assert data.provenance["requested"] == {"keep_classes": True} and not old.provenance["requested"]
    for dataset in (data, old):
        assert rv.data.reopen(dataset.provenance).held_out.names == dataset.held_out.names
    images, labels = np.stack([pixels(seed) for seed in range(30)]), [min(seed, 10) for seed in range(30)]
    of_array = rv.open_data(images, labels=labels, held_out=0.3)
    assert all(train for train, _ in of_array.counts_of_classes().values())
    assert of_array.provenance["requested"] == {"keep_classes": True}


def test_a_set_whose_classes_all_are_trained_on_keeps_its_store_and_its_record(tmp_path: Path) -> None:
    for seed in range(40):
        save(tmp_path / "d" / f"class {seed % 2}" / f"{seed}.png", seed)
    data, old = (rv.open_data(tmp_path / "d", held_out=0.3, keep_classes=keep) for keep in (True, False))
    assert data.provenance == old.provenance and "keep_classes" not in data.provenance["requested"]
    assert len([*(Path(os.environ["REVERIE_HOME"]) / "stores").glob("*/meta.json")]) == 1


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_held_out_0_trains_on_everything(tmp_path: Path, kind: str) -> None:
    images = np.stack([pixels(seed) for seed in range(20)])
    source = fill(tmp_path / "d", 20) if kind == "folder" else tmp_path / "d.npz"
    if kind == "array":
        np.savez(source, images=images)
    data = rv.open_data(source, held_out=0)
    assert (len(data.train), len(data.held_out)) == (20, 0) and data.held_out["x"].shape == (0, 24, 24, 3)
    assert rv.data.reopen(data.provenance).fingerprint == data.fingerprint
    assert len(rv.open_data(f"{source}:train", held_out=0).train) == 20
    with pytest.raises(UsageError, match=r"d(\.npz)? has no held-out images with held_out=0: all are trained on"):
        rv.open_data(f"{source}:held_out", held_out=0)
    with pytest.raises(UsageError, match="between 0 and 1, or 0"):
        rv.open_data(source, held_out=-0.1)


def test_held_out_0_keeps_a_split_of_the_source_and_says_so(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "train", 12)
    fill(tmp_path / "d" / "test", 4, first=50)
    data = rv.open_data(tmp_path / "d", held_out=0)
    assert (len(data.train), len(data.held_out)) == (12, 4) and "own-split" in data.report.counts()
    for part, count in (("train", 12), ("held_out", 4)):
        alone = rv.open_data(f"{tmp_path / 'd'}:{part}", held_out=0)
        assert (len(alone.train), len(alone.held_out)) == (count, 0)
    assert len(rv.open_data("fashion:train", held_out=0).train) == 12_000
