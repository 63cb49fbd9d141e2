"""``hf:owner/name``: images from the Hugging Face hub, by its optional ``datasets`` package."""

from __future__ import annotations

import io
from typing import Any

from reverie.core.errors import ReverieError
from reverie.data.items import HELD_OUT_NAMES, File, Item, Listing
from reverie.data.types import Problem

TEXT_COLUMNS = ("text", "caption", "prompt", "description")


def list_hub(name: str) -> Listing:
    """All rows of all splits of ``owner/name``; train and test, if both exist, are the two splits.

    Raises ReverieError if the package is missing, the hub does not answer, or no column contains images.
    """
    try:
        import datasets
    except ImportError:
        raise ReverieError(f"hf:{name} needs the datasets package: pip install 'reverie[hf]'") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # of many types: no network, no such set, gated, a script
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ReverieError(
            f"hf:{name} cannot be loaded: {reason}",
            "Check the name and the network, or save the images to a folder on a machine with access and use that "
            "folder. (pip install 'reverie[hf]' updates datasets.)",
        ) from None
    splits: dict[str, Any] = dict(loaded) if hasattr(loaded, "keys") else {"train": loaded}
    both = "train" in splits and any(name in HELD_OUT_NAMES for name in splits)
    listing = Listing([], read_as=f"a set of the hub, splits {', '.join(splits)}")
    for split in sorted(splits, key=lambda split: split == "train"):  # held-out first: a copy is dropped from training
        if both and split != "train" and split not in HELD_OUT_NAMES:
            listing.problems.append(Problem(split, "outside-splits", "skipped: neither training nor test"))
            continue
        side = ("train" if split == "train" else "held_out") if both else None
        listing.items.extend(_rows(name, split, splits[split], side))
    return listing


def _rows(name: str, split: str, rows: Any, side: str | None) -> list[Item]:
    features = dict(rows.features)
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    image = next((column for column, kind in kinds.items() if kind == "Image"), None)
    if image is None:
        raise ReverieError(f"hf:{name} has no column of images; its columns are {', '.join(features)}.")
    label = next((column for column, kind in kinds.items() if kind == "ClassLabel"), None)
    text = next((column for column in TEXT_COLUMNS if column in features), None)
    labels = list(rows[label]) if label else [None] * len(rows)
    names = getattr(features.get(label), "names", None) if label else None
    texts = list(rows[text]) if text else [""] * len(rows)

    def reader(i: int) -> bytes:
        return _encoded(rows[i][image])

    def label_of(i: int) -> str | int | None:
        value = labels[i]
        return None if value is None or value == -1 else names[value] if names else value

    return [
        Item(
            name=f"{split}/{i}",
            file=File(f"hf:{name}/{split}/{i}", reader=lambda i=i: reader(i)),  # type: ignore[misc]
            label=label_of(i),
            text=str(texts[i] or ""),
            split=side,
        )
        for i in range(len(rows))
    ]


def _encoded(value: Any) -> bytes:
    """A row's image as encoded bytes: the stored ones, else lossless PNG."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        return File(value["path"]).read()
    buffer = io.BytesIO()
    image = value if value.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else value.convert("RGB")
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
