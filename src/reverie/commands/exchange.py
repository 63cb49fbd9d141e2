"""Verbs that carry models to other libraries and back."""

from __future__ import annotations

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import RunName, note, report
from reverie.core.files import quoted
from reverie.core.terminal import count


def export(
    run: RunName,
    out: Positional[Annotated[str, arg(metavar="OUT")]],
    /,
    to: Literal["diffusers"] = "diffusers",
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a trained run as a folder that another library loads, to sample the same images.

    What exports: ddpm, ddpm-textbook, edm and flow-matching, with or without classes.

    Args:
        run: a run directory, or a checkpoint inside one.
        out: the folder to make.
        to: the library.
        overwrite: replace an earlier export.
        json: print {"out", "to", "load"} as JSON.
    """
    from reverie.interop.exporting import export as write
    from reverie.interop.exporting import how_to_load

    folder = write(run, out, to, overwrite)
    load = how_to_load(folder)
    lines = (f"{run} for {to} in {folder}. To load it:", "", *load.split("\n"))
    report(json, {"out": str(folder), "to": to, "load": load}, *lines)


def import_(
    folder: Positional[Annotated[str, arg(metavar="FOLDER")]],
    /,
    out: str | None = None,
    data: str | None = None,
    json: bool = False,
) -> None:
    """Make a run of a diffusers folder: a UNet2DModel with its DDPM or DDIM scheduler, or what `export` wrote.

    Args:
        folder: a pipeline's folder, or its unet folder alone.
        out: the run directory; by default the first free of runs/MODEL-FOLDER, runs/MODEL-FOLDER-2 ...
        data: its training data, for evaluate and for the names of its classes.
        json: print {"run", "model", "classes"} as JSON.
    """
    from reverie.interop.importing import import_ as read
    from reverie.nets.shapes import named, sides

    run = read(folder, out, data)
    model, classes = run.info["model"], run.info["data"]["classes"]
    if model["kwargs"]["conditional"] == "label":
        note(f"It samples {count(len(classes), 'class')}: --label names one.")
    size = named(sides(model["kwargs"]["shape"]))
    report(
        json,
        {"run": str(run.path), "model": model["name"], "classes": classes},
        f"{folder} is now the run {run.path} ({model['name']}, images of {size} pixels).",
        f"Next: reverie sample {quoted(run.path)} -n 16 --out grid.png",
    )
