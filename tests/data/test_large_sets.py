"""Large sets: threads that never wait for the writer, headers without Pillow, little memory an image."""

from __future__ import annotations

import io
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_pictures import fill, pixels, save

import reverie.data
from reverie.data.intake import parallel
from reverie.data.plan import order_rows
from reverie.data.records import Records, completed, unusable, usable
from reverie.data.split import difference_hashes
from reverie.media.decode import Unusable, inspect, quiet
from reverie.media.formats import jpeg_size, open_image


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 256])
def test_results_come_in_order_and_at_most_chunk_ahead(chunk: int) -> None:
    begun, ahead = [], []

    def work(number: int) -> int:
        begun.append(number)
        return -number

    for used, result in enumerate(parallel(work, range(300), chunk)):
        assert result == -used
        ahead.append(len(begun) - used)
    assert len(begun) == 300 and max(ahead) <= max(chunk, 2)


def test_threads_go_on_while_results_are_used() -> None:
    begun = threading.Semaphore(0)
    results = parallel(lambda _: begun.release(), range(64), 32)
    next(results)
    deadline = time.monotonic() + 5
    count = 0
    while count < 32 and begun.acquire(timeout=max(0, deadline - time.monotonic())):
        count += 1
    results.close()
    assert count == 32


def test_what_was_not_begun_is_cancelled_when_the_caller_stops() -> None:
    begun = []
    results = parallel(lambda number: begun.append(number) or time.sleep(0.005), range(1000), 200)
    next(results)
    results.close()
    assert len(begun) < 150


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from(["L", "RGB", "CMYK"]),
    st.fixed_dictionaries(
        {
            "progressive": st.booleans(),
            "optimize": st.booleans(),
            "comment": st.binary(max_size=40),
            "restart_marker_blocks": st.integers(0, 3),
        }
    ),
)
def test_the_size_of_a_jpeg_is_that_which_pillow_reads(width: int, height: int, mode: str, options: dict) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    assert jpeg_size(data) == (width, height) == open_image(data).size
    for end in (3, 20, len(data) // 2):
        assert jpeg_size(data[:end]) in (None, (width, height))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_other_bytes_are_left_to_pillow(tail: bytes) -> None:
    data = b"\xff\xd8\xff" + tail
    if (size := jpeg_size(data)) is not None:
        assert 0 not in size and b"\xff\xda" in data
    else:
        with quiet(), pytest.raises(Unusable):
            inspect(data)


def test_a_jpeg_that_claims_too_many_pixels_is_refused_by_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, "JPEG")
    with pytest.raises(Unusable, match="300 x 200 pixels, over 50,000"):
        inspect(buffer.getvalue(), 50_000)
    assert inspect(buffer.getvalue(), 60_000) == (300, 200)


def test_equal_records_are_one_object_and_keep_their_own_hashes() -> None:
    records = Records()
    images = np.stack([pixels(seed) for seed in range(20)])
    records.extend(completed([usable([("rgba", "converted")]) for _ in images], {"images": images}))
    records.append(unusable([("truncated", "skipped")]))
    assert len({id(record) for record in records}) == 2 and len(records) == 21
    assert len({*records.hashes}) == 20 + 1 and records.hashes[-1] == 0
    (records[20],) = completed([usable([])], {"images": pixels(3)[None]})
    assert records[20]["ok"] and records.hashes[20] == records.hashes[3]


def test_what_is_grey_only_in_its_first_line_has_colours() -> None:
    grey = pixels(1)[..., :1].repeat(3, axis=2)
    half = pixels(2).copy()
    half[0] = 7
    arrays = {"images": np.stack([grey, half, pixels(3)])}
    records = completed([usable([]) for _ in range(3)], arrays)
    assert [record["grey"]["images"] for record in records] == [True, False, False]


def test_records_are_completed_by_the_second_array_of_a_pair_and_not_by_masks_or_unusable_rows() -> None:
    grey, colours = pixels(1)[..., :1].repeat(3, axis=2), pixels(2)
    images, sources = np.stack([grey, 0 * grey, colours]), np.stack([colours, 0 * grey, grey])
    arrays = {"images": images, "sources": sources, "masks": images[..., :1]}
    first, empty, last = completed([usable([]), unusable([]), usable([])], arrays)
    assert first["grey"] == {"images": True, "sources": False} and last["grey"] == {"images": False, "sources": True}
    assert empty == unusable([])
    assert [int(r["hash"], 16) for r in (first, last)] == difference_hashes(images[::2]).tolist()


def test_rows_are_ordered_by_side_then_content_and_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    n = 200
    out, seconds, group = rng.random(n) < 0.3, rng.integers(0, 9, n) / 9, rng.integers(0, 5, n)
    shas = [f"{rng.integers(0, 1 << 30):x}:{rng.integers(0, 40)}" for _ in range(n)]
    keys = list(zip(out, seconds, group, shas, strict=True))
    assert order_rows(out, seconds, group, shas).tolist() == sorted(range(n), key=keys.__getitem__)


def test_an_image_more_takes_little_memory(tmp_path: Path) -> None:
    fill(tmp_path / "small", 100, width=8, height=8)
    for name in ("large", "again"):
        fill(tmp_path / name, 900, width=8, height=8)

    def peak(folder: Path) -> int:
        tracemalloc.start()
        reverie.data(folder)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(tmp_path / "small")  # what is imported at the first opening
    save(tmp_path / "small" / "one-more.png", 5000, 8, 8)
    large = min(peak(tmp_path / name) for name in ("large", "again"))  # other threads may allocate meanwhile
    assert (large - peak(tmp_path / "small")) / 800 < 2500
