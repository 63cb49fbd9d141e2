"""A table beside images, and which of its columns became nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reverie.core.errors import argument
from reverie.core.terminal import printable
from reverie.data.masks import COLUMNS as MASKS
from reverie.data.naming import Columns
from reverie.data.types import Problem

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
