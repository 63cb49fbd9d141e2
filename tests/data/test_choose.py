"""Choosing what to learn from: what was asked for is used, the rest is reported, and a run finds it again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_pictures import fill, pixels, save

import reverie as rv
import reverie.data
from reverie.core.errors import ReverieError, UsageError
from reverie.data.choose import parse_condition


def animals(folder: Path) -> Path:
    for k, name in enumerate(("ant", "bee", "cat")):
        fill(folder / name, 12, first=20 * k)
    rows = [
        {"file_name": f"{name}/{20 * k + i:04d}.png", "age": i, "style": "ink" if i % 2 else "oil"}
        for k, name in enumerate(("ant", "bee", "cat"))
        for i in range(12)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def names(dataset) -> set[str]:
    return {*dataset.train.names, *dataset.held_out.names}


def test_classes_conditions_and_a_limit_choose_and_the_provenance_reopens_them(tmp_path: Path) -> None:
    folder = animals(tmp_path / "d")
    dataset = reverie.data(folder, classes="ant,cat", where="age >= 3 and style == 'ink'")
    assert dataset.classes == ["ant", "cat"]
    assert names(dataset) == {f"{n}/{k + i:04d}.png" for n, k in (("ant", 0), ("cat", 40)) for i in (3, 5, 7, 9, 11)}
    assert [p.kind for p in dataset.report.problems] == ["ignored", "not-chosen", "not-chosen", "no-held-out"]
    again = reverie.data.reopen(json.loads(json.dumps(dataset.provenance)))
    assert again.fingerprint == dataset.fingerprint and names(again) == names(dataset)
    few = reverie.data(folder, limit=10)
    assert len(names(few)) == 10 and names(few) < names(reverie.data(folder, limit=20))
    assert reverie.data.reopen(few.provenance).fingerprint == few.fingerprint


def test_arrays_are_chosen_from_as_files_are(tmp_path: Path) -> None:
    images = np.stack([pixels(seed) for seed in range(36)])
    dataset = reverie.data(images, labels=["ant", "bee", "cat"] * 12, classes=["bee", "cat"], limit=16)
    assert dataset.classes == ["bee", "cat"] and len(names(dataset)) == 16
    wanted = {str(i) for i in range(36) if i % 3}
    assert names(dataset) < wanted
    both = (dataset.train, dataset.held_out)
    found = {n: dataset.classes[k] for side in both for n, k in zip(side.names, side.labels, strict=True)}
    assert all(("ant", "bee", "cat")[int(name) % 3] == label for name, label in found.items())
    some = reverie.data(images, labels=np.arange(36) % 3, where="label != 0")
    assert names(some) == wanted


def test_a_class_of_a_public_set_keeps_its_split() -> None:
    dataset = reverie.data("fashion", classes=["Bag", "Sandal"])
    assert dataset.classes == ["Sandal", "Bag"] and (len(dataset.train), len(dataset.held_out)) == (2400, 400)
    whole = reverie.data("fashion")
    bags = whole.train["x"][whole.train.labels == whole.classes.index("Bag")]
    assert (dataset.train["x"][dataset.train.labels == 1] == bags).all()


@pytest.mark.parametrize("as_array", [False, True])
def test_a_part_of_a_limited_set_is_split_by_the_share_that_is_asked_for(tmp_path: Path, as_array: bool) -> None:
    fill(tmp_path / "d", 200)
    source = tmp_path / "d"
    if as_array:
        source = tmp_path / "d.npz"
        np.savez(source, images=np.stack([pixels(seed) for seed in range(200)]))
    for limit in (40, 80, 400):
        full = reverie.data(source, limit=limit, held_out=0.25)
        part = reverie.data(f"{source}:train", limit=limit, held_out=0.25)
        assert names(part) == {*full.train.names}
        assert 0.1 < len(part.held_out) / len(full.train) < 0.4
    unlimited = reverie.data(f"{source}:train", held_out=0.25)
    assert part.fingerprint == unlimited.fingerprint


def test_a_resolution_leaves_out_smaller_files(tmp_path: Path) -> None:
    fill(tmp_path, 10, width=32, height=24)
    fill(tmp_path, 5, first=50, width=32, height=20)
    dataset = reverie.data(tmp_path, resolution_at_least=24)
    assert len(names(dataset)) == 10 and dataset.report.counts()["low-resolution"] == 5


@pytest.mark.parametrize("as_array", [False, True])
def test_of_images_that_look_the_same_one_is_kept(tmp_path: Path, as_array: bool) -> None:
    images = [pixels(seed, 32, 32) for seed in range(12)]
    images += [np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8) for image in images[:4]]
    for i, image in enumerate(images):
        save(tmp_path / f"{i:02d}.png", 0, 32, 32) if image is None else _write(tmp_path / f"{i:02d}.png", image)
    source = np.stack(images) if as_array else tmp_path
    assert len(names(reverie.data(source))) == 16
    dataset = reverie.data(source, dedupe=True)
    assert len(names(dataset)) == 12 and dataset.report.counts()["near-duplicate"] == 4


def _write(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)


@pytest.mark.parametrize(
    ("choice", "hint"),
    [
        ({"classes": "ant,cow"}, "There is no class 'cow'"),
        ({"classes": "bea"}, 'Did you mean "bee"'),
        ({"classes": ","}, "a list of names"),
        ({"where": "size > 3"}, "No image has a column 'size'.*age"),
        ({"where": "age"}, "is a condition such as"),
        ({"where": "age > 3 or age < 1"}, "only `and`.* joins"),
        ({"where": "style != ink or pencil"}, "only `and`.* joins"),
        ({"where": "age > 3 AND style == ink"}, "only `and`.* joins"),
        ({"limit": 0}, "above 0"),
        ({"limit": 2.5}, "above 0"),
        ({"resolution_at_least": -1}, "above 0"),
    ],
)
def test_a_choice_that_makes_no_sense_says_what_is_possible(tmp_path: Path, choice: dict, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        reverie.data(animals(tmp_path), **choice)


def test_conditions_compare_numbers_as_numbers_words_as_words_and_a_missing_value_fulfils_nothing() -> None:
    row = {"age": "10", "style": "ink", "tags": ["a", "b"], "none": None, "two words": 1}
    true = ["age > 9", "age == 10.0", "style == ink", "style != 'oil'", "tags == b", '"two words" == 1', "age<=10"]
    false = ["age > 10", "style > a", "none != 3", "tags != a", "gone == 1", "style == 'ink and oil'"]
    assert all(term.holds(row) for text in true for term in parse_condition(text))
    assert not any(term.holds(row) for text in false for term in parse_condition(text))
    assert len(parse_condition("a == 'x and y' and b < 3")) == 2


def test_a_condition_that_nothing_fulfils_names_the_values(tmp_path: Path) -> None:
    rows = "".join(f"{i:04d}.png,{10 + i}\n" for i in range(12))
    (fill(tmp_path / "d", 12) / "metadata.csv").write_text(f"file_name,age\n{rows}")
    with pytest.raises(UsageError, match=r"No image fulfils age > 100 \(age: 10 to 21 in the data\)"):
        rv.open_data(tmp_path / "d", where="age > 100")
    with pytest.raises(ReverieError) as few:
        rv.open_data(tmp_path / "d", limit=5)
    assert "Left out as asked: 7 images beyond the limit of 5." in str(few.value) and ".png" not in str(few.value)


def test_whole_numbers_of_any_size_are_compared_exactly() -> None:
    row = {"id": "9007199254740993", "huge": 10**400, "half": "0.5"}
    true = ["id == 9007199254740993", "id != 9007199254740992", "huge > 5", "huge != 1e300", "half < 1"]
    assert all(term.holds(row) for text in true for term in parse_condition(text))


def test_one_pair_of_quotes_is_removed_and_words_in_quotes_join_nothing() -> None:
    (term,) = parse_condition('text != "the dogs\'"')
    assert term.value == "the dogs'"
    (term,) = parse_condition("style == 'ink or pencil'")
    assert term.value == "ink or pencil"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("classes", 5),
        ("columns", 5),
        ("columns", ["image"]),
        ("dedupe", "no"),
        ("keep_classes", "no"),
        ("layout", [1]),
        ("mask_values", 2.5),
        ("medium", [1]),
        ("where", "a" * 100_000 + " == 1"),
        ("where", " " * 3000),
        ("where", 5),
    ],
)
def test_an_option_of_another_type_or_of_any_length_is_refused_in_a_short_line(
    tmp_path: Path, option: str, value: object
) -> None:
    with pytest.raises(UsageError, match=f"{option}|medium") as error:
        reverie.data(fill(tmp_path / "d", 1), **{option: value})
    assert len(str(error.value)) < 250


def test_a_long_condition_is_cut_in_messages(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No image fulfils") as error:
        reverie.data(animals(tmp_path / "d"), where=f"style == '{'x' * 9000}' and age > 1")
    assert len(str(error.value)) < 500
