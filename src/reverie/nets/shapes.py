"""Checks of image sizes: divisibility and range, with a suggestion."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reverie.core.errors import UsageError, argument

Shape = Sequence[int]  # (height, width)
Sides = int | Sequence[int]  # the same, or an int for squares
_LARGEST = 4096  # pixels of a side


def sides(shape: Sides) -> tuple[int, int]:
    """(height, width) of a shape, or of an int for squares.

    Raises:
        UsageError: not the shape of an image.
    """
    extents = (shape, shape) if isinstance(shape, int) else tuple(map(int, shape))
    if len(extents) != 2:
        raise UsageError(f"This model is for images, not for samples of shape {named(extents) or extents}.")
    if not 1 <= min(extents) <= max(extents) <= _LARGEST:
        raise UsageError(f"Images have sides of 1 to {_LARGEST} pixels, not {named(extents)}. Try {sized(64)}.")
    return extents[0], extents[1]


def divides(number: int, shape: Shape) -> bool:
    """Whether a number divides every side."""
    return not any(side % number for side in shape)


def halved(shape: Shape, by: int = 2) -> tuple[int, int]:
    """Both sides divided by ``by``."""
    return shape[0] // by, shape[1] // by


def named(shape: Shape) -> str:
    """A shape in a message: 64 for (64, 64), 48x64 for (48, 64)."""
    return str(shape[0]) if len(shape) == 2 and len(set(shape)) == 1 else "x".join(map(str, shape))


def sized(*sides: int) -> str:
    """A shape as an argument: ``--size 48x64`` on the command line, ``shape=(48, 64)``, of data ``size=`` in Python."""
    if (flag := argument("size", named(sides))).startswith("-"):
        return flag
    value = sides[0] if len(set(sides)) == 1 else sides
    return f"{argument('shape', value)}, of data {argument('size', value)}"


def check_sides(shape: Shape, what: str, multiple: int, least: int, most: int) -> None:
    """Raise a UsageError with the nearest valid size, unless ``multiple`` divides all sides and they are in range."""
    if divides(multiple, shape) and least <= min(shape) <= max(shape) <= most:
        return
    near = [min(max(least, round(side / multiple) * multiple), most) for side in shape]
    raise UsageError(
        f"{what} needs a size divisible by {multiple}, from {least} to {most}, not {named(shape)}. Try {sized(*near)}."
    )


def check_opaque(channels: int, what: str) -> None:
    """Raise a UsageError for RGBA images, where a model cannot learn transparency."""
    if channels == 4:
        raise UsageError(f"{what} knows no transparency. Train it on RGB: {argument('channels', 3)}.")


def check_square(shape: Shape, what: str, near: int | None = None) -> int:
    """The side of a square.

    Args:
        near: the suggested side; by default the longer one.
    Raises:
        UsageError: any other shape.
    """
    if shape[0] == shape[1]:
        return shape[0]
    raise UsageError(f"{what} needs square images, not {named(shape)}. Try {sized(near or max(shape))}.")


def power_of_two(shape: Shape, least: int, most: int = 1024) -> int:
    """The side of a square that is a power of two; raises a UsageError with the nearest valid size otherwise."""
    near = min(max(least, 2 ** round(math.log2(max(*shape, 1)))), most)
    size = check_square(shape, "This network", near)
    if size & (size - 1) or not least <= size <= most:
        raise UsageError(
            f"This network doubles 4x4 maps, so it needs a power of two from {least} to {most}, not {size}. "
            f"Try {sized(near)}."
        )
    return size
