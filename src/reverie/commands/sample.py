"""The verb that samples a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import arg

from reverie.commands.shared import RunName, bar, note, report, target


@dataclass(frozen=True)
class SampleFlags:
    """Which samples, and where they go.

    Attributes:
        run: a run directory, or a checkpoint inside one.
        number: how many; 64, or 8 for --stream.
        seed: the first sample's seed.
        out: X.png is one grid, a folder gets 000000.png ..., X.npz holds uint8 NHWC "images" and int "seeds". By
            default samples.png, and nothing beside a --stream.
        label: for a model of classes: a class by name or number; several take turns. None: any class.
        text: for a model of captions: a caption, in quotation marks; several take turns. None: anything.
        labels: write the class, caption or seed under each image of the grid.
        scale: enlargement of each image of the grid, a whole number.
        columns: images in a row of the grid.
        stream: the intermediate states of a model that samples step by step (diffusion: x_t above, the estimate of x0
            below): a film (.webp, .gif, .mp4), or a strip (.png ...).
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
    json: bool = False


def sample(arguments: list[str]) -> None:
    """New samples. Sample i is that of seed + i: the same alone, in a batch, on any machine (to rounding).

    Examples: reverie sample runs/ddpm-fashion --sampler ddim --steps 50; reverie sample RUN --text "red heart" "a cat"
    --guidance 3; reverie sample RUN -n 8 --stream film.webp.
    """
    from reverie.commands.flags import run_flags

    flags, options = run_flags(SampleFlags, "sample", arguments, sample.__doc__ or "")
    from reverie.core.card import card_of
    from reverie.core.values import integer
    from reverie.inference.load import load
    from reverie.inference.sampling import sample as sample_images
    from reverie.views.denoising import save_trajectory

    path = target(flags.out) if flags.out else None if flags.stream else target("samples.png")
    film, model = target(flags.stream) if flags.stream else None, load(flags.run)
    if flags.scale is not None:
        integer("--scale", flags.scale, least=1)
    if flags.columns is not None:
        integer("--columns", flags.columns, least=1)
    if caution := card_of(model).caution:
        note(caution)
    count = flags.number if flags.number is not None else 8 if film else 64
    cond: dict[str, Any] = {"label": list(flags.label) or None, "text": list(flags.text) or None}
    result: dict[str, Any] = {"number": count, "seeds": [flags.seed, flags.seed + count - 1]}
    lines = []
    if film:
        result |= {"stream": str(film), "frames": save_trajectory(film, model, count, flags.seed, cond | options)}
        lines.append(f"{result['frames']} states of {count} samples in {film}")
    if path:
        with bar(True) as progress:
            images = sample_images(model, count, flags.seed, **cond, progress=progress, **options)
        names = flags.text or flags.label
        labels = [names[i % len(names)] if names else str(seed) for i, seed in enumerate(images.seeds)]
        if path.suffix and path.suffix != ".npz" and images.spec.medium == "image":
            under = labels if flags.labels else []
            images.save(path, columns=flags.columns, scale=flags.scale, labels=under)
        else:
            images.save(path)
        result["out"] = str(path)
        lines.append(f"{count} samples in {path}")
    report(flags.json, result, *lines)
