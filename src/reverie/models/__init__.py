"""Every built-in model as a function: ``rv.models.vae(data, latent=16)`` is ``rv.build("vae", data, latent=16)``."""

from __future__ import annotations

import inspect
import re
from typing import Any


def __getattr__(name: str) -> Any:
    """The builder of a registered model, by its name with underscores; its signature has all options, flat."""
    from reverie.core import registry
    from reverie.core.verbs import Model
    from reverie.data.types import Dataset

    names = {_identifier(entry): entry for entry in registry.names()}
    if name not in names:
        raise AttributeError(f"module 'reverie.models' has no model {name!r}. Models: {', '.join(names)}.")
    model = names[name]

    def build(data: Dataset | None = None, **options: Any) -> Model:
        return registry.build(model, data, **options)

    system = registry.entry(model).load()
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [p.replace(kind=keyword) for p in registry.signature(model).values()]
    first = inspect.Parameter("data", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Dataset | None)
    build.__signature__ = inspect.Signature([first, *options], return_annotation=registry.entry(model).kind())  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{inspect.getdoc(system)}\n\n``data`` decides shape, channels and classes where it is given."
    return build


def __dir__() -> list[str]:
    from reverie.core import registry

    return [_identifier(name) for name in registry.names() if ":" not in name]


def _identifier(name: str) -> str:
    """A model's name in Python: "pixelcnn++" is pixelcnn_pp."""
    return re.sub(r"\W", "_", name.replace("++", "_pp"))
