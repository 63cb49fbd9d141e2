"""Data: sources, the intake report, the uint8 store.

``reverie.data("fashion")`` and ``import reverie.data`` both work: the module itself can be called, as ``open_data``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from reverie.data.listing import explain
from reverie.data.provenance import open_like, reopen
from reverie.data.single import image_files, load_image
from reverie.data.sources import open_data, originals
from reverie.data.types import Dataset, Problem, Report, Split

__all__ = [
    "Dataset",
    "Problem",
    "Report",
    "Split",
    "explain",
    "image_files",
    "load_image",
    "open_data",
    "open_like",
    "originals",
    "reopen",
]
data = open_data  # as ``reverie.data`` itself


class _Callable(ModuleType):
    # `rv.data(...)` is a public function and `reverie.data` is this package. Importing the package replaces a function
    # of that name by the module, so the module itself must be callable.
    def __call__(self, *args: Any, **kwargs: Any) -> Dataset:
        return open_data(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
