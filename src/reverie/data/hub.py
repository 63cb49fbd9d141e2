"""``hf:owner/name``: images from the Hugging Face hub, by its optional ``datasets`` package."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from reverie.core.errors import ReverieError, UsageError, suggest
from reverie.data.headers import TEXTS
from reverie.data.items import HELD_OUT_NAMES, File, Item, Listing
from reverie.data.labels import labels_of, set_labels
from reverie.data.masks import columns_of_masks
from reverie.data.naming import FOUND, Columns, captions_of
from reverie.data.types import Problem

PLAIN = ("Value", "ClassLabel", "Sequence", "List", "LargeList")  # features that conditions can be about


def list_hub(source: str, columns: Columns = FOUND, masks: str | None = None) -> Listing:
    """The rows of ``owner/name``; train and test, if both exist, are the two splits.

    Args:
        source: "owner/name", "owner/name@config", and behind it ":split" for one split alone.
        columns: by default the first of type Image, the first ClassLabel, and one that is named as captions are.
        masks: "no": a column of masks is not read; "yes": where none is named as one, the second of images is.

    Raises:
        UsageError: another form, an unknown split or column.
        ReverieError: the package is missing, or the hub does not answer.
    """
    name, _, split = source.partition(":")
    name, _, config = name.partition("@")
    if not 1 <= len(name.split("/")) <= 2 or not all(name.split("/")):
        raise UsageError(f"hf:{source} is no set on the hub; the form is hf:owner/name, hf:owner/name@config:split.")
    splits = _loaded(name, config)
    part = None
    if split:
        splits, part = _chosen(f"hf:{name}", splits, split)
    both = "train" in splits and any(name in HELD_OUT_NAMES for name in splits)
    listing, labels, used = Listing([], values=True, part=part), list[Any](), list[Any]()
    for word in sorted(splits, key=lambda word: word == "train"):  # held-out first: a copy is dropped from training
        if both and word != "train" and word not in HELD_OUT_NAMES:
            listing.problems.append(Problem(word, "outside-splits", "skipped: neither training nor test"))
            continue
        side = ("train" if word == "train" else "held_out") if both else None
        taken, problems = _columns(f"hf:{name}", splits[word], columns, masks)
        listing.problems += [problem for problem in problems if problem not in listing.problems]
        listing.items += _rows(name, word, splits[word], side, taken)
        labels += _values(splits[word], taken["label"])
        used.append(splits[word])
    roles = ", ".join(f"{role} = {column}" for role, column in taken.items() if column)
    set_labels(listing, labels)
    listing.read_columns = partial(_read_columns, used)
    listing.read_as = f"a set of the hub, split{'s' * (len(splits) > 1)} {', '.join(splits)}; {roles}"
    return listing


def _loaded(name: str, config: str) -> dict[str, Any]:
    """Split -> rows. Raises ReverieError if the package is missing or fails."""
    try:
        import datasets
    except ImportError:
        raise ReverieError(f"hf:{name} needs the datasets package: pip install 'reverie[hf]'") from None
    try:
        loaded = datasets.load_dataset(name, config) if config else datasets.load_dataset(name)
    except Exception as error:  # of many types: no network, no such set, gated, a script
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        hint = f" A configuration is chosen by hf:{name}@CONFIG." * ("config" in reason.lower())
        raise ReverieError(
            f"hf:{name} cannot be loaded: {reason}{hint}",
            "Check the name and the network, or save the images to a folder on a machine with access and use that "
            "folder. (pip install 'reverie[hf]' updates datasets.)",
        ) from None
    return dict(loaded) if hasattr(loaded, "keys") else {"train": loaded}


def _chosen(name: str, splits: dict[str, Any], split: str) -> tuple[dict[str, Any], str | None]:
    """The splits that hold a named one, and which part of them it is; None: all.

    A split that is all of one side is that part of the complete set: without the copies that the other side has.
    """
    tests = [word for word in splits if word in HELD_OUT_NAMES]
    if "train" in splits and tests:
        if split == "train":
            return splits, "train"
        if tests == [split] or (split in HELD_OUT_NAMES and split not in splits):
            return splits, "held_out"
    if split in splits:
        return {split: splits[split]}, None
    if split in ("held_out", "held-out"):  # what is held out of a set without such a split
        return splits, "held_out"
    raise UsageError(f"{name} has no split {split!r}.{suggest(split, list(splits))} Its splits: {', '.join(splits)}.")


def _columns(name: str, rows: Any, columns: Columns, masks: str | None) -> tuple[dict[str, str | None], list[Problem]]:
    """The columns of image, label, text and mask. Raises UsageError if no column has images."""
    kinds = {column: type(feature).__name__ for column, feature in dict(rows.features).items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    odd = [column for column in (columns.image, columns.mask) if column in kinds and column not in images]
    if not images or odd:
        wrong = f"column {odd[0]!r} has no images ({kinds[odd[0]]})" if images else "no column of images"
        raise UsageError(f"{name} has {wrong}; its columns are {', '.join(kinds)}.")
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    texts = [column for column in TEXTS if column in kinds]
    regions = columns_of_masks(images, masks, columns)
    images = [column for column in images if column not in regions]
    return columns.pick(list(kinds), {"image": images, "label": labels, "text": texts, "mask": regions}, name)


def _values(rows: Any, column: str | None) -> list[Any]:
    """Of each row its label or another value, or a list of these; numbers of classes as their names."""
    if column is None:
        return [None] * len(rows)
    feature = rows.features[column]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return [labels_of(value, names) for value in rows[column]]


def _read_columns(parts: Sequence[Any], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Of each row its values of some columns, and None of the others; without columns of images and of arrays."""
    rows: list[Mapping[str, Any]] = []
    for part in parts:
        others = [name for name, feature in dict(part.features).items() if type(feature).__name__ in PLAIN]
        values = {name: _values(part, name) if name in names else [None] * len(part) for name in others}
        rows += [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return rows


def _rows(name: str, split: str, rows: Any, side: str | None, taken: Mapping[str, str | None]) -> list[Item]:
    image, text, mask = taken["image"], taken["text"], taken["mask"]
    texts = map(captions_of, rows[text] if text else [""] * len(rows))

    def file(i: int, column: str | None, end: str = "") -> File:
        return File(f"hf:{name}/{split}/{i}{end}", reader=lambda: _encoded(rows[i][column]))

    return [
        Item(
            name=f"{split}/{i}",
            file=file(i, image),
            text=words[0] if words else "",
            split=side,
            texts=tuple(words) if len(words) > 1 else (),
            masks=(file(i, mask, "/mask"),) if mask else (),
        )
        for i, words in enumerate(texts)
    ]


def _encoded(value: Any) -> bytes:
    """A row's image as encoded bytes: the stored ones, else lossless PNG."""
    if value is None:
        raise OSError("the row has no image")
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        return File(value["path"]).read()
    buffer = io.BytesIO()
    image = value if value.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else value.convert("RGB")
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
