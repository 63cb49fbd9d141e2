"""Codes as files: .npz, .csv, and Parquet with its extra."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reverie.core.errors import UsageError
from reverie.core.files import atomic
from reverie.core.terminal import printable
from reverie.media.medium import save_arrays
from reverie.media.origin import text_of

if TYPE_CHECKING:
    from reverie.codes.comparison import Codes

EXPORTS = (".npz", ".csv", ".parquet")


def write_codes(path: Path, codes: Codes) -> None:
    """Write codes with labels and references to their images, atomically.

    An .npz has "row", "name", "label", "classes", and "codes:NAME" (N, D) and "map:NAME" (N, 2) of each encoder. The
    columns of .csv and .parquet are row, name, label, class, and NAME:0, NAME:1 ... A CSV carries no origin.

    Raises:
        UsageError: Parquet without the extra.
    """
    ending = path.suffix.lower()
    rows: dict[str, Any] = {"row": list(codes.rows), "name": list(map(printable, codes.names)), "label": codes.labels}
    if ending == ".npz":
        arrays = {f"codes:{name}": values for name, values in codes.values.items()}
        maps = {f"map:{name}": panel.points for name, panel in codes.panels.items()}
        save_arrays(path, rows | {"classes": list(codes.classes)} | arrays | maps, codes.origin)
        return
    columns = rows | {"class": ["" if label < 0 else printable(codes.classes[label]) for label in codes.labels]}
    for name, values in codes.values.items():
        columns |= {f"{name}:{index}": values[:, index] for index in range(values.shape[1])}
    write_csv(path, columns) if ending == ".csv" else _write_parquet(path, columns, text_of(codes.origin))


def write_csv(path: Path, columns: dict[str, Any]) -> None:
    """Columns of equal length by name; floats in as many digits as a float32 needs to be read back as it was."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow([f"{value:.9g}" if isinstance(value, np.floating) else value for value in row])


def check_export(path: Path) -> None:
    """Raise a UsageError if a file is to be Parquet and the extra is missing."""
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def _write_parquet(path: Path, columns: dict[str, Any], origin: str) -> None:
    pyarrow, parquet = _pyarrow()
    table = pyarrow.table(columns).replace_schema_metadata({"reverie": origin})
    with atomic(path) as temporary:
        parquet.write_table(table, temporary)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs an extra: pip install 'reverie[parquet]' (or use .csv or .npz).") from error
    return pyarrow, parquet
