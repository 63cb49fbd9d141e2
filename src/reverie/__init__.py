"""reverie: every family of deep generative image model under one roof.

>>> import reverie as rv
>>> run = rv.train("vae", "fashion", minutes=3)
>>> model = rv.load(run)
>>> pictures = rv.sample(model, 64, seed=0)  # uint8 (64, 28, 28, 1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["build", "data", "evaluate", "load", "open_data", "sample", "train", "trajectory"]

if TYPE_CHECKING:
    from reverie.data import open_data
    from reverie.data import open_data as data
    from reverie.evaluation import evaluate
    from reverie.generation import load, sample, trajectory
    from reverie.registry import build
    from reverie.training.loop import train

_HOMES = {
    "build": "reverie.registry",
    "evaluate": "reverie.evaluation",
    "load": "reverie.generation",
    "open_data": "reverie.data",
    "sample": "reverie.generation",
    "train": "reverie.training.loop",
    "trajectory": "reverie.generation",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: ``import reverie`` costs nothing."""
    if name == "data":  # a package that can be called
        return importlib.import_module("reverie.data")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'reverie' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
