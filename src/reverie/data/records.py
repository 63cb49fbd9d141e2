"""Images in the rows of Parquet files, and in the values of an LMDB."""

from __future__ import annotations

import threading
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from reverie.core.errors import ReverieError, UsageError
from reverie.core.terminal import printable
from reverie.data.captions import LABELS, TEXTS
from reverie.data.items import HELD_OUT_NAMES, File, Item, Listing, set_labels
from reverie.data.types import Problem
from reverie.media.formats import MAGIC

PARQUET = ".parquet"
LMDB, LOCK = "data.mdb", "lock.mdb"


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet by its name, and no table about other files."""
    return path.lower().endswith(PARQUET) and PurePosixPath(path).stem.lower() != "metadata"


def list_parquet(files: list[Path]) -> Listing:
    """The rows of Parquet files with a column of encoded images, as the Hugging Face hub keeps them.

    A file's name says its split: train-00000-of-00002.parquet, test-..., validation-... Of several files those that
    cannot be read are reported.

    Raises:
        UsageError: pyarrow is missing, or there is no such column.
        ReverieError: a damaged file.
    """
    _arrow()
    listing = Listing([], read_as=f"{len(files)} Parquet file{'s' * (len(files) != 1)}")
    sides = {path: _side(path) for path in files}
    both = {*sides.values()} >= {"train", "held_out"}
    labels: list[Any] = []
    for path in sorted(files, key=lambda path: sides[path] == "train"):
        if both and sides[path] is None:
            listing.problems.append(Problem(printable(path.name), "outside-splits", "skipped: neither train nor test"))
            continue
        try:
            labels += _list_rows(path, sides[path] if both else None, listing)
        except ReverieError as error:
            if len(files) == 1:
                raise
            listing.problems.append(Problem(printable(path.name), "unreadable", f"skipped: {error}"))
    set_labels(listing, labels)
    return listing


def _list_rows(path: Path, split: str | None, listing: Listing) -> list[Any]:
    """Append the rows of a file; returns their labels."""
    schema = _schema(path)
    image = _image_column(schema)
    if image is None:
        raise UsageError(f"{path} has no column of encoded images; its columns are {', '.join(schema.names)}.")
    names = {name.lower(): name for name in schema.names if name != image}
    label, text = (next((names[name] for name in words if name in names), None) for words in (LABELS, TEXTS))
    classes = _class_names(schema, label)
    try:
        table = _arrow().ParquetFile(path).read([name for name in (label, text) if name])
    except (OSError, ValueError) as error:
        raise ReverieError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:160]}.") from None
    labels = table[label].to_pylist() if label else [None] * table.num_rows
    texts = table[text].to_pylist() if text else [""] * table.num_rows
    listing.problems += _other_columns(path, names, label, text)
    for row, words in enumerate(texts):
        several = [str(word) for word in words if word] if isinstance(words, list) else [str(words or "")]
        listing.items.append(
            Item(
                name=f"{printable(path.name)}/{row}",
                file=File(f"{path}/{row}", reader=partial(_cell, str(path), image, row)),
                text=several[0] if several else "",
                split=split,
                texts=tuple(several) if len(several) > 1 else (),
            )
        )
    return [
        [_label(v, classes) for v in value] if isinstance(value, list) else _label(value, classes) for value in labels
    ]


def _arrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError("Parquet files need pyarrow: pip install 'reverie[parquet]'") from None
    return parquet


def _schema(path: Path) -> Any:
    try:
        return _arrow().read_schema(path)
    except (OSError, ValueError) as error:
        raise ReverieError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:160]}.") from None


def _image_column(schema: Any) -> str | None:
    """The first column of bytes, alone or as {"bytes", "path"}."""
    import pyarrow as arrow

    for field in schema:
        inside = [field.type.field(i).name for i in range(field.type.num_fields)] if _is_struct(field.type) else []
        if "bytes" in inside or arrow.types.is_binary(field.type) or arrow.types.is_large_binary(field.type):
            return str(field.name)
    return None


def _is_struct(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_struct(kind))


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """The names that the hub keeps beside the columns."""
    from reverie.data.words import read_json

    note = (schema.metadata or {}).get(b"huggingface")
    features = (read_json(note.decode("utf-8", "replace")) or {}) if note else {}
    feature = features.get("info", {}).get("features", {}).get(label, {}) if isinstance(features, dict) else {}
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _label(value: Any, classes: list[str] | None) -> str | int | None:
    if value is None or value == "" or (classes and isinstance(value, int) and value < 0):
        return None
    if isinstance(value, int) and classes and value < len(classes):
        return classes[value]
    return value if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _side(path: Path) -> str | None:
    word = path.name.lower().partition("-")[0].partition(".")[0]
    return "train" if word == "train" else "held_out" if word in HELD_OUT_NAMES else None


def _other_columns(path: Path, names: dict[str, str], label: str | None, text: str | None) -> list[Problem]:
    others = sorted(name for name in names.values() if name not in (label, text))
    action = f"ignored: columns {', '.join(map(printable, others))}"
    return [Problem(printable(path.name), "ignored", action)] if others else []


_LOCK = threading.Lock()


@lru_cache(maxsize=2)
def _group(path: str, image: str, group: int) -> list[Any]:
    return list(_arrow().ParquetFile(path).read_row_group(group, [image])[image].to_pylist())


@lru_cache(maxsize=64)
def _ends(path: str) -> list[int]:
    """Number of rows up to the end of each row group."""
    meta = _arrow().ParquetFile(path).metadata
    ends, total = [], 0
    for group in range(meta.num_row_groups):
        total += meta.row_group(group).num_rows
        ends.append(total)
    return ends


def _cell(path: str, image: str, row: int) -> bytes:
    """A row's image, encoded. Neighbours share a row group, of which two are kept."""
    with _LOCK:
        ends = _ends(path)
        group = next(i for i, end in enumerate(ends) if row < end)
        value = _group(path, image, group)[row - (ends[group - 1] if group else 0)]
    value = value.get("bytes") if isinstance(value, dict) else value
    if not value:
        raise OSError("the row has no image")
    return bytes(value)


# LMDB


def is_lmdb(source: str) -> bool:
    """Whether it is a folder of an LMDB."""
    return (Path(source) / LMDB).is_file()


def list_lmdb(folder: Path) -> Listing:
    """The values of an LMDB that are encoded images, in the order of their keys, as LSUN keeps them.

    Raises:
        UsageError: lmdb is missing.
        ReverieError: a damaged file.
    """
    try:
        import lmdb
    except ImportError:
        raise UsageError(f"{folder} needs lmdb: pip install 'reverie[lmdb]'") from None
    listing = Listing([], read_as="an LMDB of images")
    others = 0
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, subdir=True)
        with environment.begin() as reading:
            for key, value in reading.cursor():
                if not bytes(value[:8]).startswith(MAGIC):
                    others += 1
                    continue
                name = printable(key.decode("utf-8", "surrogateescape"))
                file = File(f"{folder}/{name}", reader=partial(_value, environment, key))
                listing.items.append(Item(name, file))
    except lmdb.Error as error:
        raise ReverieError(f"{folder} cannot be read as an LMDB: {error}.") from None
    if others:
        listing.problems.append(Problem("*", "ignored", f"ignored: {others} values that are no images"))
    return listing


def _value(environment: Any, key: bytes) -> bytes:
    with environment.begin() as reading:
        return bytes(reading.get(key))
