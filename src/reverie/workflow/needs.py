"""Check a model's requirements for training before a run directory is created."""

from __future__ import annotations

from reverie.core.card import Card
from reverie.core.errors import UsageError, argument
from reverie.data.types import Dataset, Split
from reverie.pretrained import weights

_MISSING = {  # a column: what is missing, and how data gets it
    "label": ("classes", "Each sub-folder is a class; at least two are needed."),
    "text": ("captions", "The caption of NAME.png is NAME.txt."),
    "source": ("pairs", "A/x.png and B/x.png are a pair."),
}


def columns_of(split: Split, classes: list[str]) -> set[str]:
    """The columns of a split; labels count only with at least two classes."""
    return {name for name in split.columns if name != "label" or len(classes) > 1}


def check_needs(card: Card, data: Dataset | None, name: str = "This model") -> None:
    """Raise a UsageError, with what to do, unless the data has the columns that a card requires; download its weights.

    Args:
        name: of the model, for the message.
    Raises:
        ReverieError: weights that cannot be downloaded.
    """
    available = set() if data is None else columns_of(data.train, data.classes)
    source = "no data" if data is None else data.source
    for column, remedy in card.remedies.items():
        if column not in available:
            what, general = _MISSING.get(column, (f"column {column!r}", f"It has: {', '.join(sorted(available))}."))
            example = f" {argument('data', 'emoji')} has {what}." if column in _MISSING else ""
            raise UsageError(f"{name} learns from {what}, but {source} has none. {remedy or general}{example}")
    for network in card.weights:
        if weights.state(network) != "here":
            weights.load(network)
