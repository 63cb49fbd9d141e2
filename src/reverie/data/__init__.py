"""Pictures in: every source, the report of what was found there, the uint8 store.

``reverie.data("fashion")`` and ``import reverie.data`` both work: the module itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from reverie.data.sources import data, load_picture
from reverie.data.types import Dataset, Pictures, Problem, Report

__all__ = ["Dataset", "Pictures", "Problem", "Report", "data", "load_picture"]


class _Callable(ModuleType):
    # The public name `rv.data(...)` is a function and this package is `reverie.data`: importing the package puts the
    # module over any function of that name, so the module must be what is called.
    def __call__(self, *args: Any, **kwargs: Any) -> Dataset:
        return data(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
