"""``.npz`` files: from arrays to columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.terminal import printable
from reverie.data.archive import Archive, read_npy
from reverie.data.arrays import Arrays, from_columns
from reverie.data.columns import one_per_row
from reverie.data.options import OpenOptions
from reverie.data.rows import Rows, to_rows
from reverie.data.types import Problem

KEYS = {  # column -> accepted names
    "x": ("images", "series", "x", "X", "arr_0", "data", "imgs"),
    "label": ("labels", "y", "Y", "label", "targets", "ans"),
    "text": ("texts", "captions"),
    "source": ("sources", "source"),
    "mask": ("masks", "mask"),
    "attributes": ("attributes", "latents_values"),
    "attribute_names": ("attribute_names",),
    "train": ("x_train", "train_images", "images_train"),
    "train_label": ("y_train", "train_labels", "labels_train"),
    "test": ("x_test", "test_images", "images_test", "x_val", "val_images", "images_val"),
    "test_label": ("y_test", "test_labels", "labels_test", "y_val", "val_labels", "labels_val"),
}


def keys_of(names: Collection[str], part: str) -> dict[str, str | None]:
    """Column -> the name of its array, None without one.

    Args:
        names: of all arrays.
        part: "test" or "val": of two held-out splits, that of the columns for the test set.
    """
    keys = {}
    for column, usual in KEYS.items():
        order = sorted(usual, key=lambda name: ("val" in name) != (part == "val"))
        keys[column] = next((name for name in order if name in names), None)
    test, label = keys["test"], keys["test_label"]
    keys["test_label"] = None if test and label and ("val" in test) != ("val" in label) else label
    return keys


def second_of(keys: Mapping[str, str | None]) -> str:
    """The name of the held-out split of ``keys_of``."""
    return "val" if "val" in (keys["test"] or "") else "test"


def load_npz(path: Path, options: OpenOptions) -> Arrays:
    """Read an ``.npz``; pickled content is refused.

    Raises:
        UsageError: statistics of features, not images.
        ReverieError: wrong names or shapes.
    """
    with Archive(path) as archive:
        keys = keys_of(archive.names, options.second)
        arrays: dict[str, Any] = {column: archive.read(key) for column, key in keys.items() if key is not None}
        others = [name for name in archive.names if name not in keys.values()]
        if keys["x"] == "arr_0" and not keys["label"] and (labels := _by_position(archive)) is not None:
            arrays["label"], others = labels, [name for name in others if name != "arr_1"]
        present = ", ".join(f"{k} {archive.shape(k)}" for k in archive.names[:12]) if not arrays else ""
        statistics = {"mu", "sigma"} <= {*archive.names}
    if keys["x"] == "series":
        if options.medium not in (None, "sequence"):
            kind = f"{options.medium}s"
            raise UsageError(f"{path} holds series, and {kind} are needed. If it holds {kind}, name the array images.")
        options = replace(options, medium="sequence")
    problems = ignored_arrays(others)
    if unused := [key for column in _unused(arrays) if (key := keys[column])]:
        action = f"ignored: arrays {', '.join(unused)}, because others are the images and labels"
        problems.append(Problem("*", "ignored", action))
    cut = None
    if "train" in arrays and "test" in arrays:
        ends: dict[str, Any] = {"low": options.low, "high": options.high}
        sides = arrays["train"], arrays["test"]
        cut = len(sides[0])
        if (
            sides[0].dtype == sides[1].dtype and sides[0].shape[1:] == sides[1].shape[1:]
        ):  # one range of values for both
            arrays["x"] = np.concatenate(sides)
        else:
            train, test = (
                to_rows(side, f"{path}: {kind} images", problems, options.medium, **ends)
                for side, kind in zip(sides, ("training", "test"), strict=True)
            )
            if train.spec != test.spec:
                raise ReverieError(f"{path}: training images are {train.spec}, test images {test.spec}.")
            arrays["x"] = Rows(np.concatenate([train.values, test.values]), train.spec)
        arrays["label"] = _split_labels(arrays, cut, len(sides[1]), str(path), problems)
    elif "x" not in arrays and "train" in arrays:
        arrays |= {"x": arrays["train"], "label": arrays.get("label", arrays.get("train_label"))}
    if "x" not in arrays and statistics:
        raise UsageError(
            f"{path} holds precomputed statistics of features (mu, sigma), not images. `reverie evaluate` compares "
            f"with them by {argument('reference', path)}. Elsewhere pass the images: a folder, an .npz with images, or "
            "a public set such as cifar10:train."
        )
    if "x" not in arrays:
        raise ReverieError(
            f"{path} has no array with a known name of images (it has {present}). Name it images: uint8 (N, H, W) or "
            "(N, H, W, C), with optional labels (N,) and texts (N,); or x_train, y_train, x_test, y_test. Time series "
            "are named series: (N, L, C)."
        )
    return replace(from_columns(arrays, str(path), options, cut=cut, problems=problems), second=second_of(keys))


def _unused(arrays: dict[str, Any]) -> list[str]:
    """Columns for which others are used: the images of both splits before those of none, these before one split."""
    if {"train", "test"} <= arrays.keys():
        unused = {"x", "label"}
    elif "x" in arrays:
        unused = {"train", "test", "train_label", "test_label"}
    else:
        unused = {"test_label"} | ({"train_label"} if "label" in arrays else set())
    return [column for column in arrays if column in unused]


def ignored_arrays(names: list[str]) -> list[Problem]:
    """A line of the report on arrays that are no column, or those of another held-out split."""
    some = ", ".join(map(printable, names[:12])) + " ..." * (len(names) > 12)
    parts = [part for part in ("test", "val") if any(part in name for name in names if name in KEYS["test"])]
    hint = f"; FILE:{parts[0]} reads those of {parts[0]}" if parts else ""
    return [Problem("*", "ignored", f"ignored: arrays {some}, whose names are no column's{hint}")] if names else []


def _by_position(archive: Archive) -> np.ndarray | None:
    """``arr_1`` if it is a number for each image of ``arr_0``: the labels, as guided diffusion's tools write them."""
    if "arr_1" not in archive.names or archive.shape("arr_1") != archive.shape("arr_0")[:1]:
        return None
    labels = archive.read("arr_1")
    return labels if labels.dtype.kind in "iu" else None


def load_npy(path: Path, options: OpenOptions) -> Arrays:
    """Read an ``.npy``: one array of all images, or rows of another medium.

    Raises:
        ReverieError: it is damaged, holds Python objects, or has an unfit shape or type.
    """
    try:
        values = read_npy(path)
    except ValueError as error:
        raise ReverieError(
            f"{path} cannot be read as .npy: {error}. Save a plain array: numpy.save(path, uint8)."
        ) from None
    if values is None:
        raise ReverieError(f"{path} is no .npy but an archive of arrays: name it .npz.")
    return from_columns({"x": values}, str(path), options)


def _split_labels(arrays: dict[str, Any], train: int, test: int, what: str, problems: list[Problem]) -> Any:
    """Labels of both splits as one column (N,); None, with a problem, if only one split has them."""
    counts = {"train_label": train, "test_label": test}
    labels = [
        arrays[name] if _is_table(arrays[name], n) else one_per_row(arrays[name], n, what, f"{name}s")
        for name, n in counts.items()
        if name in arrays
    ]
    if len(labels) == 1:
        problems.append(Problem("*", "ignored", "ignored: labels of only one split"))
    if len(labels) < 2:
        return None
    if len({(values.dtype.kind in "USO", values.shape[1:]) for values in labels}) > 1:
        raise ReverieError(f"{what}: labels are {labels[0].dtype} in one split and {labels[1].dtype} in the other.")
    return np.concatenate(labels)


def _is_table(values: np.ndarray, n: int) -> bool:
    """Whether labels are rows (n, K) of several numbers."""
    return values.ndim == 2 and values.shape[1] > 1 and len(values) == n
