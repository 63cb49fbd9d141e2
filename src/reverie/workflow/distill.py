"""Distil a slow model into a quick one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reverie.core.errors import UsageError, argument
from reverie.core.files import path_of
from reverie.data import open_like, reopen
from reverie.training.record import DataOnly
from reverie.training.run import Run, locate
from reverie.workflow.train import train


def distill(
    run: Run | Path | str,
    steps: int | None = None,
    guidance: float | None = None,
    direction: str | None = None,
    strength: float | None = None,
    minutes: float | None = None,
    data: Any = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Run:
    """A few-step copy of a diffusion run, the learned inverse of a flow, or a direction of a StyleGAN as an editor.

    Args:
        run: a diffusion run, a normalizing flow, or with ``direction`` a stylegan2 or stylegan run, or a checkpoint
            inside one.
        steps: in which the new run of a diffusion run samples; by default 4.
        guidance: scale of classifier-free guidance that it learns; by default 1, none.
        direction: a principal component of the styles ("1"), or two classes ("3-7"); the new run applies it to any
            image.
        strength: how far, in standard deviations or in ways from class to class; by default 2.
        minutes: how long to train.
        data: its labels or captions condition the training; by default the data of the run.
        progress: called while data is read, (done, total, description).
        options: more of ``rv.train``: out, seed, quiet ...
    Raises:
        UsageError: a run that cannot be the teacher, an option that is not of its kind of student.
    """
    path = run.path if isinstance(run, Run) else path_of("run", run)
    teacher = Run.open(locate(path)[0])
    teacher.need(DataOnly)
    record = teacher.info["data"]
    images = reopen(record, progress=progress) if data is None else open_like(data, record, progress)
    length: dict[str, Any] = {} if minutes is None else {"minutes": minutes}
    chosen = {"steps": steps, "guidance": guidance, "direction": direction, "strength": strength}
    name, kwargs = _student(teacher.info, {k: v for k, v in chosen.items() if v is not None})
    return train(name, images, progress=progress, teacher=str(path), **kwargs, **length, **options)


def _student(teacher: Mapping[str, Any], options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The system that learns from runs with this run.json, and its arguments."""
    if "direction" in options:
        name, arguments = "editor", {"direction": "direction", "strength": "strength"}
    elif _inverts(teacher):
        name, arguments = "learned-inverse", {}
    else:
        name, arguments = "distilled", {"steps": "student_steps", "guidance": "guidance"}
    if odd := [option for option in options if option not in arguments]:
        owner = teacher["model"]["name"]
        raise UsageError(
            f"{argument(odd[0])} is no option of {name}, which learns from {owner} here: leave it out. All options of "
            f"its training: `reverie train {name} --teacher RUN`."
        )
    return name, {arguments[option]: value for option, value in options.items()}


def _inverts(teacher: Mapping[str, Any]) -> bool:
    """Whether its model is an exact function from images to latents of a normal prior, and has the inverse."""
    space: Mapping[str, Any] = next(iter(teacher.get("card", {}).get("latents", {}).values()), {})
    exact = space.get("encode") == "exact" and space.get("prior") == "normal"
    return exact and "decode" in teacher.get("verbs", ())
