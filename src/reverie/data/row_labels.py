"""The labels in rows of tables about images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reverie.core.terminal import count, printable
from reverie.data.classes import several_problem
from reverie.data.items import natural_key
from reverie.data.labels import label_value, labels_of, none_of, unlabelled
from reverie.data.types import Problem

NO_CLASS = ("n/a", "#n/a", "nan", "null")  # words that mean none; "none", "na" and "-" may be classes


def labels_in(row: Mapping[str, Any]) -> list[Any]:
    """The labels of a row of a table: one, several of a list, or none."""
    label = row.get("label")
    return label if isinstance(label, list) else [] if label in (None, "") else [label]


def several_in(rows: Mapping[str, Mapping[str, Any]], problems: list[Problem]) -> list[str]:
    """The distinct labels of images' rows, if a list has none or several of them; else nothing."""
    lists = [row["label"] for row in rows.values() if isinstance(row.get("label"), list)]
    if all(len(labels) == 1 for labels in lists):
        return []
    problems.append(several_problem(lists))
    return sorted({str(label) for row in rows.values() for label in labels_in(row)}, key=natural_key)


def clear_rows(rows: Mapping[str, dict[str, Any]], problems: list[Problem], rules: int = 3) -> set[str]:
    """Remove the labels that mean none from images' rows; the images that have none now.

    Args:
        rules: as of ``Columns``; before 3, every word is a class.
    """
    labels = {image: labels_of(row.get("label")) for image, row in rows.items()}
    distinct = {label for each in labels.values() for label in _listed(each)}
    words = {label for label in distinct if rules > 2 and isinstance(label, str) and label.strip().lower() in NO_CLASS}
    none = none_of(distinct - words) | words
    cleared = {image for image, label in labels.items() if not isinstance(label, list) and label in none}
    for image, label in labels.items():
        row = rows[image]
        if isinstance(label, list) and row["label"]:
            kept = [each for each in row["label"] if (value := label_value(each)) is not None and value not in none]
            row["label"] = kept if kept or len(row["label"]) > 1 else None
            if row["label"] is None and label:
                cleared.add(image)
        elif label is None or image in cleared:
            row["label"] = None
    worded = {image for image in cleared if words.intersection(_listed(labels[image]))}
    if worded:
        some = ", ".join(sorted(map(printable, words)))
        problems.append(Problem("*", "unlabelled", f"used: no label for {count(len(worded), 'image')} with {some}"))
    if cleared - worded:
        problems.append(unlabelled(len(cleared - worded)))
    return cleared


def _listed(label: Any) -> list[Any]:
    return label if isinstance(label, list) else [label]
