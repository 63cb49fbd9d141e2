"""What a label is: a class's name or number, or none; for every source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from reverie.core.terminal import count
from reverie.data.classes import several_labels, several_problem
from reverie.data.items import Listing
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


def unlabelled(number: int) -> Problem:
    """The report's line on images whose label means none."""
    return Problem("*", "unlabelled", f"used: no label for {count(number, 'image')} with a negative number")


def clear_negatives(listing: Listing) -> None:
    """Remove the labels that mean none, and report them; a folder's name is a class in any case."""
    none = none_of(item.label for item in listing.items if listing.values or isinstance(item.label, int))
    cleared = sum(item.label in none for item in listing.items)
    if cleared:
        listing.items = [replace(item, label=None) if item.label in none else item for item in listing.items]
        listing.problems.append(unlabelled(cleared))


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
