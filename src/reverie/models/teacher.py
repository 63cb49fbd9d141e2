"""The model of another run, for one that learns from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reverie import registry
from reverie.core.card import Output, card_of
from reverie.core.errors import UsageError
from reverie.core.verbs import Model
from reverie.nets.shapes import Shape


def borrowed(teacher: Any, shape: Shape, channels: int, example: str, lack: Callable[[Model], str]) -> Any:
    """The model of another run, its weights still to be filled in.

    Args:
        teacher: {"name", "kwargs", "run"} of that run.
        shape: (height, width) of the learner's images in pixels.
        channels: 1 or 3, of the learner's pictures.
        example: a command that names a teacher.
        lack: what a model of this kind lacks as a teacher, and what to take instead; "" where nothing is.
    Raises:
        UsageError: no run, one that lacks something, or one of other pictures.
    """
    if not isinstance(teacher, dict):
        raise UsageError(f"There is no teacher, a trained run to learn from: {example}.")
    who = f"The teacher {teacher.get('run') or teacher['name']}"
    made = registry.build(teacher["name"], **teacher["kwargs"])
    if lacking := lack(made):
        raise UsageError(f"{who} is a run of {teacher['name']}, which has {lacking}")
    own, wanted = card_of(made).output, Output("image", (shape[0], shape[1]), channels)
    if own != wanted:
        raise UsageError(
            f"{who} makes images of {own}, and these are {wanted}. Leave --data and --size out to use its own."
        )
    return made
