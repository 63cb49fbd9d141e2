"""The sets that ship: counts, licences, size, and splits that share nothing."""

from __future__ import annotations

import numpy as np
import pytest

import reverie.data
from reverie.data import bundled


@pytest.fixture(scope="module", params=["fashion", "emoji"])
def made(request: pytest.FixtureRequest):
    return reverie.data(request.param)


def test_no_identical_picture_straddles_the_split(made) -> None:
    for name in ("x", "source"):
        train, held = made.train.get(name), made.held_out.get(name)
        if train is not None:
            assert not {row.tobytes() for row in train} & {row.tobytes() for row in held}
    assert not set(made.train.names) & set(made.held_out.names) or made.source == "fashion"


def test_fashion_is_balanced_and_of_the_stated_size() -> None:
    made = reverie.data("fashion")
    assert made.train["x"].shape == (12_000, 28, 28, 1) and made.held_out["x"].shape == (2_000, 28, 28, 1)
    assert np.bincount(made.train.labels).tolist() == [1200] * 10
    assert np.bincount(made.held_out.labels).tolist() == [200] * 10
    assert made.classes[0] == "T-shirt/top" and made.classes[9] == "Ankle boot" and made.train.get("text") is None
    everything = [row.tobytes() for side in (made.train, made.held_out) for row in side["x"]]
    assert len(set(everything)) == len(everything)


def test_emoji_are_pairs_with_names_and_categories() -> None:
    made = reverie.data("emoji")
    n = len(made.train) + len(made.held_out)
    assert n > 1800 and 0.08 < len(made.held_out) / n < 0.12
    assert made.train["x"].shape[1:] == (64, 64, 3) and made.train.get("source").shape == made.train["x"].shape
    names = [*made.train.names, *made.held_out.names]
    assert len(set(names)) == n and all(code.replace("-", "").isalnum() for code in names)
    tone = {f"1F3F{digit}" for digit in "BCDEF"}
    assert not any(tone & set(code.split("-")[1:]) for code in names)
    row = made.train.names.index("1F600") if "1F600" in made.train.names else None
    assert row is None or (made.train.get("text")[row], made.classes[made.train.labels[row]]) == (
        "grinning face",
        "Smileys & Emotion",
    )
    assert all(text == text.lower() and text for text in made.train.get("text"))


def test_licences_and_attribution_lie_beside_the_pictures() -> None:
    files = {path.name: path.read_text("utf-8") for path in bundled.FOLDER.iterdir() if path.suffix in (".txt", ".md")}
    assert "Zalando" in files["LICENSE-fashion-mnist.txt"]
    assert "Apache License" in files["LICENSE-noto-emoji.txt"]
    assert "creativecommons.org/licenses/by/4.0" in files["LICENSE-twemoji.txt"]
    assert all(name in files["README.md"] for name in files if name != "README.md")


def test_everything_bundled_stays_under_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in bundled.FOLDER.iterdir()) <= 12_000_000


def test_packing_loses_nothing() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    assert (bundled.unpack(bundled.pack(pictures)) == pictures).all()


def test_a_bundled_set_comes_at_another_size_and_channel_count() -> None:
    made = reverie.data("emoji", size=16, channels=1)
    assert made.train["x"].shape[1:] == (16, 16, 1) and made.train.get("source").shape[1:] == (16, 16, 1)
    assert made.fingerprint != reverie.data("emoji").fingerprint == reverie.data("emoji").fingerprint


def test_a_split_of_a_bundled_set_is_divided_again() -> None:
    made = reverie.data("fashion:held_out")
    assert len(made.train) + len(made.held_out) == 2000 and 120 < len(made.held_out) < 280
