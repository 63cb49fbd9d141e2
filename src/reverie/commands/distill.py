"""The verb that makes a small or quick model of a large or slow one."""

from __future__ import annotations

from reverie.commands.make import end_of
from reverie.commands.shared import RunName, bar


def distill(
    run: RunName,
    /,
    steps: int | None = None,
    guidance: float | None = None,
    direction: str | None = None,
    strength: float | None = None,
    minutes: float | None = None,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Make a quick model of a slow one: of a diffusion run, of a normalizing flow, of a direction of a StyleGAN.

    A few-step copy, a learned inverse, an editor. More options: reverie train distilled --teacher RUN, the same with
    learned-inverse or editor.

    Args:
        run: a diffusion run (ddpm, edm, flow-matching, dit, latent-diffusion), a normalizing flow, or with
            --direction a stylegan2 or stylegan run, or a checkpoint inside one.
        steps: of a diffusion run: in how many steps the new run samples, by default 4.
        guidance: of a diffusion run: scale of classifier-free guidance that the new run learns, by default 1, none.
        direction: of a StyleGAN: a principal component of its styles ("1"), or two classes ("3-7"); the new run
            applies it to any image (reverie translate).
        strength: how far that is, in standard deviations or in ways from class to class; by default 2.
        minutes: how long to train.
        data: images whose labels or captions to learn with; by default those of the run.
        seed: of every random number.
        out: the new run's directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        json: end with one line of JSON.
    """
    from reverie.core.distributed import rank
    from reverie.workflow.distill import distill as distilled

    leader = rank() == 0
    with bar(leader) as progress:
        student = distilled(run, steps, guidance, direction, strength, minutes, data, progress, seed=seed, out=out)
    if leader:
        end_of(student, json)
