"""A stand-in for the datasets package, which loads sets of the hub."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest


def stand_in(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    """Let ``load`` take the place of ``datasets.load_dataset``."""
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
