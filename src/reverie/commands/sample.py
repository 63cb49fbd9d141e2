"""The verb that samples a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from reverie.commands.shared import RunName, bar, load, note, report, target


@dataclass(frozen=True)
class SampleFlags:
    """Which samples, and where they go.

    Attributes:
        run: a run directory, or a checkpoint inside one.
        number: how many; 64, or 8 for --stream.
        seed: the first sample's seed.
        out: X.png is one grid; X.npz holds uint8 NHWC "images", int "seeds", and class names as "labels" or captions as
            "texts"; any other name is a folder, which gets 000000.png ... as they are sampled, and is continued when it
            is named again. By default the first free of samples.png, samples-2.png ..., and nothing beside a --stream.
        label: for a model of classes: a class by name or number; several take turns. None: any class.
        text: for a model of captions: a caption, in quotation marks; several take turns. None: anything.
        labels: write the class, caption or seed under each image of the grid.
        scale: enlargement of each image of the grid, a whole number.
        columns: images in a row of the grid.
        stream: the intermediate states of a model that samples step by step (diffusion: x_t above, the estimate of x0
            below): a film (.webp, .gif, .mp4), or a strip (.png ...).
        overwrite: replace files that reverie did not write, or a folder of other samples.
        json: print the result as JSON.
    """

    run: RunName
    number: Annotated[int | None, arg(aliases=["-n"])] = None
    seed: int = 0
    out: str | None = None
    label: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    labels: bool = False
    scale: int | None = None
    columns: int | None = None
    stream: Annotated[str | None, arg(metavar="FILE")] = None
    overwrite: bool = False
    json: bool = False


def sample(arguments: list[str]) -> None:
    """New samples. Sample i is that of seed + i: the same alone, in a batch, on any machine (to rounding).

    Examples: reverie sample runs/ddpm-fashion --sampler ddim --steps 50; reverie sample RUN --text "red heart" "a cat"
    --guidance 3; reverie sample RUN -n 8 --stream film.webp; torchrun --nproc_per_node 2 -m reverie sample RUN.
    """
    from reverie.commands.flags import run_flags

    flags, options = run_flags(SampleFlags, "sample", arguments, sample.__doc__ or "")
    from reverie.core import distributed

    with distributed.group():
        _sample(flags, options)


def _sample(flags: SampleFlags, options: dict[str, Any]) -> None:
    """What each process of the group does; the first one writes and reports."""
    from reverie.core.card import card_of
    from reverie.core.distributed import agree, rank
    from reverie.core.values import check_seeds, integer
    from reverie.inference.folder import sample_into
    from reverie.inference.load import load as open_run
    from reverie.inference.load import spec_of
    from reverie.inference.sampling import check_memory
    from reverie.inference.sampling import sample as sample_images
    from reverie.media.montage import check_ending, enlargement
    from reverie.media.origin import ending_of
    from reverie.views.denoising import save_trajectory, states_in

    count = integer("-n", flags.number if flags.number is not None else 8 if flags.stream else 64, least=1)
    check_seeds(flags.seed, flags.seed + count - 1)
    if flags.scale is not None:
        integer("--scale", flags.scale, least=1)
    if flags.columns is not None:
        integer("--columns", flags.columns, least=1)
    leader, film, path = rank() == 0, None, None
    if flags.stream and leader:
        film = target(flags.stream, "", flags.overwrite, (".mp4",), "stream")
    if (flags.out or not flags.stream) and leader:
        path = target(flags.out, "samples.png", flags.overwrite, ("", ".npz", ".mp4"), others=(film,))
    path, model = agree(path), load(flags.run) if leader else open_run(flags.run)
    if leader and (caution := card_of(model).caution):
        note(caution)
    cond: dict[str, Any] = {"label": list(flags.label) or None, "text": list(flags.text) or None}
    result: dict[str, Any] = {"number": count, "seeds": [flags.seed, flags.seed + count - 1]}
    result["weights"] = model.loaded_from
    many, lines = f"{count} sample{'s' * (count > 1)}", []
    if film:
        result |= {"stream": str(film), "frames": save_trajectory(film, model, count, flags.seed, cond | options)}
        lines.append(f"{states_in(film, result['frames'])} of {many} in {film}")
    if path and not ending_of(path):
        with bar(leader) as progress:
            options |= {"overwrite": flags.overwrite, "progress": progress, "shard": True}
            new = sample_into(path, model, count, flags.seed, **cond, **options)
        result |= {"out": str(path), "new": new}
        earlier = f", {count - new} of them from before" if 0 < new < count else ""
        done = f"{many} in the folder {path}{earlier}"
        lines.append(done if new else f"{many} in the folder {path} already; nothing was left to do")
    elif path:
        spec = spec_of(model)
        grid = spec.medium == "image" and ending_of(path) != ".npz"
        if grid:
            check_ending(path)
            check_memory(model, count, 2 + 3 * enlargement(spec.shape[0], flags.scale) ** 2)
        with bar(leader) as progress:
            images = sample_images(model, count, flags.seed, **cond, progress=progress, shard=True, **options)
        if not leader:
            return
        names = flags.text or flags.label
        labels = [names[i % len(names)] if names else str(seed) for i, seed in enumerate(images.seeds)]
        images.save(path, **_grid(flags, labels) if grid else {})
        result["out"] = str(path)
        lines.append(f"{many} in {path}")
    if leader:
        report(flags.json, result, *lines)


def _grid(flags: SampleFlags, labels: list[str]) -> dict[str, Any]:
    return {"columns": flags.columns, "scale": flags.scale, "labels": labels if flags.labels else []}
