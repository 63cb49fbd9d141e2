"""Media: conversion, montages and files of samples; one class per medium."""

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
    """The medium of a spec or name.

    Raises:
        UsageError: there is no such medium.
    """
    name = spec if isinstance(spec, str) else spec.medium
    if name not in MEDIA:
        raise UsageError(f'There is no medium "{name}".{suggest(name, list(MEDIA))} Known: {", ".join(MEDIA)}.')
    module, _, kind = MEDIA[name].partition(":")
    return getattr(importlib.import_module(module), kind)()
