"""A table beside images: which of its columns are splits and numbers, and which became nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from reverie.core.errors import argument
from reverie.core.terminal import printable
from reverie.core.values import is_finite
from reverie.data import words
from reverie.data.choose import TRUTH, is_date
from reverie.data.finder import Finder
from reverie.data.items import HEADER, File, are_both, part_of, split_of
from reverie.data.masks import COLUMNS as MASKS
from reverie.data.naming import Columns
from reverie.data.tree import suffix
from reverie.data.types import Problem
from reverie.data.words import Row
from reverie.media.decode import SUFFIXES

ENOUGH = 0.9  # share of the values of a column that name images
SAMPLED = 200  # rows of a table that are looked at to tell whether it is about the images
LARGEST_HEAD = 64 << 20  # bytes of a table that are looked at for these rows
LARGEST_JSON = 64 << 20  # bytes of a table in JSON
JSON_HEAD = 64 << 10  # bytes of JSON that are looked at to tell whether it may be about the images
COCO = ('"images"', '"annotations"', '"categories"', '"licenses"', '"info"')
SPLITS = ("split", "splits", "partition", "subset", "set", "part", "phase", "dataset", "data_split", "dataset_split")
VALIDATION = ("dev", "devel", "development", "eval", "evaluation")  # more words in these columns
MISSING = ("", "-", "--", "?", ".", "na", "n/a", "#n/a", "nan", "null", "none")  # in columns of numbers
_DECIMALS = re.compile(r"[-+]?\d+(,\d+)?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2},\d{3}")
RUNNING = ("id", "index", "unnamed: 0")  # columns that may number the rows


@dataclass
class Table:
    """A table of a source.

    Attributes:
        columns: their names.
        images: that it is about.
        taken: "image", "text" and "label" -> the column.
        other: column -> number of images of which an earlier table says something else.
    """

    name: str
    columns: dict[str, None]
    images: set[str] = field(default_factory=set)
    taken: dict[str, str | None] = field(default_factory=dict)
    other: dict[str, int] = field(default_factory=dict)

    def unused(self, used: Iterable[str], roles: Mapping[str, Sequence[str]], named: Columns) -> list[Problem]:
        """Lines on columns that might be the text or the label, too, and on those that are ignored.

        Args:
            used: columns that became attributes, or have a line of their own.
            roles: "text" and "label" -> the usual names.
            named: by the user.
        """
        problems = []
        away = {*used, named.mask, *self.taken.values()}
        away |= {name for name in self.columns if name.strip().lower() in MASKS}
        rest = [column for column in self.columns if column not in away]
        for role, usual in roles.items():
            others = [column for column in rest if column.strip().lower() in usual]
            if others and not getattr(named, role) and (taken := self.taken.get(role)):
                also, flag = ", ".join(map(printable, others)), argument("columns", f"{role}={others[0]}")
                action = f"used: {printable(taken)} as the {role}; so might be {also}: {flag}"
                problems.append(Problem(printable(self.name), "columns", action))
        if rest:
            some = next((column for column in rest if column.lower() not in RUNNING), None)
            flags = f"{argument('columns', f'label={some}')} or {argument('columns', f'text={some}')}"
            hint = f"; {flags} uses one" if some else ": it numbers the rows"
            hint += "; a split has the words train and test, val, dev or eval" * any(map(_is_split, rest))
            action = f"ignored: columns {', '.join(map(printable, rest))}{hint}"
            problems.append(Problem(printable(self.name), "ignored", action))
        return problems


def is_running(name: str, numbers: Mapping[str, float | None]) -> bool:
    """Whether a column only numbers the rows, by its name and its values: 0 to N - 1 or 1 to N, in order."""
    values = [*numbers.values()]
    return name.strip().lower() in RUNNING and any(values == [*range(k, k + len(values))] for k in (0, 1))


def splits_of(rows: Mapping[str, Row], about: Mapping[str, set[str]]) -> tuple[str, dict[str, str]]:
    """The column that says the split of images, and its words; "" and those of the tables' names without such a column.

    Either has words for training and for held-out images.

    Args:
        rows: image -> its row.
        about: table -> images.
    """
    for column in dict.fromkeys(name for row in rows.values() for name in row):
        if _is_split(column):
            words = {
                image: _side(row[column].strip()) for image, row in rows.items() if isinstance(row.get(column), str)
            }
            if are_both(words.values()):
                return column, words
    return "", _splits_by_names(about)


def _side(word: str) -> str:
    """The word for a split that is usual in names: "train" of "training set", "val" of dev and eval."""
    lower = re.sub(r"[-_ ]*(set|split)$", "", word.lower())
    lower = "val" if lower in VALIDATION else lower
    return word if split_of(word) or not split_of(lower) else lower


def _splits_by_names(about: Mapping[str, set[str]]) -> dict[str, str]:
    """The splits that the names of tables say, as train.csv and val.csv do; of an image in both, the held-out one."""
    parts = {table: part_of(table.rpartition("/")[2].lower()) for table in about}
    if not are_both(parts.values()):
        return {}
    order = sorted(filter(parts.get, about), key=lambda table: split_of(parts[table]) != "train")
    splits = {image: parts[table] for table in order for image in about[table]}
    return splits if "train" in map(split_of, splits.values()) else {}


def _is_split(column: str) -> bool:
    """Whether a column may be the split by its name."""
    return re.sub(r"[ -]", "_", column.strip().lower()).replace("data_set", "dataset") in SPLITS


def numbers_of(
    rows: Mapping[str, Row], strict: bool = False, with_commas: Container[str] = ()
) -> tuple[dict[str, dict[str, float]], dict[str, tuple[str, str]]]:
    """The numbers of images in the columns that have only numbers, and of other columns a problem's kind and action.

    In these columns words for missing values become None in the rows, and numbers with decimal commas have points.

    Args:
        rows: image -> its row.
        strict: as older versions: every word is no number, and so is true.
        with_commas: columns whose commas are of decimals, where they can be of nothing else.
    """
    numbers, notes = dict[str, dict[str, float]](), dict[str, tuple[str, str]]()
    for name in dict.fromkeys(name for row in rows.values() for name in row if name not in ("text", "label")):
        values = {image: value for image, row in rows.items() if (value := row.get(name)) not in (None, "")}
        if not strict:
            values = {image: value for image, value in values.items() if not is_missing(value)}
            if name in with_commas and _have_commas(values.values()):
                some = next(value for value in values.values() if "," in str(value))
                values = {image: str(value).replace(",", ".") for image, value in values.items()}
                notes[name] = "table", f"used: its numbers have decimal commas, such as {some}"
        column = {image: _number(value, strict) for image, value in values.items()}
        odd = [image for image, number in column.items() if number is None]
        if values and not odd:
            numbers[name] = {image: number for image, number in column.items() if number is not None}
            for image, row in rows.items() if not strict else ():
                if name in row:
                    row[name] = values.get(image)
        elif odd and 2 * len(odd) <= len(values) and not strict:
            some = f"{len(odd):,} of {len(values):,} values are no numbers, the first"
            first = f"{str(values[odd[0]])!r:.40} of {printable(odd[0])}"
            notes[name] = "ignored", f"ignored: it is no attribute: {some} {first}"
    return numbers, notes


def is_missing(value: Any) -> bool:
    """Whether a value in a column of numbers means none."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in MISSING)


def _have_commas(values: Iterable[Any]) -> bool:
    """Whether all are numbers, and a comma in one is of decimals: 3,5, but not 1,050, which may be of thousands."""
    texts = [str(value).strip() for value in values]
    return all(map(_DECIMALS.fullmatch, texts)) and any(
        "," in text and not _THOUSANDS.fullmatch(text) for text in texts
    )


def _number(value: Any, strict: bool) -> float | None:
    if isinstance(value, str) and not strict:
        value = TRUTH.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    joined = not strict and isinstance(value, str) and "_" in value  # Python reads 1_2 as 12
    return number if is_finite(number) and not joined else None


def is_sample(name: str) -> bool:
    """Whether a table is Kaggle's example of answers, whose labels are invented."""
    return bool(re.search(r"sample_?submission", name.rpartition("/")[2].lower()))


def column_of_images(rows: Sequence[Row], find: Callable[[str], str | None]) -> str:
    """The first column of a table with a header whose values are different and nearly all name images; or ""."""
    for column in filter(None, rows[0]):
        names = {value for row in rows if isinstance(value := row.get(column), str) and value}
        if (
            find(column) is None
            and len(names) == len(rows)
            and sum(find(name) is not None for name in names) >= ENOUGH * len(rows)
        ):
            return column
    return ""


def column_of_labels(rows: Sequence[Row], image: str) -> str:
    """The only column beside the images', if its values are words that occur several times, no images; else ""."""
    others = [column for column in rows[0] if column not in ("", image)]
    if len(others) != 1 or _is_split(others[0]) or others[0].strip().lower() in MASKS:
        return ""
    values = [value for row in rows if not is_missing(value := row.get(others[0]))]
    return others[0] if values and 2 * len({*map(str, values)}) <= len(rows) and all(map(_is_word, values)) else ""


def _is_word(value: Any) -> bool:
    """Whether a value may be the name of a class: no number, truth, date, image or other text without a letter."""
    return (
        isinstance(value, str)
        and any(map(str.isalpha, value))
        and _number(value, strict=False) is None
        and not is_date(value.strip())
        and suffix(value) not in SUFFIXES
    )


def are_names(names: Sequence[str], folder: PurePosixPath, find: Finder) -> bool:
    """Whether a table's names of images are those: digits only if nearly all are, and of nearly all images beside."""
    if not all(map(str.isdecimal, names)):
        return True
    images = {image for name in names if (image := find(folder, name)) is not None}
    folders = {image.rpartition("/")[0] for image in images}
    beside = sum(image.rpartition("/")[0] in folders for image in find.images)
    return len(images) >= ENOUGH * max(len(names), beside, 1)


def kinds_of_json(file: File, names_image: Callable[[str], bool]) -> tuple[bool, bool]:
    """Whether JSON may be COCO's, and whether it may be a table, by its first bytes. Raises OSError."""
    head = file.head(JSON_HEAD)
    if len(head) > JSON_HEAD or file.size > JSON_HEAD:
        head = words.to_character(head[: head.rfind(b'"', 0, JSON_HEAD) + 1])
    text, _ = words.decode_text(head)
    return any(key in text for key in COCO), any(map(names_image, words.first_strings(text)))


def first_rows(file: File, name: str) -> list[Row] | None:
    """The first rows of a large table of text; None of one that is small or cannot be read in part."""
    size, rows = HEADER, list[Row]()
    if (
        suffix(name) in (".parquet", ".json")
        or file.size <= size
        or file.packing is not None
        or file.reader is not None
    ):
        return None
    while len(rows) <= SAMPLED and size < file.size and size <= LARGEST_HEAD:
        text = words.decode_text(words.to_last_line(file.head(size)))[0]
        rows, size = words.read_jsonl(text) if suffix(name) == ".jsonl" else words.read_csv(text)[0], 8 * size
    return rows if len(rows) > SAMPLED or size > LARGEST_HEAD else None
