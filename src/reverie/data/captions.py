"""Captions, labels and attributes of an image folder: NAME.txt, metadata.csv and metadata.jsonl."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from reverie.core.terminal import printable
from reverie.data.items import File, Item
from reverie.data.types import Problem

TABLES = ("metadata.csv", "metadata.jsonl")
RESERVED = ("file_name", "text", "caption", "label")  # other numeric columns are attributes


class Captions:
    """Captions, labels and attributes from the text files of a folder.

    Args:
        files: every file, path relative to the folder -> File.
        problems: unreadable rows, and rows of missing images, are appended here.
    """

    def __init__(self, files: dict[str, File], problems: list[Problem]):
        self.files, self.problems = files, problems
        self.rows: dict[str, dict[str, Any]] = {}
        for name in files:
            if PurePosixPath(name).name.lower() in TABLES:
                self._read_table(name)

    def used(self, images: Iterable[str]) -> set[str]:
        """The files that are captions: tables, and texts with an image's stem."""
        texts = {self._text_file(name) for name in images}
        return {name for name in self.files if name in texts or PurePosixPath(name).name.lower() in TABLES}

    def describe(self, item: Item, name: str) -> Item:
        """The item with its caption, and its label if a table has one."""
        row = self.rows.get(name, {})
        text = row.get("text") or row.get("caption") or ""
        if not text and (file := self._text_file(name)) in self.files:
            text = self._read_text(file)
        label = row.get("label")
        label = item.label if label is None or label == "" else label
        label = label if isinstance(label, int) else label and str(label)
        return replace(item, text=" ".join(str(text).split()), label=label)

    def attributes(self, images: Iterable[str]) -> tuple[list[str], dict[str, tuple[float, ...]]]:
        """The purely numeric columns in the tables' order, and each image's values; 0 for a missing one."""
        columns = dict.fromkeys(name for row in self.rows.values() for name in row if name not in RESERVED)
        numbers = {
            name: {image: _number(row.get(name)) for image, row in self.rows.items() if row.get(name) not in (None, "")}
            for name in columns
            if isinstance(name, str)
        }
        names = [name for name, values in numbers.items() if values and None not in values.values()]
        by_image = {image: tuple(numbers[name].get(image) or 0.0 for name in names) for image in images}
        for name in names:
            if gaps := sum(image not in numbers[name] for image in by_image):
                self._report(name, "missing-attribute", f"used: {gaps} images without a value have 0")
        return names, by_image

    def _text_file(self, name: str) -> str:
        return str(PurePosixPath(name).with_suffix(".txt"))

    def _read_text(self, name: str) -> str:
        try:
            data = self.files[name].read()
        except OSError as error:
            self._report(name, "unreadable", f"caption skipped: {error.strerror or error}")
            return ""
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            self._report(name, "bad-caption", "used: not UTF-8, read as Latin-1")
            return data.decode("latin-1")

    def _read_table(self, name: str) -> None:
        folder = PurePosixPath(name).parent
        text = self._read_text(name)
        if name.lower().endswith(".csv"):
            rows: list[tuple[int, Any]] = list(enumerate(self._csv_rows(name, text), start=2))
        else:
            rows = [(i, _json(line)) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        for line, row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                self._report(name, "bad-caption", f"skipped: row {line} has no file_name")
                continue
            image = str(folder / row["file_name"].replace("\\", "/"))
            if image not in self.files:
                self._report(name, "bad-caption", f"skipped: row {line} names {printable(image)}, which does not exist")
                continue
            if image in self.rows:
                self._report(name, "bad-caption", f"used: row {line} repeats {printable(image)}; the last row counts")
            if extra := row.pop(None, None):  # DictReader's key for surplus fields
                action = f"used: row {line} has {len(extra)} more fields than the header, which are ignored"
                self._report(name, "bad-caption", action)
            self.rows[image] = row

    def _csv_rows(self, name: str, text: str) -> list[dict[Any, Any]]:
        """The rows of a table; an unclosed quotation mark is reported, because it swallows other rows."""
        try:
            return _read_csv(text, strict=True)
        except csv.Error as error:
            broken = f"used, but a quotation mark is unclosed or inside a field ({error})"
        try:
            rows = _read_csv(text, strict=False)
        except csv.Error as error:
            self._report(name, "bad-caption", f"skipped: {error}")
            return []
        self._report(name, "bad-caption", broken)
        return rows

    def _report(self, name: str, kind: str, action: str) -> None:
        self.problems.append(Problem(printable(name), kind, action))


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read_csv(text: str, strict: bool) -> list[dict[Any, Any]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=strict))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
