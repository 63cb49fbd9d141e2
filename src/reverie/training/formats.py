"""What older checkpoints called things: one step from each format to the next.

A format is a number in ``model.json``. It rises when options or tensors change their names; runs of an older one load,
sample and are evaluated, and their training is continued by ``reverie train MODEL --init RUN``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from reverie.core.errors import UsageError

FORMAT = 2

Config = dict[str, Any]  # {"name", "kwargs"}; a value of kwargs that is one itself is a sub-run


@dataclass(frozen=True)
class Migration:
    """From one format to the next; the key "" stands for every model.

    Attributes:
        options: model -> {old option: new option, or None where it is dropped}.
        tensors: model -> (pattern, replacement) pairs for ``re.sub``, in order; a tensor whose name matches a pattern
            with None is dropped. Names are those within the model or sub-run.
    """

    options: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    tensors: Mapping[str, Sequence[tuple[str, str | None]]] = field(default_factory=dict)


_GROWING = ((r"^(grower|shrinker)\.", None), (r"^G\.net\.net\.", "G.net."), (r"^D\.body\.net\.", "D.body."))
MIGRATIONS: dict[int, Migration] = {
    1: Migration(
        options={"": {"size": "shape"}}, tensors={"progan": _GROWING}
    ),  # model.json names its format; sides became shapes; a growing network was wrapped
}


def upgrade_config(config: Config, made: int) -> Config:
    """The configuration of a model, and of what it builds on, as this version writes it.

    Raises:
        UsageError: a later version wrote it.
    """
    if made > FORMAT:
        raise UsageError(f"This run was written by a later version (format {made}; this one reads up to {FORMAT}).")
    for number in range(made, FORMAT):
        config = _renamed(config, MIGRATIONS[number])
    return config


def upgrade_tensors(tensors: dict[str, Tensor], config: Config, made: int) -> dict[str, Tensor]:
    """A state dict under today's names.

    Args:
        config: of the model, as its own version wrote it.
    """
    for number in range(made, FORMAT):
        tensors = _moved(tensors, config, MIGRATIONS[number])
        config = _renamed(config, MIGRATIONS[number])
    return tensors


def _sub_runs(config: Config) -> dict[str, Config]:
    return {
        key: value
        for key, value in (config.get("kwargs") or {}).items()
        if isinstance(value, dict) and {"name", "kwargs"} <= value.keys()
    }


def _renamed(config: Config, step: Migration) -> Config:
    if config.get("kwargs") is None:  # a class of the user's own
        return config
    names = {**step.options.get("", {}), **step.options.get(config["name"], {})}
    inner = {key: _renamed(value, step) for key, value in _sub_runs(config).items()}
    moved = {names.get(old, old): inner.get(old, value) for old, value in config["kwargs"].items()}
    kwargs = {new: value for new, value in moved.items() if new is not None}
    return config | {"kwargs": kwargs}


def _moved(tensors: dict[str, Tensor], config: Config, step: Migration) -> dict[str, Tensor]:
    inner = _sub_runs(config)
    moved: dict[str, Tensor] = {}
    for key, sub in inner.items():
        prefix = f"{key}."
        part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        moved |= {prefix + name: value for name, value in _moved(part, sub, step).items()}
    rules = [*step.tensors.get("", ()), *step.tensors.get(config["name"], ())]
    for name, value in tensors.items():
        if name.partition(".")[0] in inner:
            continue
        new: str | None = name
        for pattern, replacement in rules:
            if new is not None and re.search(pattern, new):
                new = None if replacement is None else re.sub(pattern, replacement, new)
        if new is not None:
            moved[new] = value
    return moved
