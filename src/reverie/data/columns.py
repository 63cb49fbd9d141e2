"""Raw columns of labels, texts and attributes to stored columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from reverie.core.errors import ReverieError
from reverie.data.items import index_labels


def label_column(labels: Any, n: int, what: str) -> tuple[np.ndarray, list[str]]:
    """Class numbers or names, (n,) or (n, 1), to int64 indices (n,), -1 for none (None, below 0), and class names.

    Raises:
        ReverieError: another shape, or labels that are neither integers nor strings.
    """
    if labels is None:
        return np.full(n, -1, np.int64), []
    values = one_per_row(labels, n, what, "labels")
    if values.dtype.kind in "iub":
        return index_labels([None if value < 0 else int(value) for value in values])
    if values.dtype.kind in "US":
        return index_labels([str(value) for value in values])
    if values.dtype.kind == "O" and all(value is None or isinstance(value, str | int) for value in values):
        return index_labels([None if isinstance(v, int) and v < 0 else v for v in values.tolist()])
    raise ReverieError(f"{what}: labels are {values.dtype}; integers or strings are needed.")


def text_column(texts: Any, n: int, what: str) -> list[str]:
    """Captions, (n,) or (n, 1); None is "".

    Raises:
        ReverieError: another shape, or a caption that is no string.
    """
    values = one_per_row(texts, n, what, "texts")
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise ReverieError(f"{what}: the text of row {row} is {value!r:.60}; a string or None is needed.")
    return ["" if value is None else str(value) for value in values]


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
        raise ReverieError(f"{what}: {len(names)} attribute names for {array.shape[1]} attributes.")
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
    try:
        return np.char.decode(array.ravel(), "utf-8") if array.dtype.kind == "S" else array.ravel()
    except UnicodeDecodeError as error:
        raise ReverieError(f"{what}: {name} are not UTF-8 ({error}).") from None


def name_rows(rows: Sequence[int] | np.ndarray) -> str:
    """ "row 3" or "rows 3, 5, 8 and 17 more"."""
    first, more = ", ".join(str(row) for row in rows[:3]), len(rows) - 3
    return f"row{'s' * (len(rows) > 1)} {first}{f' and {more} more' if more > 0 else ''}"
