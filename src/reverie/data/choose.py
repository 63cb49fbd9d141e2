"""Choosing what to learn from: classes, a condition on columns, a number of images, a resolution."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.terminal import count
from reverie.core.values import check_bool, integers
from reverie.data.items import Listing
from reverie.data.split import second_fraction
from reverie.data.types import Problem

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
TRUTH = {"true": 1, "false": 0}
_TERM = re.compile(
    r"""(?P<column>"[^"]+"\s*|[^=<>!"']+)(?P<sign>==|!=|<=|>=|<|>)(?P<value>\s*"[^"]*"|\s*'[^']*'|[^=<>!"']+)"""
)
LONGEST = 10_000  # characters of a condition
_QUOTED = re.compile(r""""[^"]*"|'[^']*'""")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ][\d:.+-]*Z?)?")  # whose order is that of their texts
_NAN = float("nan")
_JOINED = re.compile(r"\s(?:[oO][rR]|A[nN][dD])\s|&&|\|\|")  # what might be meant to join comparisons
_AND = re.compile(r"""\s+and\s+(?=(?:[^"']|"[^"]*"|'[^']*')*$)""")


@dataclass(frozen=True)
class Choice:
    """Which of a source's images are used.

    Attributes:
        classes: names of the only ones; empty: all.
        where: a condition on columns, such as ``age >= 18 and style == "ink"``; "": none.
        limit: at most so many, by content, so that the same are chosen whatever their names; 0: all.
        resolution_at_least: of the shorter side of a file's image, in pixels.
        dedupe: of images that look the same, keep one.
    """

    classes: tuple[str, ...] = ()
    where: str = ""
    limit: int = 0
    resolution_at_least: int = 0
    dedupe: bool = False

    @classmethod
    def of(
        cls,
        classes: str | Sequence[str] | None,
        where: str | None,
        limit: int | None,
        resolution: int | None,
        dedupe: bool,
    ) -> Choice:
        """Parsed and checked.

        Raises:
            UsageError: a condition that cannot be read, a number below 1.
        """
        if not isinstance(classes, Iterable | None):
            raise UsageError(f"{argument('classes')} is a list of names, such as a,b, not {classes!r:.80}.")
        if isinstance(classes, str):
            classes = [part.strip() for part in classes.split(",")]
        names = tuple(str(name) for name in (() if classes is None else classes))
        if classes is not None and not all(names):
            raise UsageError(f"{argument('classes')} is a list of names, such as a,b.")
        for name, number in (("limit", limit), ("resolution_at_least", resolution)):
            if number is not None and ((integer := integers([number])) is None or integer[0] < 1):
                raise UsageError(f"{argument(name)} must be a whole number above 0, not {number!r}.")
        if where is not None:
            parse_condition(where)
        check_bool(argument("dedupe"), dedupe)
        return cls(names, where or "", int(limit or 0), int(resolution or 0), bool(dedupe))

    def as_dict(self) -> dict[str, Any]:
        """Those that choose anything, as arguments of ``open_data``."""
        chosen = {name: value for name, value in asdict(self).items() if value}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()}


@dataclass(frozen=True)
class Term:
    """One comparison of a condition."""

    column: str
    sign: str
    value: str

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Numbers are compared as numbers, true and false as 1 and 0, others as text; a missing one fulfils nothing."""
        value = row.get(self.column)
        if value is None or value == "" or value != value:
            return False
        compare = COMPARISONS[self.sign]
        several = all if self.sign == "!=" else any
        return several(compare(*(_comparable(each, self.value, self.sign) or (0, _NAN))) for each in _listed(value))

    def without_order(self, row: Mapping[str, Any]) -> list[Any]:
        """The values that cannot be compared."""
        values = [each for each in _listed(row.get(self.column)) if each not in (None, "")]
        return [each for each in values if _comparable(each, self.value, self.sign) is None]


def _comparable(left: Any, right: str, sign: str) -> tuple[Any, Any] | None:
    """Both as numbers, or as text for equality and for the order of dates; None where there is no order."""
    numbers = _number(left), _number(right)
    if None not in numbers:
        return numbers
    texts = str(left), right
    return texts if sign in ("==", "!=") or all(map(is_date, texts)) else None


def _number(value: Any) -> int | float | None:
    """A whole number of any size as int, another as float; None of what is no number."""
    value = TRUTH.get(str(value).lower(), value)
    if isinstance(value, int):
        return int(value)
    with contextlib.suppress(ValueError):
        return int(str(value))
    with contextlib.suppress(TypeError, ValueError):
        return float(value)
    return None


def is_date(text: str) -> bool:
    """Whether a text is a date, such as 2020-12-31, or one with a time."""
    return bool(_DATE.fullmatch(text))


def parse_condition(text: str) -> list[Term]:
    """``a == b and c > 1`` as terms that must all hold.

    Raises:
        UsageError: another form, or longer than ``LONGEST``.
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise UsageError(f"{argument('where')} is a condition of at most {LONGEST:,} characters, not {text!r:.80}.")
    if other := _JOINED.search(_QUOTED.sub("''", text)):
        raise UsageError(
            f"{argument('where')}: only `and` joins comparisons, in small letters, and all must hold; {text!r:.80} has "
            f"{other[0].strip()!r}. A text that contains it needs quotes: style == 'black or white'."
        )
    terms = []
    for part in _AND.split(text):
        match = _TERM.fullmatch(part.strip())
        if match is None:
            raise UsageError(
                f"{argument('where')} is a condition such as \"age >= 18 and style == 'ink'\", not {text!r:.80}."
            )
        terms.append(Term(_unquoted(match["column"].strip()), match["sign"], _unquoted(match["value"].strip())))
    return terms


def _unquoted(text: str) -> str:
    return text[1:-1] if text[0] in "\"'" else text


def choose_items(choice: Choice, listing: Listing, noun: str = "image") -> None:
    """Keep the items of the classes that fulfil the condition.

    Raises:
        UsageError: an unknown class or column.
    """
    if not choice.classes and not choice.where:
        return
    if choice.where and listing.read_columns is not None:
        listing.rows = listing.read_columns([term.column for term in parse_condition(choice.where)])
    labels = [None if item.label is None else str(item.label) for item in listing.items]
    keep = chosen(choice, labels, listing.columns(), listing.problems, noun)
    listing.take(np.flatnonzero(keep).tolist())


def chosen(
    choice: Choice,
    labels: Sequence[str | None],
    rows: Sequence[Mapping[str, Any]],
    problems: list[Problem],
    noun: str = "image",
) -> np.ndarray:
    """Whether an image is of the classes and fulfils the condition, bool (N,).

    Args:
        labels: names of the images' classes.
        rows: the columns of each image by name.
        problems: what is left out is appended, in one line each.
        noun: what a sample is.

    Raises:
        UsageError: an unknown class or column.
    """
    keep = np.ones(len(labels), bool)
    if choice.classes:
        names = {str(label) for label in labels if label is not None}
        for name in choice.classes:
            if name not in names:
                some = ", ".join(sorted(names)[:12]) or "none"
                raise UsageError(f"There is no class {name!r}.{suggest(name, sorted(names))} The data has: {some}.")
        keep &= np.array([label is not None and str(label) in choice.classes for label in labels], bool)
        _left_out(problems, int((~keep).sum()), noun, f"of other classes than {', '.join(choice.classes)}")
    if choice.where:
        terms = parse_condition(choice.where)
        columns = {str(column) for row in rows for column in row}
        for term in terms:
            if term.column not in columns:
                raise UsageError(
                    f"No {noun} has a column {term.column!r:.80}.{suggest(term.column[:80], sorted(columns))} Columns: "
                    f"{', '.join(sorted(columns))}."
                )
        fulfils = np.array([all(term.holds(row) for term in terms) for row in rows], bool)
        words = [(term, [value for row in rows for value in term.without_order(row)]) for term in terms]
        lines = [
            f"{term.column} of {count(len(values), noun)}, such as {values[0]!r:.40}, cannot be compared with "
            f"{term.value!r:.40}: only numbers, and dates such as 2020-12-31, have an order"
            for term, values in words
            if values
        ]
        if not fulfils.any():
            reasons = "; ".join(filter(None, [_in_the_data(terms, rows), *lines]))
            raise UsageError(f"No {noun} fulfils {_short(choice.where)} ({reasons}).")
        problems += [Problem("*", "not-chosen", f"left out as asked: {line}") for line in lines]
        condition = f"({_short(choice.where)})" if len(terms) > 1 else _short(choice.where)
        _left_out(problems, int((keep & ~fulfils).sum()), noun, f"where not {condition}")
        keep &= fulfils
    return keep


def _short(text: str) -> str:
    return f"{text:.200}" + " ..." * (len(text) > 200)


def _in_the_data(terms: Sequence[Term], rows: Sequence[Mapping[str, Any]]) -> str:
    """The values of the columns of a condition: "age: 10 to 39 in the data"."""
    columns = []
    for column in dict.fromkeys(term.column for term in terms):
        values = {each for row in rows for each in _listed(row.get(column)) if each not in (None, "")}
        try:
            ends = [min(map(float, values)), max(map(float, values))]
            some = f"{ends[0]:g} to {ends[1]:g}"
        except ValueError:  # words, or nothing
            names = sorted(map(str, values))
            some = (", ".join(names[:6]) + " ..." * (len(names) > 6)) or "no value"
        columns.append(f"{column}: {some}")
    return f"{'; '.join(columns)} in the data"


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def limited(
    choice: Choice, shas: Sequence[str], problems: list[Problem], noun: str = "image"
) -> tuple[np.ndarray, float]:
    """Whether a sample is among the first ``limit`` by content, bool (N,), and what these samples' numbers end at.

    They have the lowest second fractions, up to that end, so that a part of them is split by second fraction / end.
    """
    keep, end = np.ones(len(shas), bool), 1.0
    if choice.limit and len(shas) > choice.limit:
        numbers = np.array([second_fraction(sha) for sha in shas])
        order = np.argsort(numbers, kind="stable")
        keep[order[choice.limit :]], end = False, float(numbers[order[choice.limit]])
        _left_out(problems, len(shas) - choice.limit, noun, f"beyond the limit of {choice.limit:,}")
    return keep, end


def _left_out(problems: list[Problem], n: int, noun: str, why: str) -> None:
    if n:
        problems.append(Problem("*", "not-chosen", f"left out as asked: {count(n, noun)} {why}"))
