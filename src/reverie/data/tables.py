"""A table beside images, and which of its columns became nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reverie.core.errors import argument
from reverie.core.terminal import printable
from reverie.data import words
from reverie.data.items import HEADER, File
from reverie.data.masks import COLUMNS as MASKS
from reverie.data.naming import Columns
from reverie.data.tree import suffix
from reverie.data.types import Problem
from reverie.data.words import Row

SAMPLED = 200  # rows of a table that are looked at to tell whether it is about the images
LARGEST_HEAD = 64 << 20  # bytes of a table that are looked at for these rows
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
        away = {*used, *(name for name in self.columns if name.strip().lower() in MASKS)} | {*self.taken.values()}
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
            action = f"ignored: columns {', '.join(map(printable, rest))}{hint}"
            problems.append(Problem(printable(self.name), "ignored", action))
        return problems


def is_running(name: str, numbers: Mapping[str, float | None]) -> bool:
    """Whether a column only numbers the rows, by its name and its values: 0 to N - 1 or 1 to N, in order."""
    values = [*numbers.values()]
    return name.strip().lower() in RUNNING and any(values == [*range(k, k + len(values))] for k in (0, 1))


def first_rows(file: File, name: str) -> list[Row] | None:
    """The first rows of a large table of text; None of one that is small or cannot be read in part."""
    size, rows = HEADER, list[Row]()
    if suffix(name) == ".parquet" or file.size <= size or file.packing is not None or file.reader is not None:
        return None
    while len(rows) <= SAMPLED and size < file.size and size <= LARGEST_HEAD:
        text = words.decode_text(words.to_last_line(file.head(size)))[0]
        rows, size = words.read_jsonl(text) if suffix(name) == ".jsonl" else words.read_csv(text)[0], 8 * size
    return rows if len(rows) > SAMPLED or size > LARGEST_HEAD else None
