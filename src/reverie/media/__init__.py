"""Media: what a sample is, and how it is converted, tiled, shown and saved. One class per kind."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from reverie.core.errors import UsageError, suggest
from reverie.media.spec import Size, Spec, parse_size

if TYPE_CHECKING:
    from reverie.media.medium import Medium

__all__ = ["MEDIA", "Size", "Spec", "medium_of", "parse_size"]

MEDIA = {
    "image": "reverie.media.image:Image",
    "video": "reverie.media.video:Video",
    "volume": "reverie.media.volume:Volume",
    "sequence": "reverie.media.sequence:Sequence",
}


def medium_of(spec: Spec | str) -> Medium:
    """The medium of a spec, or of a name.

    Raises:
        UsageError: there is no such medium.
    """
    name = spec if isinstance(spec, str) else spec.medium
    if name not in MEDIA:
        raise UsageError(f'medium is "{name}".{suggest(name, list(MEDIA))} Possible: {", ".join(MEDIA)}.')
    module, _, kind = MEDIA[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
