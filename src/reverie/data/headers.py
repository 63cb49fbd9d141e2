"""The usual names of files about images and of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of Hugging Face's imagefolder: always about images
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
TEXT_ENDINGS = (".txt", ".caption")
FILES = ("file_name", "filename", "file", "image", "image_path", "path", "img", "image_id", "filepath", "image_name")
TEXTS = ("text", "caption", "captions", "texts", "prompt", "description")
COMMENTS = ("comment",)  # captions of tables, as of Flickr30k
LABELS = ("label", "labels")
CLASSES = ("class", "classid", "class_id", "class_name", "category")  # labels, too


def usual_column(row: Iterable[Any], names: Sequence[str]) -> str | None:
    """The first of the names that the columns of a row have: exactly, or in any case and with blanks around it."""
    columns = dict[str, str]()
    for column in row:
        name = str(column).strip().lower()
        if name not in columns or column == name:
            columns[name] = column
    return next((columns[name] for name in names if name in columns), None)
