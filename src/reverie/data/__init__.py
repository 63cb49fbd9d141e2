"""Data in: every source, the report of what was found there, the uint8 store.

``reverie.data("fashion")`` and ``import reverie.data`` both work: the module itself can be called, as ``open_data``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from reverie.data.provenance import open_like, reopen
from reverie.data.sources import load_picture, open_data
from reverie.data.types import Dataset, Problem, Report, Split

__all__ = ["Dataset", "Problem", "Report", "Split", "load_picture", "open_data", "open_like", "reopen"]


class _Callable(ModuleType):
    # The public name `rv.data(...)` is a function and this package is `reverie.data`: importing the package puts the
    # module over any function of that name, so the module must be what is called.
    def __call__(self, *args: Any, **kwargs: Any) -> Dataset:
        return open_data(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
