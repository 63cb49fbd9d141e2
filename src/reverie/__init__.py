"""reverie: every family of deep generative image model under one roof.

>>> import reverie as rv
>>> run = rv.train("vae", "fashion", minutes=3)
>>> images = rv.sample(run, 64, seed=0)  # shows itself in a notebook; .array is uint8 (64, 28, 28, 1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from reverie import models
    from reverie.codes.anomalies import anomalies
    from reverie.codes.comparison import codes
    from reverie.codes.compression import rates
    from reverie.codes.pretraining import pretrain
    from reverie.codes.retrieval import search
    from reverie.compression.compress import Compressed, compress, decompress
    from reverie.compression.heat import bits_map
    from reverie.core.annotations import Channels, Classes, FromData, Range, Shape, Side, SourceChannels, SubRun
    from reverie.core.batch import Batch
    from reverie.core.card import Card, Likelihood, Output, Space
    from reverie.core.errors import ReverieError, UsageError
    from reverie.core.noise import Noise
    from reverie.core.registry import list_models, register
    from reverie.core.verbs import Frame
    from reverie.data import open_data
    from reverie.data import open_data as data
    from reverie.dreaming.deepdream import dream
    from reverie.dreaming.fast_style import stylize_into
    from reverie.dreaming.filters import filter_page, filters
    from reverie.dreaming.receptive import receptive_fields
    from reverie.dreaming.style import stylize
    from reverie.editing.walks import interpolate
    from reverie.evaluation.run import evaluate
    from reverie.inference.folder import sample_into
    from reverie.inference.load import build, load
    from reverie.inference.sampling import sample, stream
    from reverie.inference.verbs import decode, encode, reconstruct, translate
    from reverie.interop.exporting import export
    from reverie.interop.importing import import_
    from reverie.media.images import Images, Sheet
    from reverie.optim.phase import Phase, Stage
    from reverie.restoration.operators import Operator
    from reverie.restoration.tasks import restore, restore_stream
    from reverie.training.doctor import doctor
    from reverie.training.loop import fit
    from reverie.training.run import Run, runs
    from reverie.views.show import forward, list_views, mix, traverse, view
    from reverie.workflow import callbacks
    from reverie.workflow.again import rerun, resume
    from reverie.workflow.distill import distill
    from reverie.workflow.train import train

_HOMES = {  # public names by the module that holds them, each imported when it is first used
    "codes.anomalies": ("anomalies",),
    "codes.compression": ("rates",),
    "codes.pretraining": ("pretrain",),
    "codes.retrieval": ("search",),
    "compression.compress": ("Compressed", "compress", "decompress"),
    "compression.heat": ("bits_map",),
    "core.annotations": ("Channels", "Classes", "FromData", "Range", "Shape", "Side", "SourceChannels", "SubRun"),
    "core.batch": ("Batch",),
    "core.card": ("Card", "Likelihood", "Output", "Space"),
    "core.errors": ("ReverieError", "UsageError"),
    "core.noise": ("Noise",),
    "core.registry": ("list_models", "register"),
    "core.verbs": ("Frame",),
    "data": ("open_data",),
    "dreaming.deepdream": ("dream",),
    "dreaming.fast_style": ("stylize_into",),
    "dreaming.filters": ("filter_page", "filters"),
    "dreaming.receptive": ("receptive_fields",),
    "dreaming.style": ("stylize",),
    "editing.walks": ("interpolate",),
    "evaluation.run": ("evaluate",),
    "inference.folder": ("sample_into",),
    "inference.load": ("build", "load"),
    "inference.sampling": ("sample", "stream"),
    "inference.verbs": ("decode", "encode", "reconstruct", "translate"),
    "interop.exporting": ("export",),
    "interop.importing": ("import_",),
    "media.images": ("Images", "Sheet"),
    "optim.phase": ("Phase", "Stage"),
    "restoration.operators": ("Operator",),
    "restoration.tasks": ("restore", "restore_stream"),
    "training.doctor": ("doctor",),
    "training.loop": ("fit",),
    "training.run": ("Run", "runs"),
    "views.show": ("forward", "list_views", "mix", "traverse", "view"),
    "workflow.again": ("rerun", "resume"),
    "workflow.distill": ("distill",),
    "workflow.train": ("train",),
}
_MODULES = {  # data and codes may be called
    "callbacks": "workflow.callbacks",
    "codes": "codes",
    "data": "data",
    "models": "models",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME_OF, *_MODULES])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import reverie`` costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f"reverie.{_MODULES[name]}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"reverie.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'reverie' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
