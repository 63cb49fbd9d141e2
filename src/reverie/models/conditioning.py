"""What models are conditioned on: a class of the data, or a caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reverie import weights
from reverie.core.errors import UsageError
from reverie.nets.bert import MiniLM
from reverie.nets.text import TextEncoder


def label_classes(conditional: str, classes: int, *others: str) -> int:
    """How many classes a model is conditioned on: those of the data for "label", else none.

    Args:
        others: what ``conditional`` may be beside "none" and "label".
    Raises:
        UsageError: another ``conditional``, or "label" where the data has fewer than two classes.
    """
    *known, last = map(repr, ("none", "label", *others))
    if conditional not in ("none", "label", *others):
        raise UsageError(f"conditional is {', '.join(known)} or {last}, not {conditional!r}.")
    if conditional == "label" and classes < 2:
        raise UsageError("conditional='label' needs pictures with at least two classes (sub-folders are classes).")
    return classes if conditional == "label" else 0


def _minilm() -> tuple[weights.Weights, list[str]]:
    return weights.load("minilm"), weights.words_in(weights.load("minilm-words"))


def reader(name: str) -> TextEncoder | MiniLM:
    """What reads captions: "small" is trained along; "minilm" is pretrained, frozen, fetched at the first caption."""
    return TextEncoder() if name == "small" else MiniLM(_minilm)


@dataclass(frozen=True)
class Conditioning:
    """What a diffusion model is conditioned on.

    Attributes:
        conditional: "none", "label" or "text".
        text_encoder: what reads captions: "small" (trained along) or "minilm" (pretrained and frozen; fetched once).
    """

    conditional: Literal["none", "label", "text"] = "none"
    text_encoder: Literal["small", "minilm"] = "small"

    def __post_init__(self) -> None:
        if self.text_encoder not in ("small", "minilm"):
            raise UsageError(f"text_encoder is 'small' or 'minilm', not {self.text_encoder!r}.")
        if self.text_encoder != "small" and self.conditional != "text":
            raise UsageError(
                f"text_encoder={self.text_encoder!r} reads captions: it needs conditional='text' beside it."
            )


class Conditioner:
    """The classes that a model is conditioned on, and what reads captions for it.

    Args:
        options: what it is conditioned on.
        classes: number of classes in the data.

    Attributes:
        classes: number of classes; 0 where it is not conditioned on them.
        text_encoder: captions to tokens and their mask; None without captions.
    """

    def __init__(self, options: Conditioning = Conditioning(), classes: int = 0):
        self.classes = label_classes(options.conditional, classes, "text")
        self.text_encoder = reader(options.text_encoder) if options.conditional == "text" else None

    @property
    def arguments(self) -> dict[str, int]:
        """The network's arguments that say what it is conditioned on."""
        return {"classes": self.classes, "context": self.text_encoder.width if self.text_encoder is not None else 0}
