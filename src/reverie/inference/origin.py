"""The origin of results: which verb of which weights made them, with which seeds and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from reverie.core.card import name_of, weights_of
from reverie.core.options import EMPTY, sampling_options
from reverie.core.values import plain
from reverie.core.verbs import Model
from reverie.inference.rows import Unsliced
from reverie.media.origin import seeds_entry


def origin(
    verb: str, model: Model, seeds: Sequence[int] = (), options: Mapping[str, Any] | None = None, **arguments: Any
) -> dict[str, Any]:
    """An origin as plain JSON: {"verb", "weights" or "model", "seed" and "number", arguments, "options"}.

    Args:
        seeds: of the rows.
        options: of the model's own verb; its defaults are added.
        arguments: of the verb; those that are None are left out.
    """
    weights = weights_of(model)
    by = {"weights": weights} if weights else {"model": name_of(model)}
    entries = {name: plain_option(value) for name, value in arguments.items() if value is not None}
    chosen = {name: plain_option(value) for name, value in _with_defaults(model, options).items() if value is not None}
    return {"verb": verb, **by, **seeds_entry(seeds), **entries} | ({"options": chosen} if chosen else {})


def _with_defaults(model: Model, options: Mapping[str, Any] | None) -> dict[str, Any]:
    if options is None:
        return {}
    defaults = {name: p.default for name, p in sampling_options(model).items() if p.default is not EMPTY}
    return defaults | {name: value for name, value in options.items() if value is not None}


def plain_option(value: Any) -> Any:
    """An option's value as plain JSON: a model by its weights, an image or array by its type."""
    value = plain(value.value if isinstance(value, Unsliced) else value)
    if isinstance(value, nn.Module):
        return weights_of(value) or name_of(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain_option(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"
