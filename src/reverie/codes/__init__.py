"""What codes are good for: latents of any model that encodes, as points in the plane, features and indices.

``reverie.codes("runs/vae-fashion")`` and ``import reverie.codes`` both work: the module itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reverie.codes.comparison import Codes


class _Callable(ModuleType):
    # `rv.codes(...)` is a public function and `reverie.codes` is this package: see `reverie.data`
    def __call__(self, *args: Any, **kwargs: Any) -> Codes:
        from reverie.codes.comparison import codes

        return codes(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
