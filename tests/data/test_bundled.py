"""The sets that ship: counts, licences, size, and splits that share nothing."""

from __future__ import annotations

import numpy as np
import pytest

import reverie.data
from reverie.data import bundled


@pytest.fixture(scope="module", params=["fashion", "emoji"])
def dataset(request: pytest.FixtureRequest):
    return reverie.data(request.param)


def test_no_identical_image_straddles_the_split(dataset) -> None:
    for name in ("x", "source"):
        train, held = dataset.train.get(name), dataset.held_out.get(name)
        if train is not None:
            assert not {row.tobytes() for row in train} & {row.tobytes() for row in held}
    assert not set(dataset.train.names) & set(dataset.held_out.names) or dataset.source == "fashion"


def test_fashion_is_balanced_and_of_the_stated_size() -> None:
    dataset = reverie.data("fashion")
    assert dataset.train["x"].shape == (12_000, 28, 28, 1) and dataset.held_out["x"].shape == (2_000, 28, 28, 1)
    assert np.bincount(dataset.train.labels).tolist() == [1200] * 10
    assert np.bincount(dataset.held_out.labels).tolist() == [200] * 10
    assert (
        dataset.classes[0] == "T-shirt/top" and dataset.classes[9] == "Ankle boot" and dataset.train.get("text") is None
    )
    everything = [row.tobytes() for side in (dataset.train, dataset.held_out) for row in side["x"]]
    assert len(set(everything)) == len(everything)


def test_emoji_are_pairs_with_names_and_categories() -> None:
    dataset = reverie.data("emoji")
    n = len(dataset.train) + len(dataset.held_out)
    assert n > 1800 and 0.08 < len(dataset.held_out) / n < 0.12
    assert dataset.train["x"].shape[1:] == (64, 64, 3) and dataset.train.get("source").shape == dataset.train["x"].shape
    names = [*dataset.train.names, *dataset.held_out.names]
    assert len(set(names)) == n and all(code.replace("-", "").isalnum() for code in names)
    tone = {f"1F3F{digit}" for digit in "BCDEF"}
    assert not any(tone & set(code.split("-")[1:]) for code in names)
    row = dataset.train.names.index("1F600") if "1F600" in dataset.train.names else None
    assert row is None or (dataset.train.get("text")[row], dataset.classes[dataset.train.labels[row]]) == (
        "grinning face",
        "Smileys & Emotion",
    )
    assert all(text == text.lower() and text for text in dataset.train.get("text"))


def test_licences_and_attribution_lie_beside_the_images() -> None:
    files = {path.name: path.read_text("utf-8") for path in bundled.FOLDER.iterdir() if path.suffix in (".txt", ".md")}
    assert "Zalando" in files["LICENSE-fashion-mnist.txt"]
    assert "Apache License" in files["LICENSE-noto-emoji.txt"]
    assert "creativecommons.org/licenses/by/4.0" in files["LICENSE-twemoji.txt"]
    assert all(name in files["README.md"] for name in files if name != "README.md")


def test_everything_bundled_stays_under_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in bundled.FOLDER.iterdir()) <= 12_000_000


def test_packing_loses_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert (bundled.unpack(bundled.pack(images)) == images).all()


def test_a_bundled_set_comes_at_another_size_and_channel_count() -> None:
    dataset = reverie.data("emoji", size=16, channels=1)
    assert dataset.train["x"].shape[1:] == (16, 16, 1) and dataset.train.get("source").shape[1:] == (16, 16, 1)
    assert dataset.fingerprint != reverie.data("emoji").fingerprint == reverie.data("emoji").fingerprint


def test_a_split_of_a_bundled_set_is_divided_again() -> None:
    dataset = reverie.data("fashion:held_out")
    assert len(dataset.train) + len(dataset.held_out) == 2000 and 120 < len(dataset.held_out) < 280
