"""COCO's JSON: captions and categories of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from reverie.data.words import read_coco


def coco_rows(text: str, find: Callable[[str], str | None]) -> tuple[dict[str, dict[str, list[str]]], int]:
    """COCO's JSON: of images their captions, "text", and categories, "label"; and how many images do not exist."""
    images, annotations, categories = read_coco(text)
    names = {row["id"]: str(row.get("name")) for row in categories}
    rows: dict[str, dict[str, list[str]]] = {}
    by_id: dict[Any, dict[str, list[str]]] = {}
    for row in images:
        if image := find(str(row.get("file_name"))):
            by_id[row["id"]] = rows.setdefault(image, {"text": [], "label": []})
    for row in annotations:
        about = by_id.get(row["image_id"])
        if about is not None and isinstance(row.get("caption"), str):
            about["text"].append(row["caption"])
        elif about is not None and row.get("category_id") in names:
            about["label"].append(names[row["category_id"]])
    return rows, len(images) - len(by_id)


def add_rows(rows: dict[str, dict[str, Any]], new: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Add the captions and categories of images to what earlier files say."""
    for image, words in new.items():
        row = rows.setdefault(image, {"text": [], "label": None})
        row["text"] += words["text"]
        if words["label"]:
            before = row["label"] if isinstance(row["label"], list) else []
            row["label"] = list(dict.fromkeys([*before, *words["label"]]))
