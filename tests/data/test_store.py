"""The store: the same pixels as a direct decode, whole after a kill, safe between processes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reports import everything
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import ReverieError
from reverie.data import decoding, store
from reverie.data.items import File

OPEN = "import sys, reverie.data; print(reverie.data(sys.argv[1], size=16).fingerprint)"


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=9, max_size=12),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from(["crop", "pad"]),
)
def test_stored_pixels_equal_a_direct_decode(tmp_path_factory, shapes, size: tuple[int, int], fit: str) -> None:
    from reverie.media.decode import Form, decode

    folder = tmp_path_factory.mktemp("shapes")
    for seed, (width, height) in enumerate(shapes):
        save(folder / f"{seed}.png", seed, width, height)
    dataset = reverie.data(folder, size=size, channels=3, fit=fit, background=(10, 20, 30))
    form = Form(size, 3, fit, (10, 20, 30))
    for side in (dataset.train, dataset.held_out):
        for name, image in zip(side.names, side["x"], strict=True):
            assert (image == decode((folder / name).read_bytes(), form)[0]).all()


def test_an_image_of_the_right_size_is_stored_untouched(tmp_path: Path) -> None:
    fill(tmp_path / "d", 12)
    dataset = reverie.data(tmp_path / "d")
    assert (dataset.spec.shape, dataset.spec.channels) == ((24, 24), 3)
    for name, image in zip(dataset.train.names, dataset.train["x"], strict=True):
        assert (image == pixels(int(name[:4]))).all()


def test_images_that_are_not_square_are_stored_as_asked_for(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 12, width=64, height=48)
    kept = reverie.data(tmp_path / "d", size="48x64")
    assert kept.spec.shape == (48, 64) and kept.train["x"].shape[1:] == (48, 64, 3)
    for name, image in zip(kept.train.names, kept.train["x"], strict=True):
        assert (image == pixels(int(name[:4]), 64, 48)).all()
    turned = reverie.data(tmp_path / "d", size=(64, 48))
    assert turned.train["x"].shape[1:] == (64, 48, 3) and turned.fingerprint != kept.fingerprint
    assert len([path for path in (reverie_home / "stores").iterdir() if path.is_dir()]) == 2
    array = np.stack([pixels(seed, 64, 48) for seed in range(12)])
    assert (reverie.data(array, size=(24, 32)).train["x"].shape[1:]) == (24, 32, 3)


def test_grey_images_make_one_channel_even_when_saved_as_rgb(tmp_path: Path) -> None:
    fill(tmp_path / "d", 6, channels=1)
    for seed in range(6, 12):
        Image.fromarray(pixels(seed, channels=1)[..., 0]).convert("RGB").save(tmp_path / "d" / f"{seed:04d}.png")
    dataset = reverie.data(tmp_path / "d")
    assert dataset.spec.channels == 1 and "grey" not in dataset.report.counts()
    both = {n: i for side in (dataset.train, dataset.held_out) for n, i in zip(side.names, side["x"], strict=True)}
    assert all((both[f"{seed:04d}.png"] == pixels(seed, channels=1)).all() for seed in range(12))


def test_a_grey_side_of_pairs_is_no_news_and_a_grey_image_on_a_coloured_side_is(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "d" / "A" / f"{i:02}.png", i, channels=1)
        save(tmp_path / "d" / "B" / f"{i:02}.png", 100 + i)
        save(tmp_path / "e" / "A" / f"{i:02}.png", i, channels=1 if i == 3 else 3)
        save(tmp_path / "e" / "B" / f"{i:02}.png", 100 + i)
    dataset = reverie.data(tmp_path / "d")
    assert dataset.train["source"].shape[-1] == 1 and "grey" not in dataset.report.counts()
    (problem,) = (item for item in reverie.data(tmp_path / "e").report.problems if item.kind == "grey")
    assert problem.file == "B/03.png" and "source of this pair" in problem.action


def test_an_unchanged_folder_opens_without_reading_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", 12)
    for path in (tmp_path / "d").iterdir():
        os.utime(path, (1e9, 1e9))
    first = reverie.data(tmp_path / "d")

    def refuse(self: File) -> bytes:
        raise AssertionError(f"{self.path} was read again")

    monkeypatch.setattr(File, "read", refuse)
    assert everything(reverie.data(tmp_path / "d")) == everything(first)


def test_the_cache_of_readings_is_written_again_only_when_files_changed(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 12)
    for path in (tmp_path / "d").iterdir():
        os.utime(path, (1e9, 1e9))
    reverie.data(tmp_path / "d")
    (cache,) = (reverie_home / "listings").iterdir()
    first = cache.stat().st_ino  # another one once it is written
    reverie.data(tmp_path / "d")
    assert cache.stat().st_ino == first
    (tmp_path / "d" / "0003.png").unlink()
    os.utime(tmp_path / "d" / "0004.png", (2e9, 1.1e9))
    reverie.data(tmp_path / "d")
    cached = json.loads(cache.read_text())
    assert {Path(key.partition("\0")[0]) for key in cached} == {*(tmp_path / "d").iterdir()}
    assert sorted({entry[1] for entry in cached.values()}) == [1_000_000_000 * 10**9, 1_100_000_000 * 10**9]


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path / "d", 12)
    first = reverie.data(tmp_path / "d")
    save(tmp_path / "d" / "0003.png", 99)
    assert reverie.data(tmp_path / "d").fingerprint != first.fingerprint


def test_a_killed_build_goes_on_and_equals_an_uninterrupted_one(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 700, width=16, height=16)
    slow = (
        "import sys, time, reverie.data\n"
        "from reverie.data import decoding\n"
        "decoding.CHUNK = 64\n"
        "reverie.data(sys.argv[1], size=16, progress=lambda d, t, what: what == 'decoding' and time.sleep(0.2))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path / "d")])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        notes = list(reverie_home.glob("stores/*.part/progress.jsonl"))
        if notes and notes[0].stat().st_size > 0 and notes[0].read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    (notes,) = reverie_home.glob("stores/*.part/progress.jsonl")
    with notes.open("ab") as torn:
        torn.write(b'[{"ok": tr')

    decoded = []
    original = decoding._decode_row
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_decode_row", lambda row, *rest: decoded.append(row) or original(row, *rest))
        resumed = reverie.data(tmp_path / "d", size=16)
    assert 0 < len(decoded) < 700 - 64
    assert not list(reverie_home.glob("stores/*.part"))
    result = everything(resumed)
    shutil.rmtree(reverie_home / "stores")
    assert everything(reverie.data(tmp_path / "d", size=16)) == result


def test_two_processes_that_build_at_once_both_get_the_whole_store(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 300, width=16, height=16)
    both = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path / "d")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    prints = {process.communicate(timeout=60)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert prints == {reverie.data(tmp_path / "d", size=16).fingerprint}
    assert len([path for path in (reverie_home / "stores").iterdir() if path.is_dir()]) == 1


def test_two_builds_on_a_file_system_without_locks_do_not_share_a_work_folder(
    tmp_path: Path, reverie_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*args) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    fill(tmp_path / "d", 20)
    inner = []

    def other(done: int, total: int, what: str) -> None:
        if what == "decoding" and not inner:
            inner.append(None)
            monkeypatch.setattr(os, "getpid", lambda: 1)
            inner.append(reverie.data(tmp_path / "d"))

    outer = reverie.data(tmp_path / "d", progress=other)
    assert everything(outer) == everything(inner[1])
    assert not list(reverie_home.glob("stores/*.part"))


def the_store(reverie_home: Path) -> Path:
    (folder,) = (path for path in (reverie_home / "stores").iterdir() if path.is_dir())
    return folder


def rewrite(path: Path, change) -> None:
    """Change a file's content and give it its old modification time."""
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(change(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DAMAGE = {
    "cut": ("images.u8", lambda content: content[:100]),
    "zeroed": ("images.u8", lambda content: bytes(len(content))),
    "one-bit": ("images.u8", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "split": ("meta.json", lambda content: content.replace(b'"train": 9', b'"train": 8')),
    "torn": ("meta.json", lambda content: content[:40]),
    "no-digests": ("digests.json", lambda content: b"{}"),
    "other-digests": ("digests.json", lambda content: content.replace(b'"images.u8": ["', b'"images.u8": ["0')),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_a_damaged_store_is_built_again_and_says_so(tmp_path: Path, reverie_home: Path, damage: str) -> None:
    for name in "ab":
        fill(tmp_path / "d" / name, 6, first=10 * ord(name))
    first = everything(reverie.data(tmp_path / "d"))
    folder = the_store(reverie_home)
    if damage == "gone":
        (folder / "images.u8").unlink()
    else:
        file, change = DAMAGE[damage]
        before = (folder / file).read_bytes()
        rewrite(folder / file, change)
        assert (folder / file).read_bytes() != before
        if damage == "other-digests":
            rewrite(folder / "images.u8", lambda content: content)  # touched, so that its digest is looked at
    with pytest.warns(UserWarning, match="built again from the images"):
        assert everything(reverie.data(tmp_path / "d")) == first
    assert everything(reverie.data(tmp_path / "d")) == first


def test_a_damaged_store_without_its_images_is_an_error(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 12)
    reverie.data(tmp_path / "d")
    rewrite(the_store(reverie_home) / "images.u8", lambda content: bytes(len(content)))
    shutil.rmtree(tmp_path / "d")
    with pytest.raises(ReverieError, match="There is no data called"):
        reverie.data(tmp_path / "d")


def test_a_store_is_hashed_when_it_is_touched_or_moved_and_never_otherwise(
    tmp_path: Path, reverie_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "d", 12)
    first, read = everything(reverie.data(tmp_path / "d")), []
    sha256 = store.sha256_of
    monkeypatch.setattr(store, "sha256_of", lambda path: read.append(path.name) or sha256(path))

    def opened_with(*files: str) -> bool:
        read.clear()
        return everything(reverie.data(tmp_path / "d")) == first and sorted(read) == sorted(files)

    assert opened_with() and opened_with()
    rewrite(the_store(reverie_home) / "images.u8", lambda content: content)
    assert opened_with("images.u8") and opened_with()
    shutil.copytree(reverie_home, tmp_path / "home")
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    assert opened_with("images.u8", "meta.json") and opened_with()


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", 12)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(ReverieError, match=r"disk is full.*REVERIE_HOME"):
        reverie.data(tmp_path / "d")


def test_a_read_only_home_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", 12)

    def refuse(self: Path, *args, **kwargs) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ReverieError, match=r"read-only.*REVERIE_HOME"):
        reverie.data(tmp_path / "d")


def test_a_finished_store_opens_from_a_read_only_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "d", 12)
    first = reverie.data(tmp_path / "d")

    def refuse(*args, **kwargs) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert everything(reverie.data(tmp_path / "d")) == everything(first)


def test_images_in_flight_do_not_grow_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    count = 160
    fill(tmp_path / "d", count, width=8, height=8)
    monkeypatch.setattr(decoding, "CHUNK", 10)
    reverie.data(tmp_path / "d", size=8)
    tracemalloc.start()
    dataset = reverie.data(tmp_path / "d", size=256, channels=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(dataset.train["x"], np.memmap) and not dataset.train["x"].flags.writeable
    assert peak < count * 256 * 256 * 3 / 2  # two chunks of ten, one ahead of the other, and their copies


def test_progress_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "d", 12)
    calls = []
    reverie.data(tmp_path / "d", progress=lambda done, total, what: calls.append((done, total, what)))
    assert (12, 12, "reading") in calls and (12, 12, "decoding") in calls


def test_the_signal_to_stop_leaves_a_build_that_goes_on(tmp_path: Path, reverie_home: Path) -> None:
    fill(tmp_path / "d", 30)

    def interrupt(done: int, total: int, what: str) -> None:
        if what == "decoding":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        reverie.data(tmp_path / "d", progress=interrupt)
    assert list(reverie_home.glob("stores/*.part"))
    assert reverie.data(tmp_path / "d").report.usable == 30
