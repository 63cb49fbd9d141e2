"""The verb that translates images of one domain into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from reverie.commands.shared import RunName, target, told
from reverie.core.errors import UsageError

_ROWS = 64  # translated at once


@dataclass(frozen=True)
class TranslateFlags:
    """Which images, and where their translations go.

    Attributes:
        run: a run directory of pix2pix, cyclegan or editor, or a checkpoint inside one.
        images: image files, folders of them, held-out:N or train:N of the run's data, or captions of it; none means the
            first held-out images.
        out: X.png is one grid, a folder gets the translations alone: 000000.png ..., or of folders the names of their
            images.
        json: print the result as JSON.
    """

    run: RunName
    images: Positional[Annotated[tuple[str, ...], arg(metavar="IMAGE")]] = ()
    out: str = "translated.png"
    json: bool = False


def translate(arguments: list[str]) -> None:
    """Images of one domain in the other's manner: the source, below it the translation, below that the truth.

    Examples: reverie translate runs/pix2pix-emoji held-out:0 "red heart"; reverie translate RUN photo.jpg --to A.
    """
    from reverie.commands.flags import run_flags

    asked, options = run_flags(TranslateFlags, "translate", arguments, translate.__doc__ or "")
    import torch

    from reverie.core.noise import Noise
    from reverie.drawing import beside, chunk_of, translated
    from reverie.generation import complete, find_given, load, need, spec_of
    from reverie.media import medium_of
    from reverie.media.medium import fresh_folder
    from reverie.media.montage import save

    path, model = target(asked.out), load(asked.run)
    need(model, "translate")
    spec, options = spec_of(model), complete(model, options)
    images, names = _images_in(asked.images or tuple(f"held-out:{i}" for i in range(8)))
    found = [find_given(model, one, **options) for one in images]
    most = max(one.shape[1] for one, _ in found)  # a file may be in colour where the data's own sources are grey
    given = torch.cat([one.expand(-1, most, *one.shape[2:]) for one, _ in found])
    truths = [truth for _, truth in found if truth is not None]
    truth = torch.cat(truths) if len(truths) == len(found) else None
    noise = Noise.of_seeds(range(len(given)), given.device)
    parts = [
        translated(
            model,
            given[low : low + _ROWS],
            None if truth is None else truth[low : low + _ROWS],
            noise[low : low + _ROWS],
            **chunk_of(options, low, low + _ROWS),
        )
        for low in range(0, len(given), _ROWS)
    ]
    rows = [torch.cat(part) for part in zip(*parts, strict=True)]
    if path.suffix:
        save(path, beside(rows, spec=spec))
    elif names:
        fresh_folder(path)
        for name, row in zip(names, medium_of(spec).to_storage(rows[1], spec), strict=True):
            save(path / name, row)
    else:
        medium_of(spec).save(path, medium_of(spec).to_storage(rows[1], spec), spec, {"seeds": list(range(len(given)))})
    told(asked.json, {"out": str(path), "number": len(given)}, f"{len(given)} translated images in {path}")


def _images_in(references: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """References with the image files of each folder in its place, and, where there is a folder, names for all results.

    Raises:
        UsageError: a folder without images.
    """
    from reverie.media.decode import SUFFIXES

    images: list[str] = []
    for one in references:
        if not Path(one).is_dir():
            images.append(one)
            continue
        inside = sorted(path for path in Path(one).iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
        if not inside:
            raise UsageError(f"The folder {one} holds no images. They end in {' '.join(sorted(SUFFIXES))}.")
        images += map(str, inside)
    if not any(Path(one).is_dir() for one in references):
        return images, []
    stems = [Path(one).stem if Path(one).is_file() else one.replace(":", "-").replace("/", "-") for one in images]
    names = [f"{stem}.png" if stems.count(stem) == 1 else f"{i:06d}-{stem}.png" for i, stem in enumerate(stems)]
    return images, names
