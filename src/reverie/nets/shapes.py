"""Sides of images and maps: which divide, and what to say where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from reverie.core.errors import UsageError

Shape = Sequence[int]  # (height, width)
Sides = int | Sequence[int]  # the same, or one number for squares


def sides(shape: Sides) -> tuple[int, int]:
    """(height, width) of a shape, or of one number for squares.

    Raises:
        UsageError: the shape of something else than an image.
    """
    if isinstance(shape, int):
        return shape, shape
    if len(shape) != 2:
        raise UsageError(f"This model is for images, not for samples of shape {'x'.join(map(str, shape))}.")
    return int(shape[0]), int(shape[1])


def divides(number: int, shape: Shape) -> bool:
    """Whether a number divides every side."""
    return not any(side % number for side in shape)


def halved(shape: Shape, by: int = 2) -> tuple[int, int]:
    """Both sides divided."""
    return shape[0] // by, shape[1] // by


def named(shape: Shape) -> str:
    """64 of (64, 64), 48x64 of (48, 64): what --size takes."""
    return str(shape[0]) if len(set(shape)) == 1 else "x".join(map(str, shape))


def check_sides(shape: Shape, what: str, multiple: int, least: int, most: int) -> None:
    """A UsageError with the nearest fitting size, unless ``multiple`` divides every side and all are within range."""
    if divides(multiple, shape) and least <= min(shape) <= max(shape) <= most:
        return
    near = [min(max(least, round(side / multiple) * multiple), most) for side in shape]
    raise UsageError(
        f"{what} needs a size that {multiple} divides, from {least} to {most}; {named(shape)} is not. "
        f"Try --size {named(near)}."
    )


def check_square(shape: Shape, what: str, near: int | None = None) -> int:
    """The side of a square.

    Args:
        near: a side that the caller takes; by default the longer one.
    Raises:
        UsageError: any other shape, with the remedy.
    """
    if shape[0] == shape[1]:
        return shape[0]
    raise UsageError(f"{what} needs square images, not {named(shape)}. Try --size {near or max(shape)} --fit pad.")
