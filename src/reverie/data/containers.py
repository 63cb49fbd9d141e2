"""Files that hold whole arrays: .npz, .h5, MNIST's idx files and CIFAR's binary files."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import exists, is_file
from reverie.core.terminal import count
from reverie.data.arrays import Arrays, from_columns
from reverie.data.npz import KEYS, ignored_arrays, keys_of, load_npy, load_npz
from reverie.data.options import OpenOptions
from reverie.data.tree import ignored, of_folder
from reverie.data.types import Problem

Loader = Callable[[Path, OpenOptions], Arrays]
HDF5 = (".h5", ".hdf5", ".hdf")
CIFAR = {  # first file of the training part -> files of both parts, bytes of labels in a record, file of names
    "data_batch_1.bin": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], 1, "batches.meta.txt"),
    "train.bin": (["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}
PIXELS = 3 * 32 * 32


def loader_of(source: str) -> Loader | None:
    """What reads a source as arrays; None if it does not hold any."""
    path = Path(source)
    if not exists(path):
        return None
    if is_file(path):
        ending = path.suffix.lower()
        readers: dict[str, Loader] = {".npz": load_npz, ".npy": load_npy, **dict.fromkeys(HDF5, _load_hdf5)}
        return readers.get(ending)
    if not path.is_dir():
        return None
    if _idx_files(path):
        return _load_idx
    return _load_cifar if any((path / name).is_file() for name in CIFAR) else None


def load(source: str, options: OpenOptions) -> Arrays:
    """The arrays of a source that has a ``loader_of``."""
    loader = loader_of(source)
    assert loader is not None
    arrays = loader(Path(source), options)
    words, rows, cut = READ_AS[loader], len(arrays.rows), arrays.cut
    parts = count(rows, "row") if cut is None else f"train {cut:,} / {options.second} {rows - cut:,}"
    return replace(arrays, read_as=f"{words}, {parts}")


# idx


def _idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """("train" or "t10k", "images" or "labels") -> file of MNIST's names, in any of their spellings."""
    files: dict[tuple[str, str], Path] = {}
    paths: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that cannot be listed: as a tree it is reported
        paths = sorted(folder.iterdir())
    for path in paths:
        name = path.name.lower().removesuffix(".gz").replace(".", "-")
        for part in ("train", "t10k", "test"):
            for kind, ending in (("images", "images-idx3-ubyte"), ("labels", "labels-idx1-ubyte")):
                if name == f"{part}-{ending}" and path.is_file():
                    files.setdefault(("train" if part == "train" else "test", kind), path)
    return files if ("train", "images") in files else {}


def read_idx(data: bytes) -> np.ndarray:
    """An idx file of uint8, gzipped or not: (N,) labels or (N, H, W, 1) images. Raises ValueError."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    dimensions = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(data, ">u4", dimensions, 4).tolist() if dimensions in (1, 3) else []
    if not shape or len(data) != 4 + 4 * dimensions + int(np.prod(shape)):
        raise ValueError("not a complete idx file of bytes")
    array = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    return array if dimensions == 1 else array[..., None]


def _load_idx(folder: Path, options: OpenOptions) -> Arrays:
    arrays, files = {}, _idx_files(folder)
    for key, path in files.items():
        try:
            arrays[key] = read_idx(path.read_bytes())
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ReverieError(f"{path} cannot be read as an idx file: {error}.") from None
    return _joined(arrays, str(folder), options, problems=_others(folder, files.values()))


def _others(folder: Path, used: Iterable[Path]) -> list[Problem]:
    """The report on the files of a folder that are not used."""
    names, tree = {path.name for path in used}, of_folder(folder)
    return tree.problems + ignored(name for name in tree.files if name not in names)


def _joined(
    arrays: dict[tuple[str, str], np.ndarray],
    what: str,
    options: OpenOptions,
    names: Any = None,
    problems: list[Problem] | None = None,
) -> Arrays:
    """Images and labels of one or two parts."""
    parts = [part for part in ("train", "test") if (part, "images") in arrays]
    labelled = all((part, "labels") in arrays for part in parts)
    columns: dict[str, Any] = {"x": np.concatenate([arrays[part, "images"] for part in parts])}
    if labelled:
        columns["label"] = np.concatenate([arrays[part, "labels"] for part in parts]).astype(np.int64)
    cut = len(arrays["train", "images"]) if len(parts) == 2 else None
    return from_columns(columns, what, options, cut=cut, classes=names, problems=problems)


# CIFAR


def _load_cifar(folder: Path, options: OpenOptions) -> Arrays:
    train, test, labels, names = next(layout for first, layout in CIFAR.items() if (folder / first).is_file())
    arrays, used = {}, [folder / names]
    for part, files in (("train", train), ("test", test)):
        present = [folder / name for name in files if (folder / name).is_file()]
        if not present:
            continue
        used += present
        records = []
        for path in present:
            data = path.read_bytes()
            if not data or len(data) % (labels + PIXELS):
                raise ReverieError(f"{path} is cut short: its records have {labels + PIXELS:,} bytes each.")
            records.append(np.frombuffer(data, np.uint8).reshape(-1, labels + PIXELS))
        rows = np.concatenate(records)
        arrays[part, "labels"] = rows[:, labels - 1]
        arrays[part, "images"] = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    text = (folder / names).read_text("utf-8", "replace") if (folder / names).is_file() else ""
    return _joined(arrays, str(folder), options, text.split() or None, _others(folder, used))


# HDF5


def _load_hdf5(path: Path, options: OpenOptions) -> Arrays:
    """The arrays of an .h5 by the names of an .npz, at its top or in a lone group.

    Raises:
        UsageError: h5py is missing.
        ReverieError: a damaged file, or no array of a known name.
    """
    try:
        import h5py
    except ImportError:
        raise UsageError(f"{path} needs h5py: pip install 'reverie[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            group: Any = file
            while len(group) == 1 and isinstance(next(iter(group.values())), h5py.Group):
                group = next(iter(group.values()))
            arrays = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
            keys = keys_of(arrays, options.second)
            columns = {column: _values(arrays[key]) for column, key in keys.items() if key is not None}
            present = ", ".join(f"{name} {item.shape}" for name, item in list(arrays.items())[:12]) or "none"
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ReverieError(f"{path} cannot be read as HDF5: {' '.join(str(error).split())[:160]}.") from None
    problems = ignored_arrays([name for name in arrays if name not in keys.values()])
    if "train" in columns:
        parts = {("train", "images"): columns["train"]}
        parts |= {("test", "images"): columns["test"]} if "test" in columns else {}
        for part in ("train", "test"):
            if f"{part}_label" in columns:
                parts[part, "labels"] = columns[f"{part}_label"]
        return _joined(parts, str(path), options, problems=problems)
    if "x" not in columns:
        names = ", ".join(KEYS["x"])
        raise ReverieError(f"{path} has no array with a known name of images, such as {names}; it has {present}.")
    return from_columns(columns, str(path), options, problems=problems)


def _values(item: Any) -> np.ndarray:
    """An array; texts as strings."""
    return item.asstr()[()] if item.dtype.kind == "O" else item[()]


READ_AS: dict[Loader, str] = {
    load_npz: "arrays of an .npz",
    load_npy: "an array",
    _load_hdf5: "arrays of an HDF5 file",
    _load_idx: "MNIST's idx files",
    _load_cifar: "CIFAR's binary files",
}
