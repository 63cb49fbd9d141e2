"""Verbs that train."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from reverie.commands.shared import RunName, bar, dump, out
from reverie.core.errors import UsageError
from reverie.core.files import quoted
from reverie.core.terminal import count


def train(arguments: list[str]) -> None:
    """Train a model into a run directory: weights, sample grids, loss curves, latent map, scores."""
    named = bool(arguments) and not arguments[0].startswith("-")
    model, rest = (arguments[0], arguments[1:]) if named else ("vae", arguments)
    from reverie.commands.flags import Opening, train_flags
    from reverie.core.registry import accept

    model = accept(model)
    if rest and not rest[0].startswith("-"):
        raise UsageError(
            f"{rest[0]!r} is too much: train takes one name, the model's. Did you mean --data {quoted(rest[0])}?"
        )
    pairs = zip(rest, [*rest[1:], ""], strict=False)  # the recipe, and so what --help lists, depends on the data
    source = next((a.partition("=")[2] or b for a, b in pairs if a.partition("=")[0] == "--data"), "fashion")
    options, request = train_flags(model, source, rest, train.__doc__ or "")
    from reverie.core.distributed import rank
    from reverie.workflow.train import train as start

    leader = rank() == 0
    with bar(leader) as progress:
        data = None if request.data == "none" else request.data
        opened = {field.name: getattr(request, field.name) for field in fields(Opening)}
        run = start(model, data, **opened, out=request.out, progress=progress, **options)
    if leader:
        end_of(run, request.json)


def resume(
    run: RunName,
    /,
    steps: int | None = None,
    minutes: float | None = None,
    data: str | None = None,
    json: bool = False,
) -> None:
    """Continue a stopped, killed or failed run from its newest whole checkpoint, bit for bit (on the same device).

    With --steps or --minutes it is extended, also when it is finished.

    Args:
        run: the run directory.
        steps: train until so many steps in all.
        minutes: train so many minutes more.
        data: where the run's data is now, if it has moved.
        json: end with one line of JSON.
    """
    from reverie.core.distributed import rank
    from reverie.workflow.again import resume as again

    resumed = again(run, steps, minutes, data=data)
    if rank() == 0:
        end_of(resumed, json)


def rerun(run: RunName, /, out: str | None = None, data: str | None = None, json: bool = False) -> None:
    """Repeat a run from its run.json: same data, options, seed and number of steps, in a new directory.

    Args:
        run: the run directory.
        out: where to; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        data: where the run's data is now, if it has moved.
        json: end with one line of JSON.
    """
    from reverie.core.distributed import rank
    from reverie.workflow.again import rerun as repeat

    repeated = repeat(run, out, data=data)
    if rank() == 0:
        end_of(repeated, json)


def end_of(run: Any, json: bool) -> None:
    """The last lines of a training command.

    Raises:
        KeyboardInterrupt: the training was stopped, so that the exit code tells a script not to go on.
    """
    result, stopped = run.info["result"], run.info["status"] == "stopped"
    if json:
        dump(result)
    else:
        _say_end(run, result, stopped)
    if stopped:
        raise KeyboardInterrupt


def _say_end(run: Any, result: Any, stopped: bool) -> None:
    from reverie.training.progress import speed

    seconds, rate = result["seconds"], speed(result["images_per_second"])
    out(f"{run.path}: {count(result['steps'], 'step')}, {rate}, {seconds:.0f} s")
    if stopped:
        out(f"Next: reverie resume {quoted(run.path)}")
        return
    out(f"Look at {', '.join(p.name for p in sorted(run.path.glob('*.png')))} in {run.path}.")
    verbs, card, path = run.info.get("verbs", []), run.info.get("card", {}), quoted(run.path)
    if serves := card.get("serves"):  # an auxiliary model says what it is for
        out(f"Next: {serves.replace('THIS', path)}")
        return
    after = {"sample": ["sample {} -n 64 --out grid.png", "evaluate {}"]}
    after |= {"stylize": ["stylize PHOTO [STYLE ...] --net {}"], "translate": ["translate {}"]}
    commands = next((texts for verb, texts in after.items() if verb in verbs), ["reconstruct {}"])
    space: dict[str, Any] = next(iter(card.get("latents", {}).values()), {})
    if "decode" in verbs and (space.get("encode"), space.get("prior")) == ("exact", "normal"):
        commands.append("interpolate {} seed:1 seed:2 --out morph.webp")  # one of a flow's dimensions shows nothing
    elif "decode" in verbs and {"encode", "latent"} & set(verbs):
        commands += ["traverse {}"] * (space.get("encode") != "invert" and space.get("kind") != "tokens")
    out("Next: " + ", or ".join(f"reverie {command.format(path)}" for command in commands))
