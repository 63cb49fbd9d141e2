"""Distil a slow model into a quick one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reverie.core.files import path_of
from reverie.data import open_like, reopen
from reverie.training.record import DataOnly
from reverie.training.run import Run, locate
from reverie.workflow.train import train


def distill(
    run: Run | Path | str,
    steps: int = 4,
    guidance: float = 1.0,
    direction: str | None = None,
    strength: float = 2.0,
    minutes: float | None = None,
    data: Any = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Run:
    """A few-step copy of a diffusion run, or with ``direction`` a StyleGAN's direction as a feed-forward editor.

    Args:
        run: a diffusion run, or with ``direction`` a stylegan2 or stylegan run, or a checkpoint inside one.
        steps: in which the new run samples.
        guidance: scale of classifier-free guidance that the new run learns; 1 is none.
        direction: a principal component of the styles ("1"), or two classes ("3-7"); the new run applies it to any
            image.
        strength: how far, in standard deviations or in ways from class to class.
        minutes: how long to train.
        data: its labels or captions condition the training; by default the data of the run.
        progress: called while data is read, (done, total, description).
        options: more of ``rv.train``: out, seed, quiet ...
    Raises:
        UsageError: a run that cannot be the teacher.
    """
    path = run.path if isinstance(run, Run) else path_of("run", run)
    teacher = Run.open(locate(path)[0])
    teacher.need(DataOnly)
    record = teacher.info["data"]
    images = reopen(record, progress=progress) if data is None else open_like(data, record, progress)
    length: dict[str, Any] = {} if minutes is None else {"minutes": minutes}
    name, kwargs = "distilled", dict[str, Any](student_steps=steps, guidance=guidance)
    if direction is not None:
        name, kwargs = "editor", {"direction": direction, "strength": strength}
    return train(name, images, progress=progress, teacher=str(path), **kwargs, **length, **options)
