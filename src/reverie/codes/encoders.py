"""The models whose codes are compared, and the data that they all encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reverie.core.card import info_of, name_of, weights_of
from reverie.core.errors import UsageError, argument
from reverie.core.verbs import Model
from reverie.data.types import Dataset, Split
from reverie.inference.load import Source, data_of, model_of, need, spec_of
from reverie.inference.rows import space_of, spread
from reverie.training.run import Run

BLIND = ("label",)  # what an encoder must not be told where its codes are to tell the classes apart


def encoders(runs: Source | Sequence[Source], space: str | None = None, tokens: bool = False) -> dict[str, Model]:
    """The models of runs by short unique names: those of their directories, or of the models.

    Args:
        space: the latent space of their codes; by default the first of each.
        tokens: whether codes may be tokens.
    Raises:
        UsageError: no runs, one without a verb ``encode`` or without such a space, or one whose codes are tokens where
            these have no meaning.
    """
    sources = [runs] if isinstance(runs, str | Path | Run | nn.Module) else list(runs)
    if not sources:
        raise UsageError("Name at least one run whose model encodes images.")
    models: dict[str, Model] = {}
    for source in sources:
        model = model_of(source)
        need(model, "encode")
        codes = space_of(model, space)
        if space and codes and codes.encode is None:
            raise UsageError(f"{name_of(model)} does not encode to {argument('space', space)}: name another space.")
        if codes and codes.kind == "tokens" and not tokens:
            raise UsageError(f"The codes of {name_of(model)} are tokens: names, without distances or directions.")
        weights = weights_of(model)
        short = Path(weights["run"]).absolute().name if weights else name_of(model)
        names = (short, *(f"{short} ({number})" for number in range(2, len(sources) + 2)))
        models[next(name for name in names if name not in models)] = model
    return models


def common_data(models: Mapping[str, Model], data: Any = None) -> Dataset:
    """The data that all models were trained on, or other data in the form that all of them take.

    Raises:
        UsageError: they were trained on different data and none is named, or they take images of different forms.
        ReverieError: the data has changed since.
    """
    first = next(iter(models))
    dataset = data if isinstance(data, Dataset) else data_of(models[first], data)
    for name, model in models.items():
        spec, record = spec_of(model), info_of(model).get("data") or {}
        if (spec.medium, spec.shape, spec.channels) != (dataset.spec.medium, dataset.spec.shape, dataset.spec.channels):
            raise UsageError(
                f"{name} encodes {spec.medium}s of {spec}, but these are {dataset.spec.medium}s of {dataset.spec} "
                f"({dataset.source}). Take runs of one size and one number of channels."
            )
        if data is None and record.get("fingerprint") != dataset.fingerprint:
            raise UsageError(
                f"{first} and {name} were trained on different data ({dataset.source}, and {record.get('source')}): "
                f"their codes are of different images. Name the data that both encode, such as "
                f"{argument('data', dataset.source)}."
            )
    return dataset


def origin_of_codes(verb: str, models: Mapping[str, Model], dataset: Dataset, **arguments: Any) -> dict[str, Any]:
    """An origin as plain JSON: {"verb", "runs", "data", arguments}."""
    runs = {name: weights_of(model) or name_of(model) for name, model in models.items()}
    return {
        "verb": verb,
        "runs": runs,
        "data": {"source": dataset.source, "fingerprint": dataset.fingerprint},
    } | arguments


def evenly_with_rows(split: Split, most: int, labelled: bool = False) -> tuple[Split, list[int]]:
    """At most so many rows of a split, evenly spaced, and which these are.

    Args:
        labelled: only those with a label.
    """
    rows = np.flatnonzero(np.asarray(split.labels) >= 0) if labelled else np.arange(len(split))
    rows = rows[spread(len(rows), min(most, len(rows)))]
    return split.take(rows), rows.tolist()
