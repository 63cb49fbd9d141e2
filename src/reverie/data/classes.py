"""The classes, or attributes, that the labels of a set are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reverie.core.terminal import count
from reverie.data.items import natural_key
from reverie.data.types import Problem


def index_labels(labels: Sequence[str | int | None]) -> tuple[np.ndarray, list[str]]:
    """Class names or numbers -> int64 (N,) indices with -1 for None, and the classes' names.

    The numbers 0 to K - 1 are kept. Others are names, such as those of the three classes 3, 7 and 250: in the order of
    the numbers. Names are numbered in natural order.
    """
    distinct = {label for label in labels if label is not None}
    if all(isinstance(label, int) for label in distinct):
        classes = [str(number) for number in sorted({int(label) for label in distinct})]
    else:
        classes = sorted({label_name(label) for label in distinct}, key=natural_key)
    index = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else index[label_name(label)] for label in labels], np.int64), classes


def several_labels(lists: Sequence[Sequence[Any]]) -> tuple[list[str], np.ndarray]:
    """The distinct labels of all lists, in natural order, and float32 (N, K) with 1 for each label of a row."""
    index = index_labels([label for labels in lists for label in labels])[1]
    at = {name: k for k, name in enumerate(index)}
    rows = np.zeros((len(lists), len(index)), np.float32)
    for i, labels in enumerate(lists):
        rows[i, [at[label_name(label)] for label in labels]] = 1
    return index, rows


def several_problem(lists: Iterable[Sequence[Any]]) -> Problem:
    """The report's line on images with several labels or none."""
    counts = Counter(len(labels) for labels in lists)
    counted = ", ".join(f"{count(n, 'image')} with {k}" for k, n in sorted(counts.items()))
    return Problem("*", "several-labels", f"used as attributes, 0 or 1 each, instead of classes: {counted}")


def label_name(label: str | int) -> str:
    """The name of a class that is a name or a number."""
    return str(int(label)) if isinstance(label, int) else str(label)


def number_problem(labels: Sequence[str | int | None], classes: Sequence[str]) -> Problem | None:
    """The report's line on numbers that are not 0 to K - 1."""
    numbers = [label for label in labels if label is not None]
    odd = [*classes] != [str(i) for i in range(len(classes))]
    if not odd or not numbers or not all(isinstance(label, int) for label in numbers):
        return None
    named = ", ".join(classes[:6]) + ("" if len(classes) <= 6 else f" ... {classes[-1]}")
    return Problem("*", "label-numbers", f"used: {count(len(classes), 'class')}, named by their numbers: {named}")
