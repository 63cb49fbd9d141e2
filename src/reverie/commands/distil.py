"""The verb that makes a small or quick model of a large or slow one."""

from __future__ import annotations

from typing import Any

from reverie.commands.make import _end
from reverie.commands.shared import RunName, bar


def distill(
    run: RunName,
    /,
    steps: int = 4,
    guidance: float = 1.0,
    direction: str | None = None,
    strength: float = 2.0,
    minutes: float | None = None,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Make a quick model of a slow one: a few-step copy of a diffusion run, or a StyleGAN's direction as an editor.

    More options: reverie train distilled --teacher RUN, reverie train editor --teacher RUN.

    Args:
        run: a diffusion run (ddpm, edm, flow-matching, dit, latent-diffusion), or with --direction a stylegan2 or
            stylegan run, or a checkpoint inside one.
        steps: in how many steps the new run draws.
        guidance: scale of classifier-free guidance that the new run draws with; 1 is none.
        direction: of a StyleGAN: a principal component of its styles ("1"), or two classes ("3-7"); the new run does to
            any picture what that direction does (reverie translate).
        strength: how far that is, in standard deviations or in ways from class to class.
        minutes: how long to train.
        data: pictures whose labels or captions to learn with; by default those of the run.
        seed: decides every random draw.
        out: the new run's directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        json: end with one line of JSON.
    """
    from reverie.core.distributed import rank
    from reverie.data import open_like, reopen
    from reverie.training.run import Run, locate
    from reverie.workflow.train import train

    record = Run.open(locate(run)[0]).info["data"]
    length: dict[str, Any] = {} if minutes is None else {"minutes": minutes}
    model, told = "distilled", dict[str, Any](evaluations=steps, guidance=guidance)
    if direction is not None:
        model, told = "editor", {"direction": direction, "strength": strength}
    leader = rank() == 0
    with bar(leader) as progress:
        pictures = reopen(record, progress=progress) if data is None else open_like(data, record, progress)
        made = train(
            model,
            pictures,
            out=out,
            progress=progress,
            teacher=run,
            seed=seed,
            **told,
            **length,
        )
    if leader:
        _end(made, json)
