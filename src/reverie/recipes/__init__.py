"""Recipes: a TOML file per model, or per model and data set, with its options and measured results.

``MODEL-DATA.toml`` is for one data set, ``MODEL.toml`` for any other. Tables: ``[model]`` constructor arguments,
``[phases]`` arguments of ``stages()``, ``[training]`` fields of ``Options``, ``[measured]`` (or
``[measured.DATA]`` in a recipe for any data) the result with its command, machine and commit. ``[gpu.model]``,
``[gpu.phases]`` and ``[gpu.training]`` override the options on a GPU.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files(__name__).iterdir() if p.name.endswith(".toml"))


def read(name: str) -> dict[str, Any]:
    """The tables of a recipe."""
    return tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


def recipe_for(model: str, data: str, gpu: bool = False) -> dict[str, Any]:
    """The recipe of this model on this data set, of any split or kind; else of the model on any data, else {}."""
    for name in (f"{model}-{data.partition(':')[0]}", model):
        if name in names():
            recipe = read(name)
            overrides = recipe.pop("gpu", {})
            return recipe | {table: recipe.get(table, {}) | values for table, values in overrides.items() if gpu}
    return {}
