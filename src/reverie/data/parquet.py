"""Images in the rows of Parquet files."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from reverie.core.errors import ReverieError, UsageError
from reverie.core.terminal import count, printable
from reverie.data.headers import LABELS, TEXTS
from reverie.data.items import File, Item, Listing, parts_of
from reverie.data.labels import labels_of, set_labels
from reverie.data.masks import columns_of_masks
from reverie.data.naming import FOUND, Columns, captions_of
from reverie.data.types import Problem

PARQUET = ".parquet"


def is_parquet(path: str) -> bool:
    """Whether a file is Parquet by its name, and no table about other files."""
    return path.lower().endswith(PARQUET) and PurePosixPath(path).stem.lower() != "metadata"


def list_parquet(files: list[Path], masks: str | None = None, columns: Columns = FOUND) -> Listing:
    """The rows of Parquet files with a column of encoded images, as the Hugging Face hub keeps them.

    A column of encoded masks is read unless ``masks`` is "no". The names of files and folders say their split:
    train-00000-of-00002.parquet, validation/0.parquet. Of several files those that cannot be read are reported.

    Args:
        columns: by default the first of bytes, and those that are named as labels and captions are.

    Raises:
        UsageError: pyarrow is missing, or there is no such column.
        ReverieError: a damaged file.
    """
    _arrow()
    listing = Listing([], read_as=count(len(files), "Parquet file"), values=True)
    labels: list[Any] = []
    used: list[Path] = []
    for path, part in parts_of(files, listing.problems, columns.rules).items():
        try:
            labels += _list_rows(path, part, listing, masks, columns)
            used.append(path)
        except UsageError:
            raise
        except ReverieError as error:
            if len(files) == 1:
                raise
            listing.problems.append(Problem(printable(path.name), "unreadable", f"skipped: {error}"))
    listing.divide(listing.parts)
    set_labels(listing, labels)
    listing.read_columns = partial(_read_columns, used)
    return listing


def _read_columns(paths: list[Path], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Of each row of the files its values of some columns, and None of the others; without columns of images."""
    rows: list[Mapping[str, Any]] = []
    for path in paths:
        schema = _schema(path)
        images = _image_columns(schema)
        others = [name for name in schema.names if name not in images]
        table = _read(path, [name for name in others if name in names])
        unread = dict.fromkeys(others)
        rows += [unread | row for row in table.to_pylist()] if table.num_columns else [unread] * table.num_rows
    return rows


def _list_rows(path: Path, part: str, listing: Listing, masks: str | None, columns: Columns) -> list[Any]:
    """Append the rows of a file; returns their labels."""
    schema = _schema(path)
    images = _image_columns(schema)
    if not images:
        raise UsageError(f"{path} has no column of encoded images; its columns are {', '.join(schema.names)}.")
    for name in (columns.image, columns.mask):
        if name in schema.names and name not in images:
            raise UsageError(f"{path}: column {name!r} has no encoded images; these do: {', '.join(images)}.")
    regions = columns_of_masks(images, masks, columns)
    words = {name.lower(): name for name in schema.names if name not in images}
    candidates = {"image": [name for name in images if name not in regions], "mask": regions}
    for role, usual in (("label", LABELS), ("text", TEXTS)):
        candidates[role] = [words[word] for word in usual if word in words]
    taken, problems = columns.pick(schema.names, candidates, path.name)
    image, label, text, mask = taken["image"] or images[0], taken["label"], taken["text"], taken["mask"]
    classes = _class_names(schema, label)
    table = _read(path, [name for name in (label, text) if name])
    labels = table[label].to_pylist() if label else [None] * table.num_rows
    texts = table[text].to_pylist() if text else [""] * table.num_rows
    listing.problems += problems
    for row, value in enumerate(texts):
        several = captions_of(value)
        listing.items.append(
            Item(
                name=f"{printable(path.name)}/{row}",
                file=File(f"{path}/{row}", reader=partial(_cell, str(path), image, row)),
                text=several[0] if several else "",
                texts=tuple(several) if len(several) > 1 else (),
                masks=(File(f"{path}/{row}/mask", reader=partial(_cell, str(path), mask, row)),) if mask else (),
            )
        )
    listing.parts += [part] * len(texts)
    return [labels_of(value, classes) for value in labels]


def _arrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError("Parquet files need pyarrow: pip install 'reverie[parquet]'") from None
    return parquet


def _read(path: Path, names: Sequence[str]) -> Any:
    with _reading(path):
        return _arrow().ParquetFile(path).read([*names])


def _schema(path: Path) -> Any:
    with _reading(path):
        return _arrow().read_schema(path)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raise ReverieError where a file is damaged."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ReverieError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:160]}.") from None


def _image_columns(schema: Any) -> list[str]:
    """The columns of bytes, alone or as {"bytes", "path"}."""
    import pyarrow as arrow

    names = []
    for field in schema:
        inside = [field.type.field(i).name for i in range(field.type.num_fields)] if _is_struct(field.type) else []
        if "bytes" in inside or arrow.types.is_binary(field.type) or arrow.types.is_large_binary(field.type):
            names.append(str(field.name))
    return names


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


_LOCK = threading.Lock()


@lru_cache(maxsize=4)
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
    """A row's image, encoded. Neighbours share a row group, of which two of images and masks each are kept."""
    with _LOCK:
        ends = _ends(path)
        group = next(i for i, end in enumerate(ends) if row < end)
        value = _group(path, image, group)[row - (ends[group - 1] if group else 0)]
    value = value.get("bytes") if isinstance(value, dict) else value
    if not value:
        raise OSError("the row has no image")
    return bytes(value)
