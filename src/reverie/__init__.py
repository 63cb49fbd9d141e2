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
__all__ = [
    "Batch",
    "Card",
    "Frame",
    "Likelihood",
    "Noise",
    "Output",
    "Phase",
    "Space",
    "Stage",
    "build",
    "callbacks",
    "data",
    "evaluate",
    "fit",
    "load",
    "open_data",
    "register",
    "rerun",
    "resume",
    "sample",
    "stream",
    "train",
]

if TYPE_CHECKING:
    from reverie.core.batch import Batch
    from reverie.core.card import Card, Likelihood, Output, Space
    from reverie.core.noise import Noise
    from reverie.core.verbs import Frame
    from reverie.data import open_data
    from reverie.data import open_data as data
    from reverie.evaluation import evaluate
    from reverie.generation import build, load, sample, stream
    from reverie.optim.phase import Phase, Stage
    from reverie.registry import register
    from reverie.training.loop import fit
    from reverie.workflow import callbacks
    from reverie.workflow.again import rerun, resume
    from reverie.workflow.train import train

_HOMES = {
    "Batch": "reverie.core.batch",
    "Card": "reverie.core.card",
    "Frame": "reverie.core.verbs",
    "Likelihood": "reverie.core.card",
    "Noise": "reverie.core.noise",
    "Output": "reverie.core.card",
    "Phase": "reverie.optim.phase",
    "Space": "reverie.core.card",
    "Stage": "reverie.optim.phase",
    "build": "reverie.generation",
    "evaluate": "reverie.evaluation",
    "fit": "reverie.training.loop",
    "load": "reverie.generation",
    "open_data": "reverie.data",
    "register": "reverie.registry",
    "rerun": "reverie.workflow.again",
    "resume": "reverie.workflow.again",
    "sample": "reverie.generation",
    "stream": "reverie.generation",
    "train": "reverie.workflow.train",
}
_MODULES = {"callbacks": "reverie.workflow.callbacks", "data": "reverie.data"}  # a module may be called, as data is


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: ``import reverie`` costs nothing."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'reverie' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
