"""One range of values for a set: found though a few values lie beyond it, never image by image."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from reverie.media.budget import Budget
from reverie.media.values import Tally, range_of, tally, to_8_bits


def floats(*images: np.ndarray):
    return range_of([tally(image.astype(np.float32), "float") for image in images])


IMAGES = [np.random.default_rng(seed).random((16, 16)) for seed in range(4)]


def resized_floats(size: int) -> np.ndarray:
    """Black and white lines, enlarged by Lanczos as floats: the filter overshoots."""
    lines = (np.arange(24)[:, None] // 6 % 2 * np.ones((1, 24))).astype(np.float32)
    return np.asarray(Image.fromarray(lines).resize((size, size), Image.Resampling.LANCZOS))


def test_a_hair_beyond_a_range_is_that_range() -> None:
    for ends in ((0, 1), (-1, 1), (0, 255)):
        inside = [image * (ends[1] - ends[0]) + ends[0] for image in IMAGES]
        assert floats(*inside).range == ends and floats(*inside).usual
        for value in (np.nextafter(np.float32(ends[1]), np.float32(300)), ends[0] - 1e-7 * (ends[1] - ends[0])):
            beyond = [image.copy() for image in inside]
            beyond[2][3, 4] = value
            decision = floats(*beyond)
            assert decision.range == ends and "1 values beyond it" in decision.words


def test_the_overshoot_of_a_filter_is_clipped_and_counted() -> None:
    sharp = resized_floats(80)
    outside = int(((sharp < 0) | (sharp > 1)).sum())
    assert outside > 100 and floats(sharp).range != (0, 1)  # every second pixel: alone it could be anything
    decision = floats(sharp, *[np.random.default_rng(seed).random((256, 256)) for seed in range(8)])
    assert decision.range == (0, 1) and f"{outside:,} values beyond it" in decision.words


def test_one_dead_pixel_among_many_does_not_move_the_range_and_an_image_of_another_range_is_named() -> None:
    many = [np.random.default_rng(seed).random((64, 64)) for seed in range(8)]
    many[5][1, 1] = 4000
    assert floats(*many).range == (0, 1) and not floats(*many).others
    small = np.full((1, 2), 200.0)
    assert floats(*many[:5], small).others == (5,)


def test_normalised_floats_have_no_usual_range() -> None:
    decision = floats(*[(image - 0.5) * 5 for image in IMAGES])
    assert not decision.usual and "the range of the set" in decision.words


@pytest.mark.parametrize(
    ("kind", "high", "top"),
    [
        ("uint8", 1, 1),
        ("uint8", 20, 20),
        ("uint8", 32, 255),
        ("uint16", 1, 1),
        ("uint16", 200, 255),
        ("uint16", 1000, 1023),
        ("uint16", 3999, 4095),
        ("uint16", 16000, 16383),
        ("uint16", 16384, 65535),
        ("int", 4095, 4095),
        ("colour16", 15, 4095),
        ("colour16", 64, 65535),
    ],
)
def test_integers_have_the_bits_that_the_set_fills(kind: str, high: int, top: int) -> None:
    assert range_of([Tally(kind, 0, high / 2), Tally(kind, 0, high)]).range == (0, top)
    assert range_of([Tally(kind, 0, 0)]).usual  # black


def test_values_that_are_not_finite_become_black_and_ends_are_clipped() -> None:
    values = np.array([np.nan, np.inf, -np.inf, -3, -2, 0, 2, 9], np.float32)
    assert to_8_bits(values, (-2, 2)).tolist() == [0, 0, 0, 0, 0, 128, 255, 255]
    assert tally(values, "float").bad == 3
    assert to_8_bits(np.array([[0, 4095, 65535]], np.uint16), (0, 4095)).tolist() == [[0, 255, 255]]


def test_the_budget_holds_and_one_large_image_is_always_allowed() -> None:
    budget, peak = Budget(100), []

    def work(size: int) -> None:
        with budget.hold(size):
            peak.append(budget.used)
            time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(size,)) for size in [40, 30, 500, 60, 90, 10] * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(peak) == 18 and budget.used == 0
    assert max(size for size in peak if size != 500) <= 100 and peak.count(500) == 3
