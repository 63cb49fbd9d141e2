"""What a label is: a class's name or number, or none; for every source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reverie.data.items import Listing, natural_key
from reverie.data.types import Problem

NO_LABEL = (-1, -100)  # -100: what PyTorch's losses ignore
Label = str | int | None


def label_value(value: Any, names: Sequence[str] | None = None, numerals: bool = False) -> Label:
    """A source's value as a label: a number, a name, or None.

    None, not-a-number and blank text are none. A float that is a whole number is that number; what is neither a number
    nor a text is a name as Python writes it.

    Args:
        names: of the numbers 0 to K - 1, if the source has them; negative numbers are then none.
        numerals: a text that is a whole number is that number, as in WebDataset's KEY.cls.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if numerals and isinstance(value, str) and (number := _numeral(value)) is not None:
        value = number
    if isinstance(value, float):
        value = None if value != value else int(value) if value.is_integer() else value
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        return str(value)
    if names and value < len(names):
        return names[value] if value >= 0 else None
    return value


def none_of(values: Iterable[Any]) -> set[Any]:
    """Which of a source's labels, numbers and numerals among names, mean none: -1 and -100.

    Beside other negative numbers, or if all labels are -1 or 1, all are classes.
    """
    distinct = {value for value in values if value is not None}
    numbers = {value: number for value in distinct if (number := _numeral(value)) is not None}
    negative = {number for number in numbers.values() if number < 0}
    if negative - {*NO_LABEL} or (len(numbers) == len(distinct) and {*numbers.values()} == {-1, 1}):
        return set()
    return {value for value, number in numbers.items() if number < 0}


def _numeral(value: Any) -> int | None:
    """A whole number, or the one that a text is."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def unlabelled(count: int) -> Problem:
    """The report's line on images whose label means none."""
    return Problem("*", "unlabelled", f"used: {count:,} images with a negative number have no label")


def clear_negatives(listing: Listing) -> None:
    """Remove the labels that mean none, and report them; a folder's name is a class in any case."""
    none = none_of(item.label for item in listing.items if listing.values or isinstance(item.label, int))
    cleared = sum(item.label in none for item in listing.items)
    if cleared:
        listing.items = [replace(item, label=None) if item.label in none else item for item in listing.items]
        listing.problems.append(unlabelled(cleared))


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
    counted = ", ".join(f"{n} images have {k}" for k, n in sorted(counts.items()))
    return Problem("*", "several-labels", f"used as attributes, 0 or 1 each, instead of classes: {counted}")


def set_labels(listing: Listing, values: Sequence[Any]) -> None:
    """Give the items their labels; where lists have none or several of them, each label is an attribute.

    Args:
        values: of each item; a label, or a list of labels.
    """
    lists = [value if isinstance(value, list) else [] if value is None else [value] for value in values]
    if any(isinstance(value, list) and len(value) != 1 for value in values):
        listing.attributes, rows = several_labels(lists)
        numbers = [tuple(row) for row in rows.tolist()]
        listing.items = [replace(item, attributes=row) for item, row in zip(listing.items, numbers, strict=True)]
        listing.problems.append(several_problem(lists))
        return
    labels = [each[0] if each else None for each in lists]
    listing.items = [replace(item, label=label) for item, label in zip(listing.items, labels, strict=True)]


def labels_of(value: Any, names: Sequence[str] | None = None, numerals: bool = False) -> Any:
    """``label_value`` of a label, or of each of a list's; without those that are none."""
    if not isinstance(value, list | tuple):
        return label_value(value, names, numerals)
    return [label for each in value if (label := label_value(each, names, numerals)) is not None]


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
    return Problem("*", "label-numbers", f"used: {len(classes)} classes, named by their numbers: {named}")
