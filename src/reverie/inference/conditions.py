"""Conditions and options of sampling as people write them: class names, captions, seeds, runs that guide."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie.core import registry
from reverie.core.annotations import SubRun, mark_of
from reverie.core.card import card_of, info_of, name_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.options import EMPTY, checked, listed, sampling_options
from reverie.core.values import check_finite, check_seeds, integer, plain
from reverie.core.verbs import Model, verbs_of
from reverie.inference.load import load
from reverie.inference.rows import Unsliced, device_of
from reverie.nets.bert import MiniLM
from reverie.nets.text import TextEncoder, words_of
from reverie.probability.conditioning import lengths_beyond, text_encoder_of

Labels = str | int | Sequence[str | int] | None
Texts = str | Sequence[str] | None


def label_index(model: Model, label: str | int) -> int:
    """A class's index from its name or number.

    Raises:
        UsageError: the model knows no such class, or no classes at all.
    """
    count = card_of(model).classes
    if not count:
        train = argument("conditional", "label")
        raise UsageError(f"This model was trained without classes. Train with {train} to sample by class.")
    classes, text = class_names(model), str(label)
    if isinstance(label, str):  # an int is an index, also where classes have numbers for names
        if text in classes:
            return classes.index(text)
        folded = {name.casefold(): index for index, name in enumerate(classes)}
        if text.casefold() in folded:
            return folded[text.casefold()]
    named = isinstance(label, str) and all(name.lstrip("-").isdecimal() for name in classes)  # such as 3, 7 and 250
    if text.isdecimal() and int(text) < len(classes) and not named:
        return int(text)
    names = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
    raise UsageError(f"There is no class {label!r}.{suggest(text, classes)} Classes: {names}.")


def class_names(model: Model) -> list[str]:
    """The names of a model's classes; their numbers where the data has no names."""
    names = list((info_of(model).get("data") or {}).get("classes", ()))
    return names or [str(index) for index in range(card_of(model).classes)]


def conditions_of(model: Model, guides: Iterable[Any], labels: Labels, texts: Texts, n: int) -> dict[str, Any]:
    """Labels (n,) and n captions; several take turns.

    Args:
        guides: other models, whose classes a label may be one of.
    Raises:
        UsageError: the model was trained without classes or captions, or knows no such class; an empty list, or a
            caption that is no text.
    """
    cond: dict[str, Any] = {}
    if labels is not None:
        owner = owner_of_classes(model, guides)
        indices = [label_index(owner, label) for label in listed_values(labels)]
        if not indices:
            raise UsageError(f"{argument('label')} is empty: name a class, or leave it out.")
        cond["label"] = torch.tensor([indices[i % len(indices)] for i in range(n)], device=device_of(model))
    if texts is not None:
        if "text" not in card_of(model).conditions:
            train = argument("conditional", "text")
            raise UsageError(f"This model was trained without captions. Train with {train} to sample by words.")
        captions = listed_values(texts)
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise UsageError(f"{argument('text')} must be a caption or a list of captions, not {texts!r}.")
        encoder = text_encoder_of(model) if isinstance(model, nn.Module) else None
        read = vocabulary(captions, length_of(encoder))
        if (trained := info_of(model).get("caption_words")) and (new := sorted(read - set(trained))):
            warnings.warn(f"No caption of the training data has {listed(new)}: samples cannot follow it.", stacklevel=3)
        if encoder is not None and (beyond := lengths_beyond(encoder, captions)):
            some = f"the first {encoder.length} {encoder.unit} of a caption"
            warnings.warn(f"Only {some} are read, and one has {max(beyond)}.", stacklevel=3)
        cond["text"] = [captions[i % len(captions)] for i in range(n)]
    return cond


def owner_of_classes(model: Model, guides: Iterable[Model]) -> Model:
    """The model if it has classes, else the first guide that has."""
    return next((each for each in (model, *guides) if card_of(each).classes), model)


def length_of(encoder: TextEncoder | MiniLM | None) -> int | None:
    """How many words the small text encoder reads; None of others, which count tokens."""
    return encoder.length if isinstance(encoder, TextEncoder) else None


def vocabulary(captions: Iterable[str], length: int | None = None) -> set[str]:
    """The words and signs of captions, of each the first ``length``, as the small text encoder splits them."""
    return {word for caption in captions for word in words_of(caption)[:length]}


def listed_values(values: Any) -> list[Any]:
    """A list of values, or a single value as a list; numbers of NumPy and torch are Python's."""
    if isinstance(values, np.ndarray | Tensor):
        values = values.tolist()
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [plain(value) for value in values]
    return [values]


def seeds_of(seed: Any, n: int) -> Sequence[int]:
    """The seeds of n samples: those that are listed, or n from the first, as a range."""
    if not isinstance(seed, Iterable) or isinstance(seed, str):
        first = integer("seed", seed)
        check_seeds(first, first + n - 1)
        return range(first, first + n)
    seeds = [integer("seed", value) for value in seed]
    if len(seeds) != n:
        raise UsageError(f"{n} images need {n} seeds, not {len(seeds)}.")
    check_seeds(min(seeds), max(seeds))
    return seeds


def complete(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Options of sampling or translating, checked against the verb's signature, runs among them opened.

    None: the default. A tensor has a row for each sample; anything else but scalars is ``Unsliced``.

    Raises:
        UsageError: an option that the model does not have or cannot do without, a value that is not of its type, none
            of its choices or not finite, a run that does not fit.
    """
    parameters, owner, complete_ = sampling_options(model), name_of(model), dict[str, Any]()
    for name, value in options.items():
        if name not in parameters:
            raise registry.no_option(owner, name, parameters)
        value = plain(value.value if isinstance(value, Unsliced) else value)
        if value is not None:
            complete_[name] = _bound(model, name, parameters[name], value)
    if missing := [name for name, p in parameters.items() if p.default is EMPTY and name not in complete_]:
        raise UsageError(f"{owner} does not sample without {listed(missing)}: pass a value for each.")
    return complete_


def guides_in(options: dict[str, Any]) -> list[Model]:
    """The models among complete options."""
    values = [value.value for value in options.values() if isinstance(value, Unsliced)]
    return [value for value in values if isinstance(value, nn.Module)]


def _bound(model: Model, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    """An option's value as ``chunk_of`` takes it."""
    if mark := mark_of(parameter, SubRun):
        other = value if isinstance(value, nn.Module) else load(value, str(device_of(model)))
        if mark.verb and mark.verb not in verbs_of(other):
            raise UsageError(f"{name_of(other)} cannot serve as {name}: it has no {mark.verb}. {mark.remedy}")
        return Unsliced(other)
    if isinstance(value, Tensor):
        check_finite(f"{name} of {name_of(model)}", value)
        return value
    value = checked(name_of(model), name, parameter, value)
    return value if isinstance(value, bool | int | float | str) else Unsliced(value)
