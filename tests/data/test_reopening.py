"""Every option chooses what it says on every kind of source, or is refused; provenance opens the same data again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from container_cases import tar
from layout_cases import encoded
from PIL import Image
from small_pictures import fill, pixels, save

import reverie.data
from reverie.core.errors import UsageError
from reverie.data.batches import Batches


def folder(root: Path) -> Path:
    """Two classes, transparent images, a table with a number and two captions, and near duplicates."""
    rows = []
    for k, name in enumerate(("ant", "bee")):
        for i in range(10):
            path = root / name / f"{i}.png"
            save(path, 20 * k + i, 16, 16, compress_level=i % 2)
            image = Image.open(path)
            image.putalpha(255 if i else 9)
            image.save(path)
            rows.append({"file_name": f"{name}/{i}.png", "age": i, "text": [f"{name} {i}", f"an {name}"]})
        save(root / name / "again.png", 20 * k + 3, 16, 16, compress_level=9)
    fill(root / "ant", 2, first=90, width=9, height=9)
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def deep(root: Path) -> Path:
    root.mkdir()
    for i in range(12):
        Image.fromarray(pixels(i, channels=1)[..., 0].astype(np.uint16) * 16).save(root / f"{i}.png")
    return root


def twins(root: Path) -> Path:
    fill(root, 12)
    for i in range(3):
        (root / f"copy {i}.png").write_bytes((root / f"000{i}.png").read_bytes())
    return root


def films(root: Path) -> Path:
    for k, name in enumerate(("ant", "bee")):
        for film in range(3):
            fill(root / name / str(film), 12, first=1000 * k + 100 * film, width=8, height=8)
    rows = "\n".join(f"{name}/{film},{film},a film" for name in ("ant", "bee") for film in range(3))
    (root / "films.csv").write_text(f"file_name,age,text\n{rows}")
    return root


def scans(root: Path) -> Path:
    for k, name in enumerate(("ant", "bee")):
        for i in range(10):
            (root / name).mkdir(parents=True, exist_ok=True)
            np.save(root / name / f"{i}.npy", np.random.default_rng(20 * k + i).integers(0, 999, (2, 6, 6)))
            (root / name / f"{i}.txt").write_text("late" if i > 7 else "early")
    return root


def npz(root: Path) -> Path:
    images, labels = np.stack([pixels(i) for i in range(30)]), np.array(["ant", "bee"])[np.arange(30) % 2]
    root = root.with_suffix(".npz")
    np.savez(root, images=images, labels=labels, attributes=np.arange(30)[:, None], attribute_names=["age"])
    return root


def hdf5(root: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(root.with_suffix(".h5"), "w") as file:
        file["images"], file["labels"] = np.stack([pixels(i) for i in range(30)]), np.arange(30) % 2
    return root.with_suffix(".h5")


def idx(root: Path) -> Path:
    root.mkdir()
    grey = np.stack([pixels(i, channels=1)[..., 0] for i in range(30)])
    for name, array in (
        ("train-images-idx3-ubyte", grey),
        ("train-labels-idx1-ubyte", np.arange(30, dtype=np.uint8) % 2),
    ):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (root / name).write_bytes(head + array.tobytes())
    return root


def cifar(root: Path) -> Path:
    root.mkdir()
    rows = (bytes([i % 2]) + pixels(i, 32, 32).transpose(2, 0, 1).tobytes() for i in range(30))
    (root / "data_batch_1.bin").write_bytes(b"".join(rows))
    return root


def shard(root: Path) -> Path:
    words = [json.dumps({"caption": f"number {i}", "label": i % 2}).encode() for i in range(30)]
    files = {f"{i:02d}.png": encoded(i) for i in range(30)} | {f"{i:02d}.json": word for i, word in enumerate(words)}
    root.with_suffix(".tar").write_bytes(tar(files))
    return root.with_suffix(".tar")


def parquet(root: Path) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"image": {"bytes": encoded(i)}, "label": i % 2} for i in range(30)]
    parquet.write_table(arrow.Table.from_pylist(rows), root.with_suffix(".parquet"))
    return root.with_suffix(".parquet")


VIDEO, VOLUME = {"medium": "video", "frames": 3}, {"medium": "volume"}
CASES: list[tuple[Callable[[Path], Path], dict[str, Any], int]] = [  # source, options, number of samples
    (folder, {}, 24),
    (folder, {"layout": "images"}, 24),
    (folder, {"classes": "ant"}, 13),
    (folder, {"where": "age >= 2 and age < 7"}, 10),
    (folder, {"where": "text == 'an ant'"}, 10),
    (folder, {"limit": 9}, 9),
    (folder, {"limit": 9, "classes": "bee", "size": 8}, 9),
    (folder, {"resolution_at_least": 10}, 22),
    (folder, {"dedupe": True}, 22),
    (folder, {"max_pixels": 100}, 2),
    (folder, {"channels": 4}, 24),
    (folder, {"channels": 1, "background": "red", "fit": "pad", "size": (8, 12), "held_out": 0.4}, 24),
    (twins, {"copies": True}, 15),
    (deep, {"low": 0, "high": 65535}, 12),
    (deep, {"low": 100.5, "high": 3000.0}, 12),
    (films, VIDEO, 24),
    (films, VIDEO | {"stride": 2}, 12),
    (films, VIDEO | {"classes": "bee"}, 12),
    (films, VIDEO | {"where": "age > 0"}, 16),
    (films, VIDEO | {"limit": 10}, 10),
    (scans, VOLUME, 20),
    (scans, VOLUME | {"classes": "ant"}, 10),
    (scans, VOLUME | {"where": "text == early"}, 16),
    (scans, VOLUME | {"limit": 9, "low": 0, "high": 500}, 9),
    *((source, {"classes": "ant"} if source is npz else {"classes": "1"}, 15) for source in (npz, hdf5, idx, cifar)),
    *((source, {"where": "label == 0", "limit": 9}, 9) for source in (hdf5, idx, cifar, shard, parquet)),
    *((source, {"classes": ["0"]}, 15) for source in (shard, parquet)),
    (npz, {"where": "age > 11", "dedupe": True}, 18),
]


@pytest.mark.parametrize(
    ("make", "options", "n"), CASES, ids=[f"{make.__name__}-{'-'.join(options)}" for make, options, _ in CASES]
)
def test_an_option_chooses_what_it_says_and_the_provenance_opens_the_same_again(
    tmp_path: Path, make: Callable[[Path], Path], options: dict[str, Any], n: int
) -> None:
    source = make(tmp_path / "data")
    if options.get("max_pixels") == 100:
        fill(source, 8, first=50, width=10, height=10)
        n += 8
    dataset = reverie.data(source, **options)
    assert len(dataset.train) + len(dataset.held_out) == n
    again = reverie.data.reopen(json.loads(json.dumps(dataset.provenance)))
    assert again.fingerprint == dataset.fingerprint and again.provenance == dataset.provenance
    assert (again.train.names, again.held_out.names) == (dataset.train.names, dataset.held_out.names)


@pytest.mark.parametrize(
    "option", [{"layout": "classes"}, {"dedupe": True}, {"resolution_at_least": 9}, {"max_pixels": 9}]
)
@pytest.mark.parametrize("medium", ["video", "volume"])
def test_what_films_and_volumes_have_not_is_refused_with_the_options_name(tmp_path: Path, option, medium: str) -> None:
    source = films(tmp_path / "d") if medium == "video" else scans(tmp_path / "d")
    with pytest.raises(UsageError, match=rf"{next(iter(option))}.* is for images"):
        reverie.data(source, medium=medium, **option)


@pytest.mark.parametrize("make", [npz, hdf5, idx, cifar])
def test_arrays_have_no_files_with_a_resolution(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(UsageError, match="resolution_at_least is for files"):
        reverie.data(make(tmp_path / "data"), resolution_at_least=9)


def test_draws_of_several_captions_are_those_of_the_run_after_its_data_is_opened_again(tmp_path: Path) -> None:
    dataset = reverie.data(folder(tmp_path / "d"), where="age >= 0", size=8)
    first = [Batches(dataset.train, 4, seed=7)(step)["text"] for step in range(12)]
    again = reverie.data.reopen(json.loads(json.dumps(dataset.provenance)))
    resumed = Batches(again.train, 4, seed=7)
    assert [resumed(step)["text"] for step in range(6, 12)] == first[6:]
    assert {text.startswith("an ") for texts in first for text in texts} == {True, False}
