"""What a model cannot be trained without, checked before a run directory exists."""

from __future__ import annotations

from reverie import weights
from reverie.core.card import Card
from reverie.core.errors import UsageError
from reverie.data.types import Dataset, Split

_MISSING = {  # a column: what is missing, and how data gets it
    "label": ("classes", "Sub-folders are classes; they take at least two."),
    "text": ("captions", "NAME.txt beside NAME.png is one; --data emoji has captions."),
    "source": ("pairs", "A/x.png and B/x.png are a pair; --data emoji has pairs."),
}


def columns_of(split: Split, classes: list[str]) -> set[str]:
    """The columns that a split has something in."""
    return {name for name in split.columns if name != "label" or len(classes) > 1}


def check_needs(card: Card, data: Dataset | None, name: str = "This model") -> None:
    """Raise a UsageError, with what to do, unless a data set has what a card asks for; fetch the weights that it wants.

    Args:
        name: of the model, for the message.
    Raises:
        ReverieError: weights that cannot be fetched.
    """
    there = set() if data is None else columns_of(data.train, data.classes)
    source = "no data" if data is None else data.source
    for column, remedy in card.remedies.items():
        if column not in there:
            what, general = _MISSING.get(column, (f"column {column!r}", f"It has: {', '.join(sorted(there))}."))
            raise UsageError(f"{name} learns from {what}, and {source} has none. {remedy or general}")
    for network in card.weights:
        if weights.state(network) != "here":
            weights.load(network)
