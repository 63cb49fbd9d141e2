"""Annotations of a system's arguments: a property of the data, a number in a range, another trained run,
image files.

def vae(shape: Shape, channels: Channels, classes: Classes = 0, *, latent: Count = 32) -> VAE: ...
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from reverie.core.errors import UsageError, suggest
from reverie.core.values import is_finite

Mark = TypeVar("Mark")
Fact = Literal["shape", "side", "channels", "classes", "source_channels"]


@dataclass(frozen=True)
class FromData:
    """An argument that is read from the data.

    Attributes:
        fact: "shape" (spatial extents), "side" (of square images), "channels", "classes" (their number) or
            "source_channels" (of the source images of pairs).
    Raises:
        UsageError: any other fact.
    """

    fact: Fact

    def __post_init__(self) -> None:
        if self.fact not in (choices := list(typing.get_args(Fact))):
            raise UsageError(f"Data has no {self.fact!r}.{suggest(self.fact, choices)} It has: {', '.join(choices)}.")


@dataclass(frozen=True)
class Range:
    """The interval of a number, or of every entry of a tuple: [low, high], or (low, high] if ``open``.

    Raises:
        UsageError: bounds that are no numbers, or not in order.
    """

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __post_init__(self) -> None:
        bounds = self.low, self.high
        if not all(is_finite(bound) or bound in (-math.inf, math.inf) for bound in bounds) or self.low > self.high:
            raise UsageError(f"Range({self.low!r}, {self.high!r}) is no interval: two numbers, the lower first.")

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


@dataclass(frozen=True)
class ImageFiles:
    """An image file, or with ``folder`` a folder of them, that training reads: ``style: Annotated[str, ImageFiles()]``.

    It is required, checked before data is prepared, and stored with its absolute path and its hash. The model reads it
    in ``prepare`` into buffers, so the run does not need it any more.
    """

    folder: bool = False


Shape = Annotated[int | tuple[int, ...], FromData("shape"), Range(1)]  # (height, width), or an int for squares
Side = Annotated[int, FromData("side"), Range(1)]
Channels = Annotated[int, FromData("channels"), Range(1)]
Classes = Annotated[int, FromData("classes"), Range(0)]
SourceChannels = Annotated[int | None, FromData("source_channels"), Range(1)]
Count = Annotated[int, Range(1)]
Steps = Annotated[int, Range(1, 10_000)]  # of a sampler
Weight = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
Fraction = Annotated[float, Range(0, 1)]


def mark_of(parameter: inspect.Parameter, kind: type[Mark]) -> Mark | None:
    """The mark of this kind in an argument's annotation, or None."""
    return next((mark for mark in marks_of(parameter.annotation) if isinstance(mark, kind)), None)


def marks_of(annotation: Any) -> tuple[Any, ...]:
    """The marks of an ``Annotated`` type, and those inside a union."""
    if typing.get_origin(annotation) is Annotated:
        return (*annotation.__metadata__, *marks_of(annotation.__origin__))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(mark for member in typing.get_args(annotation) for mark in marks_of(member))
    return ()
