"""The verb that translates images of one domain into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reverie.commands.shared import ImageNames, RunName, report, target
from reverie.core.errors import UsageError


@dataclass(frozen=True)
class TranslateFlags:
    """Which images, and where their translations go.

    Attributes:
        run: a run directory of pix2pix, cyclegan or editor, or a checkpoint inside one.
        images: image files, folders of them, held-out:N or train:N of the run's data, or captions of it; none means the
            first held-out images.
        out: X.png is one sheet, a folder gets the translations alone: 000000.png ..., or of folders the names of their
            images.
        data: where the run's data is now, if it has moved.
        json: print the result as JSON.
    """

    run: RunName
    images: ImageNames = ()
    out: str = "translated.png"
    data: str | None = None
    json: bool = False


def translate(arguments: list[str]) -> None:
    """Translate images of one domain to the other: the source, below it the translation, below that the truth.

    Examples: reverie translate runs/pix2pix-emoji held-out:0 "red heart"; reverie translate RUN photo.jpg --to A.
    """
    from reverie.commands.flags import run_flags

    flags, options = run_flags(TranslateFlags, "translate", arguments, translate.__doc__ or "")
    from reverie.inference.load import load
    from reverie.inference.verbs import translate as translated
    from reverie.media.medium import fresh_folder
    from reverie.media.montage import save

    path = target(flags.out)
    references, names = _images_in(flags.images)
    sheet = translated(load(flags.run, data=flags.data), references or None, **options)
    if path.suffix:
        sheet.save(path)
    elif names:
        fresh_folder(path)
        for name, row in zip(names, sheet["translation"], strict=True):
            save(path / name, row)
    else:
        sheet["translation"].save(path)
    report(flags.json, {"out": str(path), "number": len(sheet)}, f"{len(sheet)} translated images in {path}")


def _images_in(references: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """References, folders replaced by their image files, and, where there is a folder, names for all results.

    Raises:
        UsageError: a folder without images.
    """
    from reverie.media.decode import SUFFIXES

    images: list[str] = []
    for reference in references:
        if not Path(reference).is_dir():
            images.append(reference)
            continue
        files = (path for path in Path(reference).iterdir() if path.is_file())
        inside = sorted(path for path in files if path.suffix.lower() in SUFFIXES)
        if not inside:
            raise UsageError(f"The folder {reference} holds no images. They end in {' '.join(sorted(SUFFIXES))}.")
        images += map(str, inside)
    if not any(Path(reference).is_dir() for reference in references):
        return images, []
    stems = [Path(name).stem if Path(name).is_file() else name.replace(":", "-").replace("/", "-") for name in images]
    names = [f"{stem}.png" if stems.count(stem) == 1 else f"{i:06d}-{stem}.png" for i, stem in enumerate(stems)]
    return images, names
