"""Files that hold whole arrays: .npz, .h5, MNIST's idx files, CIFAR's and STL-10's binary files."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import exists, is_file
from reverie.core.terminal import count, printable
from reverie.data.arrays import Arrays, from_columns
from reverie.data.npz import KEYS, ignored_arrays, keys_of, load_npy, load_npz, second_of
from reverie.data.options import OpenOptions
from reverie.data.pickles import NAMES, pickles_in, refusal
from reverie.data.tree import ignored, is_hidden, of_folder, suffix
from reverie.data.types import Problem
from reverie.media.decode import SUFFIXES

Loader = Callable[[Path, OpenOptions], Arrays]
HDF5 = (".h5", ".hdf5", ".hdf")
CIFAR = {  # first file of the training part -> files of both parts, bytes of labels in a record, file of names
    "data_batch_1.bin": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], 1, "batches.meta.txt"),
    "train.bin": (["train.bin"], ["test.bin"], 2, "fine_label_names.txt"),
}
PIXELS = 3 * 32 * 32
STL = 3 * 96 * 96  # bytes of an image, channels first and columns before rows
DEEPEST = 4  # lone folders
_IDX = re.compile(r"(?:(.+)-)?(train|t10k|test)-(images-idx3-ubyte|labels-idx[12]-(?:ubyte|int))")


def loader_of(source: str) -> Loader | None:
    """What reads a source as arrays; None if it does not hold any."""
    path = Path(source)
    if not exists(path):
        return None
    if is_file(path):
        ending = path.suffix.lower()
        readers: dict[str, Loader] = {".npz": load_npz, ".npy": load_npy, **dict.fromkeys(HDF5, _load_hdf5)}
        return readers.get(ending)
    for folder in _lone_folders(path):
        if _idx_files(folder):
            return _load_idx
        if any((folder / name).is_file() for name in CIFAR):
            return _load_cifar
        if (folder / "train_X.bin").is_file():
            return _load_stl
        if pickles_in(folder):
            return _refuse_pickles
    return None


def check_packed(source: str, names: Iterable[str]) -> None:
    """Raise an error about an archive without images that holds files of arrays, which are read once unpacked."""
    files = {name.rpartition("/")[2]: name for name in names}
    if pickled := [name for name in NAMES[:2] if name in files]:
        raise refusal(source, pickled)
    for file in files:
        idx = _IDX.fullmatch(file.lower().removesuffix(".gz").replace(".", "-"))
        loader = _load_idx if idx else _load_cifar if file in CIFAR else _load_stl if file == "train_X.bin" else None
        words = READ_AS[loader] if loader else _ENDINGS.get(suffix(file))
        if words:
            raise UsageError(f"{source} holds {words} ({printable(files[file])}): unpack it, and pass what is in it.")


def _lone_folders(path: Path) -> list[Path]:
    """A folder, the lone one in it, and so on: torchvision keeps MNIST in MNIST/raw. None if it is no folder."""
    folders: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that cannot be listed: as a tree it is reported
        while path.is_dir() and len(folders) < DEEPEST:
            folders.append(path)
            inside: list[Path] = []
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir() and not is_hidden(entry.name):
                        inside.append(path / entry.name)
                    if len(inside) > 1 or suffix(entry.name) in SUFFIXES:
                        return folders
            if not inside:
                break
            path = inside[0]
    return folders


def _with(path: Path, names: Iterable[str]) -> Path:
    """That of the lone folders which has one of these files."""
    return next(folder for folder in _lone_folders(path) if any((folder / name).is_file() for name in names))


def load(source: str, options: OpenOptions) -> Arrays:
    """The arrays of a source that has a ``loader_of``."""
    loader = loader_of(source)
    assert loader is not None
    arrays = loader(Path(source), options)
    words, rows, cut = READ_AS[loader], len(arrays.rows), arrays.cut
    parts = count(rows, "row") if cut is None else f"train {cut:,} / {arrays.second} {rows - cut:,}"
    return replace(arrays, read_as=f"{words}, {parts}")


# idx


def _idx_files(folder: Path) -> dict[str, dict[tuple[str, str], Path]]:
    """Set ("" or what stands before, as emnist-letters) -> "train" or "test" and "images" or "labels" -> file."""
    sets: dict[str, dict[tuple[str, str], Path]] = {}
    paths: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that cannot be listed: as a tree it is reported
        paths = sorted(folder.iterdir())
    for path in paths:
        match = _IDX.fullmatch(path.name.lower().removesuffix(".gz").replace(".", "-"))
        if match and path.is_file():
            part = "train" if match[2] == "train" else "test"
            sets.setdefault(match[1] or "", {}).setdefault((part, match[3][:6]), path)
    return {name: files for name, files in sets.items() if ("train", "images") in files}


def read_idx(data: bytes) -> np.ndarray:
    """An idx file, gzipped or not: uint8 (N,) labels or (N, H, W, 1) images, int32 (N, K). Raises ValueError."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    dtype = np.dtype(np.uint8 if data[:3] == b"\0\0\x08" else ">i4")
    dimensions = data[3] if len(data) > 3 and data[:3] in (b"\0\0\x08", b"\0\0\x0c") else 0
    shape = np.frombuffer(data, ">u4", dimensions, 4).tolist() if dimensions in (1, 2, 3) else []
    if not shape or len(data) != 4 + 4 * dimensions + int(np.prod(shape)) * dtype.itemsize:
        raise ValueError("not a complete idx file of bytes or integers")
    array = np.frombuffer(data, dtype, offset=4 + 4 * dimensions).reshape(shape)
    return array if dimensions < 3 else array[..., None]


def _load_idx(source: Path, options: OpenOptions) -> Arrays:
    """MNIST's files, also of EMNIST, whose images are turned and whose letters are named in a file, and of QMNIST."""
    folder = next(folder for folder in _lone_folders(source) if _idx_files(folder))
    sets = _idx_files(folder)
    if len(sets) > 1:
        names = ", ".join(map(printable, sorted(sets)))
        raise UsageError(f"{folder} holds several sets: {names}. Put the files of one into a folder of their own.")
    [(name, files)] = sets.items()
    arrays = {}
    for key, path in files.items():
        try:
            arrays[key] = read_idx(path.read_bytes())
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ReverieError(f"{path} cannot be read as an idx file: {error}.") from None
        if key[1] == "labels" and arrays[key].ndim > 1:  # of QMNIST: the class, then writers and sheets
            arrays[key] = arrays[key][:, 0]
        if key[1] == "images" and name.startswith("emnist"):
            arrays[key] = arrays[key].swapaxes(1, 2)
    used, classes = [*files.values()], None
    mapping = folder / f"{name}-mapping.txt"
    if name and mapping.is_file():
        rows = [line.split() for line in mapping.read_text("utf-8", "replace").splitlines()]
        letters = {int(row[0]): chr(int(row[1])) for row in rows if len(row) > 1 and all(map(str.isdecimal, row))}
        if letters:  # of EMNIST's letters the first has number 1
            first = min(letters)
            classes = [letters.get(number, str(number)) for number in range(first, max(letters) + 1)]
            arrays |= {key: array - first for key, array in arrays.items() if key[1] == "labels"}
            used.append(mapping)
    return _joined(arrays, str(source), options, classes, problems=_others(source, used))


def _others(folder: Path, used: Iterable[Path]) -> list[Problem]:
    """The report on the files of a folder that are not used."""
    names, tree = {path.relative_to(folder).as_posix() for path in used}, of_folder(folder)
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


def _load_cifar(source: Path, options: OpenOptions) -> Arrays:
    folder = _with(source, CIFAR)
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
    return _joined(arrays, str(source), options, text.split() or None, _others(source, used))


def _load_stl(source: Path, options: OpenOptions) -> Arrays:
    """STL-10: labels count from 1; the images without labels are not used."""
    folder = _with(source, ("train_X.bin",))
    arrays, used = {}, []
    for part in ("train", "test"):
        images, labels = folder / f"{part}_X.bin", folder / f"{part}_y.bin"
        if not images.is_file():
            continue
        data = images.read_bytes()
        if not data or len(data) % STL:
            raise ReverieError(f"{images} is cut short: its images have {STL:,} bytes each.")
        arrays[part, "images"] = np.frombuffer(data, np.uint8).reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        used.append(images)
        if labels.is_file():
            arrays[part, "labels"] = np.frombuffer(labels.read_bytes(), np.uint8) - 1
            used.append(labels)
    names = folder / "class_names.txt"
    text = names.read_text("utf-8", "replace") if names.is_file() else ""
    return _joined(arrays, str(source), options, text.split() or None, _others(source, [*used, names]))


def _refuse_pickles(source: Path, options: OpenOptions) -> Arrays:
    folder = next(folder for folder in _lone_folders(source) if pickles_in(folder))
    raise refusal(folder, pickles_in(folder))


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
        return replace(_joined(parts, str(path), options, problems=problems), second=second_of(keys))
    if "x" not in columns:
        names = ", ".join(KEYS["x"])
        raise ReverieError(f"{path} has no array with a known name of images, such as {names}; it has {present}.")
    return from_columns(columns, str(path), options, problems=problems)


def _values(item: Any) -> np.ndarray:
    """An array; texts as strings."""
    return item.asstr()[()] if item.dtype.kind == "O" else item[()]


_ENDINGS = {".parquet": "Parquet files", ".npz": "arrays", ".npy": "arrays", **dict.fromkeys(HDF5, "arrays")}
READ_AS: dict[Loader, str] = {
    load_npz: "arrays of an .npz",
    load_npy: "an array",
    _load_hdf5: "arrays of an HDF5 file",
    _load_idx: "MNIST's idx files",
    _load_cifar: "CIFAR's binary files",
    _load_stl: "STL-10's binary files",
    _refuse_pickles: "Python pickles, which are refused",
}
