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
    minutes: float | None = None,
    data: str | None = None,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
) -> None:
    """Teach a copy of a diffusion run to draw in 1 to 4 steps; more options: reverie train distilled --teacher RUN.

    Args:
        run: a diffusion run (ddpm, edm, flow-matching, dit, latent-diffusion), or a checkpoint inside one.
        steps: in how many steps the new run draws.
        guidance: scale of classifier-free guidance that the new run draws with; 1 is none.
        minutes: how long to train.
        data: pictures whose labels or captions to learn with; by default those of the run.
        seed: decides every random draw.
        out: the new run's directory; by default the first free of runs/distilled-DATA, runs/distilled-DATA-2 ...
        json: end with one line of JSON.
    """
    from reverie.training.distributed import rank
    from reverie.training.loop import train
    from reverie.training.run import Run, locate

    facts = Run.open(locate(run)[0]).info["data"]
    length: dict[str, Any] = {} if minutes is None else {"minutes": minutes}
    leader = rank() == 0
    with bar(leader) as progress:
        made = train(
            "distilled",
            data or facts["spec"],
            size=facts["size"],
            fit=facts["fit"],
            out=out,
            progress=progress,
            teacher=run,
            evaluations=steps,
            guidance=guidance,
            seed=seed,
            **length,
        )
    if leader:
        _end(made, json)
