"""Annotations of a system's arguments: a property of the data, a number in a range, another trained run.

def vae(shape: Shape, channels: Channels, classes: Classes = 0, *, latent: Count = 32) -> VAE: ...
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

Mark = TypeVar("Mark")


@dataclass(frozen=True)
class FromData:
    """An argument that is read from the data.

    Attributes:
        fact: "shape" (spatial extents), "side" (of square images), "channels", "classes" (their number) or
            "source_channels" (of the source images of pairs).
    """

    fact: Literal["shape", "side", "channels", "classes", "source_channels"]


@dataclass(frozen=True)
class Range:
    """The interval of a number, or of every entry of a tuple: [low, high], or (low, high] if ``open``."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.open and value == self.low)

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.open else f"at least {self.low:g}"
        return f"above {self.low:g} and at most {self.high:g}" if self.open else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class SubRun:
    """Another trained model: ``teacher: Annotated[dict | str, SubRun()]``.

    On the command line and in Python it is the path of a run. A system receives {"name", "kwargs", "run"} of that run
    and builds a sub-module with the argument's name; training loads the run's weights into it. A verb receives the
    loaded model.

    Attributes:
        verb: the verb that the model must have.
        remedy: what to do if it does not.
    """

    verb: str = ""
    remedy: str = ""


Shape = Annotated[int | tuple[int, ...], FromData("shape")]  # (height, width), or an int for squares
Side = Annotated[int, FromData("side")]
Channels = Annotated[int, FromData("channels")]
Classes = Annotated[int, FromData("classes")]
SourceChannels = Annotated[int | None, FromData("source_channels")]
Count = Annotated[int, Range(1)]
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
Fraction = Annotated[float, Range(0, 1)]


def mark_of(parameter: inspect.Parameter, kind: type[Mark]) -> Mark | None:
    """The mark of this kind in an argument's annotation, or None."""
    return next((mark for mark in marks_of(parameter.annotation) if isinstance(mark, kind)), None)


def marks_of(annotation: Any) -> tuple[Any, ...]:
    """The marks of an ``Annotated`` type."""
    return getattr(annotation, "__metadata__", ())
