"""The verb that translates images of one domain into another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reverie.commands.shared import ImageNames, RunName, load, report, target
from reverie.core.errors import UsageError
from reverie.core.terminal import count


@dataclass(frozen=True)
class TranslateFlags:
    """Which images, and where their translations go.

    Attributes:
        run: a run directory of pix2pix, cyclegan or editor, or a checkpoint inside one.
        images: image files, folders of them, held-out:N or train:N of the run's data, or captions of it; none means the
            first held-out images.
        out: X.png is one sheet, X.npz has arrays, a folder gets the translations alone: 000000.png ..., or of folders
            the names of their images. By default the first free of translated.png, translated-2.png ...
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write, or a folder of other options.
        json: print the result as JSON.
    """

    run: RunName
    images: ImageNames = ()
    out: str | None = None
    data: str | None = None
    overwrite: bool = False
    json: bool = False


def translate(arguments: list[str]) -> None:
    """Translate images of one domain to the other: the source, below it the translation, below that the truth.

    Examples: reverie translate runs/pix2pix-emoji held-out:0 "red heart"; reverie translate RUN photo.jpg --to A.
    """
    from reverie.commands.flags import run_flags

    flags, options = run_flags(TranslateFlags, "translate", arguments, translate.__doc__ or "")
    from reverie.inference.verbs import translate as translated
    from reverie.media.montage import save
    from reverie.media.origin import ending_of, fresh_folder, of_row

    references, names = _images_in(flags.images)
    inputs = (*flags.images, *references)
    path = target(flags.out, "translated.png", flags.overwrite, ("", ".npz"), verb="translate", others=inputs)
    model = load(flags.run, flags.data)
    sheet = translated(model, references or None, **options)
    if ending_of(path):
        sheet.save(path)
    elif names:
        fresh_folder(path, sheet.origin, flags.overwrite)
        for index, (name, row) in enumerate(zip(names, sheet["translation"], strict=True)):
            save(path / name, row, of_row(sheet.origin, index) | {"images": references[index]})
    else:
        sheet["translation"].save(path)
    result = {"out": str(path), "number": len(sheet), "weights": model.loaded_from}
    report(flags.json, result, f"{count(len(sheet), 'translated image')} in {path}")


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
