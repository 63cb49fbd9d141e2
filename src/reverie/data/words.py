"""Text files of unknown encodings and dialects: captions and tables."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from reverie.core.errors import ReverieError
from reverie.core.terminal import count, printable

MARKS = {  # byte order mark -> encoding; the long ones first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

BAD = "bad-caption"
_REMARKS = re.compile(r"(?:#[^\n]*\n|sep=.\r?\n)+(?=[^\n])")  # lines above a header; sep=; is Excel's
_FRACTION = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan", re.IGNORECASE)

_SHORT = {"p": "prompt"}  # a column of DiffusionDB
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')

Row = dict[str, Any]


def decode_text(data: bytes) -> tuple[str, str]:
    """The text of a file, and what had to be assumed, "" for UTF-8.

    A byte order mark decides. Without one, zeros in every second byte are UTF-16, and so are any zeros in what is no
    UTF-8; the rest of that is Latin-1.
    """
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "") or _utf16(data, 0.5)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if not encoding and (encoding := _utf16(data, 0)):
            with contextlib.suppress(UnicodeDecodeError):
                return data.decode(encoding), f"read as {encoding.upper()}"
        return data.decode("latin-1"), f"not {(encoding or 'utf-8').removesuffix('-sig').upper()}, read as Latin-1"
    return text, f"read as {encoding.upper()}" if encoding.startswith(("utf-16", "utf-32")) else ""


def to_last_line(data: bytes) -> bytes:
    """The first bytes of a file up to its last complete line; nothing without one."""
    return to_character(data[: data.rfind(b"\n") + 1].removesuffix(b"\n"))


def to_character(data: bytes) -> bytes:
    """The first bytes of a text without half a character, where each has two bytes."""
    return data[: len(data) - len(data) % 2] if b"\0" in data else data


def _utf16(data: bytes, share: float) -> str:
    """The UTF-16 without a mark in which more than this share of the characters has a byte of zero, "" for none."""
    if len(data) % 2 or not data:
        return ""
    zeros = [data[side::2].count(0) * 2 for side in (0, 1)]
    if max(zeros) <= share * len(data) or min(zeros) * 8 >= len(data):
        return ""
    return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"


def read_csv(text: str, ends_with_words: Sequence[str] = (), rules: int = 3) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows of a table with a header, and what was unusual: kinds of problems and actions.

    The delimiter is that of the header. Surplus fields belong to the last column if its name is in ``ends_with_words``:
    captions with commas that nobody quoted. Blanks beside bars are dropped, and beside other delimiters if the header
    has some. An unclosed quotation mark is unusual, because it swallows other rows.

    Args:
        rules: as of ``Columns``; before 3, blanks are dropped beside bars only, before 2 nowhere.
    """
    notes: list[tuple[str, str]] = []
    if rules > 2 and (remarks := _REMARKS.match(text)):
        text = text[remarks.end() :]
        notes.append(("table", "used: it begins with remarks, which are skipped"))
    delimiter = _delimiter(text)
    spaced = rules > 2 and delimiter != "\t" and f"{delimiter} " in _first_line(text)
    if delimiter != ",":
        notes.append(("table", f"used: its fields are divided by {DELIMITERS[delimiter]}"))
    try:
        table = _rows(text, delimiter, spaced, strict=True)
    except csv.Error as error:
        try:
            table = _rows(text, delimiter, spaced, strict=False)
        except csv.Error:
            return [], [(BAD, f"skipped: {error}")]
        notes.append((BAD, f"used, but a quotation mark is unclosed or inside a field ({error})"))
    if not table:
        return [], notes
    if spaced or (rules > 1 and delimiter == "|"):
        table = [[value.strip() for value in fields] for fields in table]
    header, rows, joined, surplus = table[0], [], 0, list[str]()
    for name in (name for name, n in Counter(header).items() if name and n > 1):
        notes.append(("table", f"used: the header has {printable(name)} several times; the last of them counts"))
    if any(value.strip() for fields in table[1:] for name, value in zip(header, fields, strict=False) if not name):
        notes.append(("ignored", "ignored: a column without a name"))
    for line, fields in enumerate(table[1:], start=2):
        if not fields:
            continue
        extra = len(fields) - len(header)
        if extra > 0 and header[-1].strip().lower() in ends_with_words:
            fields = [*fields[: len(header) - 1], (delimiter + " " * spaced).join(fields[len(header) - 1 :])]
            joined += 1
        elif extra > 0 and any(fields[len(header) :]):
            surplus.append(f"used: row {line} has {count(extra, 'more field')} than the header, ignored")
        rows.append({**dict(zip(header, fields, strict=False)), "": line})
    if surplus:
        more = f"; {count(len(surplus) - 1, 'more row')} likewise" * (len(surplus) > 1)
        notes.append((BAD, surplus[0] + more))
    if joined:
        marks = DELIMITERS[delimiter]
        action = f"used: {count(joined, 'row')} with {marks} in {header[-1]} that are not quoted; all of it is the text"
        notes.append((BAD, action))
    return rows, notes


def read_header(text: str) -> list[str]:
    """The names of the columns, if a text is a table; without blanks and quotation marks around them."""
    return [name.strip(" \"'\r") for name in _first_line(text).split(_delimiter(text))]


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").partition("\n")[0]


def delimiter_of(text: str) -> str:
    """Of a table's header, below remarks."""
    remarks = _REMARKS.match(text)
    return _delimiter(text[remarks.end() :] if remarks else text)


def _delimiter(text: str) -> str:
    head = _first_line(text)
    return max(DELIMITERS, key=lambda mark: (head.count(mark), mark == ","))


def read_jsonl(text: str) -> list[Row]:
    """A row for each line that is not blank; one that is no JSON object is empty but for its number, key ""."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    values = [(number, read_json(line)) for number, line in lines]
    return [{**(row if isinstance(row, dict) else {}), "": number} for number, row in values]


def read_objects(text: str) -> tuple[list[Row], list[tuple[str, str]]]:
    """The rows of a table in JSON, and what is ignored: kinds of problems and actions.

    It is a list of objects, or an object of a name -> its columns, its captions (texts) or its label (a whole number).
    """
    content = read_json(text)
    if isinstance(content, list):
        rows, odd = [row for row in content if isinstance(row, dict)], []
    else:
        pairs = content.items() if isinstance(content, dict) else ()
        each = [(name, row if isinstance(row, dict) else _as_row(row)) for name, row in pairs]
        odd = [name for name, row in each if row is None]
        rows = [{"file_name": name, **(row or {})} for name, row in each]
        rows = [{_SHORT.get(column, column): value for column, value in row.items()} for row in rows]
    notes = [("ignored", f"ignored: {count(len(odd), 'value')}, such as {content[odd[0]]!r:.40}")] if odd else []
    return [{**row, "": number} for number, row in enumerate(rows)], notes


def _as_row(value: Any) -> Row | None:
    """Captions are texts, and a whole number is a label; None of other values."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return {"text": value}
    return {"label": value} if isinstance(value, int) and not isinstance(value, bool) else None


def first_strings(text: str) -> list[str]:
    """The strings of JSON, or of its beginning."""
    values = (read_json(string) for string in _STRING.findall(text))
    return [value for value in values if isinstance(value, str)]


def are_boxes(text: str) -> bool:
    """Whether each line of a text is a class's number and at least four fractions of a box or outline, as of YOLO.

    Fractions are from -1 to 2, beyond the image's border, or not-a-number.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(
        len(line) > 4 and line[0].isdecimal() and all(map(_is_fraction, line[1:])) for line in lines
    )


def _is_fraction(text: str) -> bool:
    return bool(_FRACTION.fullmatch(text)) and not abs(float(text) - 0.5) > 1.5


def read_json(text: str) -> Any:
    """A JSON value; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def read_coco(text: str) -> tuple[list[Row], list[Row], list[Row]]:
    """Images, annotations and categories of COCO's JSON, those with their numbers; none of other JSON."""
    content = read_json(text)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        return [], [], []
    return (
        _numbered(content["images"], "id"),
        _numbered(content["annotations"], "image_id", "category_id"),
        _numbered(content.get("categories"), "id"),
    )


def _numbered(rows: Any, key: str, *others: str) -> list[Row]:
    """Those that are objects with this key; its value and those of others are numbers or texts."""
    rows = [row for row in rows if isinstance(row, dict) and key in row] if isinstance(rows, list) else []
    return [row for row in rows if all(isinstance(row.get(k), int | str | float | None) for k in (key, *others))]


def read_parquet(data: bytes, what: str) -> list[Row]:
    """The rows of a Parquet table.

    Raises:
        ReverieError: no pyarrow, or a damaged file.
    """
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ReverieError(f"{what} needs pyarrow: pip install 'reverie[parquet]'") from None
    try:
        rows = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ReverieError(f"{what} cannot be read as Parquet: {' '.join(str(error).split())[:160]}") from None
    return [{**row, "": number} for number, row in enumerate(rows)]


def _rows(text: str, delimiter: str, spaced: bool, strict: bool) -> list[list[str]]:
    lines = io.StringIO(text, newline="")
    return list(csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=strict))
