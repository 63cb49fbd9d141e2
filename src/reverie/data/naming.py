"""Which columns of a table are the image, the label and the text: as the user says, else by their names and types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.terminal import printable
from reverie.data.types import Problem

ROLES = ("image", "label", "text", "mask")


@dataclass(frozen=True)
class Columns:
    """Names of columns; "" is one that is found.

    Attributes:
        image: of encoded images, or of the files' names in a table beside them.
        label, text, mask: of the classes, of the captions, and of masks or their files' names.
        rules: how tables are read: 1 as in runs whose provenance has no ``tables``; 2 without splits by tables'
            columns, by lists of images, and by any word in the names of Parquet files and shards, without tables in
            JSON and columns that are images or labels by their values, and columns with a missing number are no
            attributes; 3 as now.
    """

    image: str = ""
    label: str = ""
    text: str = ""
    mask: str = ""
    rules: int = field(default=3, compare=False)

    @classmethod
    def of(cls, columns: str | Mapping[str, str] | Columns | None) -> Columns:
        """From "image=img,label=fine_label", or the same as a mapping.

        Raises:
            UsageError: another form, or another part than image, label, text and mask.
        """
        if isinstance(columns, Columns):
            return columns
        if isinstance(columns, str):
            pairs = [part.partition("=") for part in columns.split(",")]
            columns = {role.strip(): name.strip() for role, _, name in pairs}
        parts = {} if columns is None else dict(columns)
        roles = [*ROLES]
        for role, name in parts.items():
            if role not in roles or not isinstance(name, str) or not name:
                example = argument("columns", "image=img,label=fine_label,text=alt_text")
                hint = "" if role in roles else suggest(str(role), roles)
                raise UsageError(f"{argument('columns')} names columns, as {example}, not {role!r:.40}.{hint}")
        image, label, text, mask = (parts.get(role, "") for role in ROLES)
        return cls(image, label, text, mask)

    def as_dict(self) -> dict[str, Any]:
        """Those that are named."""
        return {role: name for role in ROLES if (name := getattr(self, role))}

    def check(self, names: Iterable[str], what: str) -> None:
        """Raise UsageError for a named column that is not among ``names``."""
        names = list(dict.fromkeys(names))
        for role, name in self.as_dict().items():
            if name not in names:
                columns = ", ".join(map(printable, names)) or "none"
                raise UsageError(f"{what} has no column {name!r} ({role}).{suggest(name, names)} Columns: {columns}.")

    def pick(
        self, names: Sequence[str], candidates: Mapping[str, Sequence[str]], what: str
    ) -> tuple[dict[str, str | None], list[Problem]]:
        """The column of each role, and lines of the report on what else might be meant and what is ignored.

        Args:
            names: of all columns.
            candidates: role -> columns that may have it, the first of which is taken unless one is named.
            what: the table's name in messages.

        Raises:
            UsageError: a named column does not exist.
        """
        self.check(names, what)
        named = self.as_dict()
        taken = {role: named.get(role) or next(iter(columns), None) for role, columns in candidates.items()}
        problems = []
        for role, columns in candidates.items():
            others = [name for name in columns if name != taken[role]]
            if others and role not in named:
                also = ", ".join(map(printable, others))
                flag = argument("columns", f"{role}={others[0]}")
                flag += f", as its mask: {argument('columns', f'mask={others[0]}')}" * (role == "image")
                action = f"used: {taken[role]} as the {role}; so might be {also}: {flag}"
                problems.append(Problem(printable(what), "columns", action))
        if rest := [name for name in names if name not in taken.values()]:
            action = f"ignored: columns {', '.join(map(printable, sorted(rest)))}"
            problems.append(Problem(printable(what), "ignored", action))
        return taken, problems


def columns_of(opened: Mapping[str, Any]) -> Columns:
    """Of data's provenance; runs of older versions, which recorded no ``tables``, keep their rules."""
    return replace(Columns.of(opened.get("requested", {}).get("columns")), rules=opened.get("tables", 1))


FOUND = Columns()  # all of them


def captions_of(value: Any) -> list[str]:
    """A caption, or a list of them, as text; without empty ones."""
    return [str(text) for text in (value if isinstance(value, list | tuple) else [value]) if _is_text(text)]


def _is_text(value: Any) -> bool:
    return value is not None and value != "" and value == value  # not-a-number is none
