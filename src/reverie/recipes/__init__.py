"""One small TOML file per trained result: what to type, and what it measured.

``MODEL-DATA.toml`` serves one data set, ``MODEL.toml`` any other. Tables: ``[model]`` constructor arguments,
``[phases]`` arguments of ``stages()``, ``[training]`` fields of ``Options``, ``[measured]`` (or
``[measured.DATA]``, where a recipe serves any) the result with its command, machine and commit. ``[gpu.model]``,
``[gpu.phases]`` and ``[gpu.training]`` say what is different on a GPU.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def names() -> list[str]:
    """Every recipe's name."""
    return sorted(p.name.removesuffix(".toml") for p in resources.files(__name__).iterdir() if p.name.endswith(".toml"))


def read(name: str) -> dict[str, Any]:
    """One recipe's tables."""
    return tomllib.loads((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))


def recipe_for(model: str, data: str, gpu: bool = False) -> dict[str, Any]:
    """The recipe of this model on this data, else the model's own, else nothing; for this kind of machine."""
    for name in (f"{model}-{data}", model):
        if name in names():
            recipe = read(name)
            there = recipe.pop("gpu", {})
            return recipe | {table: recipe.get(table, {}) | there[table] for table in there if gpu}
    return {}
