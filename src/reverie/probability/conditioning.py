"""Conditioning on a class or a caption, and the null condition.

Training randomly replaces the condition by the null condition (label -1, the empty caption, or no condition), so that
the same network is also unconditional (Ho and Salimans, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Range
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise
from reverie.nets.bert import MOST, MiniLM
from reverie.nets.text import TextEncoder
from reverie.pretrained import weights

NULL_RATE = 0.1  # probability of the null condition in training

Cond = dict[str, Any]  # {"label": (B,) int64} or {"text": B strings}; {} is the null condition


def label_classes(conditional: str, classes: int) -> int:
    """Number of classes of the condition: those of the data for "label", else 0.

    Raises:
        UsageError: "label", but the data has fewer than two classes.
    """
    if conditional == "label" and classes < 2:
        option = argument("conditional", "label")
        have = "one class" if classes else "no labels"
        raise UsageError(
            f"{option} needs images with at least two classes (sub-folders are classes); these have {have}."
        )
    return classes if conditional == "label" else 0


def drop_label(label: Tensor | None, rng: Noise) -> Tensor | None:
    """Labels (B,) with some replaced by the null condition (-1)."""
    return None if label is None else label.masked_fill(rng.bernoulli(NULL_RATE), -1)


def random_label(noise: Noise, label: Tensor | None, classes: int) -> Tensor | None:
    """Labels (B,) with -1, or a missing label, replaced by random classes; None without classes."""
    if not classes:
        return None
    random = noise.integers(classes)
    return random if label is None else torch.where(label < 0, random, label)


def first_class(label: Tensor | None, like: Tensor, classes: int) -> Tensor | None:
    """Labels (B,), by default the first class; None without classes."""
    if not classes or label is not None:
        return label
    return torch.zeros(len(like), dtype=torch.int64, device=like.device)


def check_label(label: Tensor | None, classes: int) -> None:
    """Raise a UsageError for labels beyond a model's classes; a model without classes accepts any."""
    if label is not None and classes and not -1 <= int(label.min()) <= int(label.max()) < classes:
        raise UsageError(f"Labels run from 0 to {classes - 1} (-1 is any class), not {label.tolist()}.")


def _minilm() -> tuple[weights.Weights, list[str]]:
    return weights.load("minilm"), weights.words_in(weights.load("minilm-words"))


def text_encoder_of(model: nn.Module) -> TextEncoder | MiniLM | None:
    """The text encoder in a model."""
    return next((module for module in model.modules() if isinstance(module, TextEncoder | MiniLM)), None)


def lengths_beyond(encoder: TextEncoder | MiniLM, captions: Iterable[str]) -> list[int]:
    """Words or tokens of each caption that is longer than the encoder reads."""
    most = encoder.length
    long = (caption for caption in captions if len(caption) > most or not caption.isascii())  # a word has a letter
    return [count for caption in long if (count := encoder.count(caption)) > most]


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of a diffusion model.

    Attributes:
        conditional: "none", "label" or "text".
        text_encoder: of captions: "small" (trained jointly) or "minilm" (pretrained and frozen; downloaded once).
        text_length: words of a caption that "small" reads (0: 24), or tokens that "minilm" reads (0: 62); what is
            longer is cut.
    """

    conditional: Literal["none", "label", "text"] = "none"
    text_encoder: Literal["small", "minilm"] = "small"
    text_length: Annotated[int, Range(0, MOST)] = 0

    def __post_init__(self) -> None:
        if self.text_length and self.conditional != "text":
            length, text = argument("text_length", self.text_length), argument("conditional", "text")
            raise UsageError(f"{length} is of captions: add {text}.")
        if self.text_encoder != "small" and self.conditional != "text":
            encoder, text = argument("text_encoder", self.text_encoder), argument("conditional", "text")
            raise UsageError(f"{encoder} encodes captions: add {text}.")


class Conditioner(nn.Module):
    """The condition of a model: its classes or its text encoder.

    Args:
        options: the kind of condition.
        classes: number of classes in the data.

    Attributes:
        classes: number of classes, or 0 without class conditioning.
        text_encoder: captions to tokens and their mask; None without captions.
    """

    def __init__(self, options: Conditioning = Conditioning(), classes: int = 0):
        super().__init__()
        self.classes = label_classes(options.conditional, classes)
        self.text_encoder: TextEncoder | MiniLM | None = None
        if options.conditional == "text":
            length = {"length": options.text_length} if options.text_length else {}
            small = options.text_encoder == "small"
            self.text_encoder = TextEncoder(**length) if small else MiniLM(_minilm, **length)

    @property
    def net_kwargs(self) -> dict[str, int]:
        """The network's constructor arguments for this condition."""
        return {"classes": self.classes, "context": self.text_encoder.width if self.text_encoder is not None else 0}

    @property
    def conditions(self) -> dict[str, int]:
        """The conditions for the card."""
        return {"label": self.classes} if self.classes else {"text": 0} if self.text_encoder is not None else {}

    @property
    def weights(self) -> tuple[str, ...]:
        """Pretrained networks that it needs."""
        return ("minilm", "minilm-words") if isinstance(self.text_encoder, MiniLM) else ()

    def drop(self, batch: Mapping[str, Any], rng: Noise) -> Cond:
        """The condition of a batch, with some rows replaced by the null condition."""
        dropped, cond = rng.bernoulli(NULL_RATE), Cond()
        if self.classes and batch.get("label") is not None:
            cond["label"] = batch["label"].masked_fill(dropped, -1)
        if self.text_encoder is not None and batch.get("text") is not None:
            pairs = zip(dropped.tolist(), batch["text"], strict=True)
            cond["text"] = ["" if null else words for null, words in pairs]
        return cond

    def forward(self, label: Tensor | None = None, text: Sequence[str] | None = None) -> dict[str, Any]:
        """The network's keyword arguments besides x and time: ``label``, or ``tokens`` and ``mask``."""
        if self.text_encoder is None:
            return {"label": label} if self.classes else {}
        tokens, mask = self.text_encoder([""] if text is None else text)  # no text is the null caption
        return {"tokens": tokens, "mask": mask}

    def check(self, label: Tensor | None, text: Sequence[str] | None, guidance: float) -> None:
        """Raise a UsageError for a condition that this model was not trained with."""
        check_label(label, self.classes)
        if text is not None and self.text_encoder is None:
            option = argument("conditional", "text")
            raise UsageError(f"This model was trained without captions. Train with {option} to sample by caption.")
        conditioned = (self.classes and label is not None) or (self.text_encoder is not None and text is not None)
        if guidance != 1 and not conditioned:
            label_, text_ = argument("label"), argument("text")
            raise UsageError(f"Guidance strengthens a condition: set {label_} or {text_}.")
