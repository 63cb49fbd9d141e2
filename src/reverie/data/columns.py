"""Raw columns of labels, texts and attributes to stored columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError
from reverie.core.terminal import count
from reverie.data.classes import index_labels, number_problem, several_labels
from reverie.data.labels import label_value, none_of, unlabelled
from reverie.data.types import Problem


@dataclass(frozen=True)
class Labels:
    """The label column, or attributes where an image has several labels.

    Attributes:
        index: int64 (N,), -1 for none.
        classes: names of the indices.
        attributes: float32 (N, K), 1 for each of an image's labels; None if it has one at most.
        names: of the attributes.
    """

    index: np.ndarray
    classes: list[str]
    attributes: np.ndarray | None = None
    names: list[str] = field(default_factory=list)


def label_columns(
    labels: Any, n: int, what: str, problems: list[Problem], classes: Sequence[str] | None = None
) -> Labels:
    """Class numbers or names, (n,) or (n, 1); rows of 0 and 1 (n, K); or n lists of the labels of each image.

    Args:
        classes: names of the numbers 0 to K - 1, if the source has them.

    Raises:
        ReverieError: another shape, or labels that are neither whole numbers nor strings.
    """
    none = np.full(n, -1, np.int64)
    if labels is None:
        return Labels(none, [])
    rows = _indicators(labels, n)
    if rows is None and (lists := _lists(labels, n)) is not None:
        names, rows = several_labels(lists)
        return _of_indicators(rows, names, what, problems)
    if rows is not None:
        names = [*classes] if classes and len(classes) == rows.shape[1] else [str(i) for i in range(rows.shape[1])]
        return _of_indicators(rows, names, what, problems)
    values = _without_none(_plain(one_per_row(labels, n, what, "labels"), what), problems)
    numbers = all(value is None or isinstance(value, int) for value in values)
    present = [value for value in values if value is not None]
    if numbers and classes and present and all(0 <= value < len(classes) for value in present):
        return Labels(np.array([-1 if value is None else value for value in values], np.int64), [*classes])
    index, names = index_labels(values)
    if not names and n:
        problems.append(Problem("*", "ignored", "ignored: labels that are all negative or None name no class"))
    if problem := number_problem(values, names):
        problems.append(problem)
    return Labels(index, names)


def _of_indicators(rows: np.ndarray, names: list[str], what: str, problems: list[Problem]) -> Labels:
    """Rows with at most a single 1 as labels, others as attributes."""
    single = np.isin(rows, (0, 1)).all() and (rows.sum(1) <= 1).all()
    if single:
        index = np.where(rows.any(1), rows.argmax(1), -1).astype(np.int64)
        problems.append(Problem("*", "labels", f"converted: {what}: labels (N, {rows.shape[1]}) with one 1 a row"))
        return Labels(index, names)
    action = f"converted: {what}: several labels an image, to {count(rows.shape[1], 'attribute')}"
    problems.append(Problem("*", "labels", action))
    return Labels(np.full(len(rows), -1, np.int64), [], rows.astype(np.float32), names)


def _indicators(labels: Any, n: int) -> np.ndarray | None:
    """Labels that are rows of numbers (n, K > 1): of 0 and 1, or other numbers of an array; else None."""
    if isinstance(labels, np.ndarray):
        table = labels if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "fiub" else None
        return None if table is None or len(table) != n or not np.isfinite(table).all() else table
    lengths = {len(row) if isinstance(row, list | tuple | np.ndarray) else 0 for row in labels}
    if len(lengths) != 1 or min(lengths) < 2 or len(labels) != n:
        return None
    table = np.asarray(labels)
    return table if table.dtype.kind in "fiub" and np.isin(table, (0, 1)).all() else None


def _lists(labels: Any, n: int) -> list[list[Any]] | None:
    """Labels that are a list for each image, of names or whole numbers; else None."""
    if len(labels) != n or not any(isinstance(row, list | tuple | set) for row in labels):
        return None
    rows = [[] if row is None else [*row] if isinstance(row, list | tuple | set) else [row] for row in labels]
    rows = [[value.item() if isinstance(value, np.generic) else value for value in row] for row in rows]
    return rows if all(isinstance(value, str | int) for row in rows for value in row) else None


def _plain(values: np.ndarray, what: str) -> list[Any]:
    """Labels as numbers, names or None, see ``label_value``; booleans are 0 and 1.

    Raises:
        ReverieError: another type, or a number that is not whole.
    """
    if values.dtype.kind not in "fiubUO":
        raise ReverieError(f"{what}: labels are {values.dtype}; integers or strings are needed.")
    plain = []
    for row, value in enumerate(values.tolist()):
        if isinstance(value, np.generic):
            value = value.item()
        fraction = isinstance(value, float) and value == value and not value.is_integer()
        if fraction or not (value is None or isinstance(value, int | float | str)):
            raise ReverieError(f"{what}: the label of row {row} is {value!r:.60}; whole numbers or strings are needed.")
        value = int(value) if isinstance(value, bool) else value
        plain.append(label_value(_checked(value, row, what, "label") if isinstance(value, str) else value))
    return plain


def _without_none(values: list[Any], problems: list[Problem]) -> list[Any]:
    """Labels that mean none as None, with a problem if these are not all."""
    none = none_of(values)
    result = [None if value in none else value for value in values]
    cleared = sum(value is None and before is not None for value, before in zip(result, values, strict=True))
    if 0 < cleared < sum(value is not None for value in values):
        problems.append(unlabelled(cleared))
    return result


def _text(value: bytes, what: str, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReverieError(f"{what}: {name} are not UTF-8 ({error}).") from None


def _checked(value: str, row: int, what: str, name: str) -> str:
    """A string that is text. Raises ReverieError for half of a surrogate pair, which no file can hold."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ReverieError(f"{what}: the {name} of row {row} is no text: {value!r:.60}.") from None
    return value


def text_column(texts: Any, n: int, what: str) -> list[str]:
    """Captions, (n,) or (n, 1); None is "".

    Raises:
        ReverieError: another shape, or a caption that is no string.
    """
    values = one_per_row(texts, n, what, "texts")
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise ReverieError(f"{what}: the text of row {row} is {value!r:.60}; a string or None is needed.")
    return ["" if value is None else _checked(str(value), row, what, "text") for row, value in enumerate(values)]


def attribute_column(values: Any, titles: Any, n: int, what: str) -> tuple[np.ndarray, list[str]]:
    """Numbers (n, A) to float32, and the attributes' names; their indices if ``titles`` is None.

    Raises:
        ReverieError: another shape, values that are no numbers or not finite, names of another count.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or array.ndim != 2 or len(array) != n:
        raise ReverieError(f"{what}: attributes are {array.dtype} of shape {array.shape}; numbers ({n}, A) are needed.")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if (bad := np.flatnonzero(~np.isfinite(array).all(1))).size:
        raise ReverieError(f"{what}: attributes of {name_rows(bad)} are not finite. Every image needs a finite number.")
    names = [str(title) for title in (range(array.shape[1]) if titles is None else titles)]
    if len(names) != array.shape[1]:
        raise ReverieError(f"{what}: {count(len(names), 'attribute name')} for {count(array.shape[1], 'attribute')}.")
    return array, names


def one_per_row(values: Any, n: int, what: str, name: str) -> np.ndarray:
    """Values (n,) or (n, 1) as (n,); bytes as strings.

    Raises:
        ReverieError: another shape, or bytes that are not UTF-8.
    """
    if not isinstance(values, np.ndarray):  # NumPy would convert mixed types of a list
        array = np.empty(len(values), object)
        array[:] = values
    else:
        array = values
    if array.shape not in ((n,), (n, 1)):
        raise ReverieError(f"{what}: {name} have shape {array.shape} for {n} images; (N,) or (N, 1) is needed.")
    flat = array.ravel()
    if flat.dtype.kind == "S" or (flat.dtype.kind == "O" and any(isinstance(value, bytes) for value in flat)):
        flat = np.array([_text(v, what, name) if isinstance(v, bytes) else v for v in flat.tolist()], object)
    return flat


def name_rows(rows: Sequence[int] | np.ndarray) -> str:
    """ "row 3" or "rows 3, 5, 8 and 17 more"."""
    first, more = ", ".join(str(row) for row in rows[:3]), len(rows) - 3
    return f"row{'s' * (len(rows) > 1)} {first}{f' and {more} more' if more > 0 else ''}"
