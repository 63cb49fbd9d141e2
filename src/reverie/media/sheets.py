"""Many samples on one image: rows beside one another, labels under each, films of a walk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reverie.core.errors import UsageError, argument
from reverie.core.terminal import printable
from reverie.media import Spec, alpha, medium_of, montage
from reverie.media.origin import ending_of

_LINE = 14  # pixels of a line of text
_SIDE = 84  # pixels to which rows of small images are enlarged, about


def beside(rows: Sequence[np.ndarray], spec: Spec, columns: int = 8, names: Sequence[str] = ()) -> np.ndarray:
    """Sets of stored rows (N, *shape, C) as one uint8 image: a row of each set, one below the other, then the next.

    Images may be grey in one set, in colour in another, and transparent in a third. Of clips and volumes ``columns``
    of a set are a sheet; sequences of all sets share their plots.

    Args:
        names: of the sets, to the left of their rows of images.
    """
    if spec.medium == "sequence":
        from reverie.media.plots import sequence_sheet

        names = ["sequence" if name == "image" else name for name in names]
        return sequence_sheet(rows, spec.low, spec.high, min(columns, 4), names)
    count = len(rows[0])
    starts = range(0, max(1, count), max(1, min(columns, count)))
    if spec.medium != "image":
        medium = medium_of(spec)
        sheets = [medium.sheet(row[low : low + columns], spec) for low in starts for row in rows]
        widest = max(sheet.shape[1] for sheet in sheets)
        margins = [((0, 0), (0, widest - sheet.shape[1]), (0, 0)) for sheet in sheets]
        return np.concatenate([np.pad(*pair, constant_values=255) for pair in zip(sheets, margins, strict=True)])
    channels = max(row.shape[-1] for row in rows)
    sets = [alpha.with_channels(row, channels) for row in rows]
    columns = starts.step
    blank = np.full((-count % columns, *sets[0].shape[1:]), montage.blank(channels), np.uint8)  # fills the last row
    sets = [np.concatenate([row, blank]) for row in sets]
    order = [row[low : low + columns] for low in starts for row in sets]
    sheet = montage.grid(np.concatenate(order), columns=columns, scale=max(1, round(_SIDE / spec.shape[0])))
    return _captioned(sheet, list(names) * (len(order) // len(rows))) if names else sheet


def _captioned(sheet: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A sheet of images with a name to the left of each of its rows, (H, W', 3 or 4)."""
    font = ImageFont.load_default(size=12)
    margin, height = 8 + round(max(map(font.getlength, names))), sheet.shape[0] / len(names)
    image = Image.new("RGBA" if sheet.shape[-1] == 4 else "RGB", (margin + sheet.shape[1], sheet.shape[0]), "white")
    image.paste(montage.to_image(sheet), (margin, 0))
    for index, name in enumerate(names):
        ImageDraw.Draw(image).text((4, (index + 0.5) * height), name, fill="black", font=font, anchor="lm")
    return np.asarray(image)


def labelled_grid(
    images: np.ndarray, labels: Sequence[str], columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """``montage.grid`` with a line of text under each image; a label that is too long is cut.

    Raises:
        UsageError: labels that are not one text for each image, or see ``montage.grid``.
    """
    texts = isinstance(labels, Sequence) and not isinstance(labels, str) and all(isinstance(x, str) for x in labels)
    if not texts or len(labels) not in (0, len(images)):
        raise UsageError(f"{argument('labels')} must be a text for each of the {len(images)} images, not {labels!r}.")
    if not labels:
        return montage.grid(images, columns, scale=scale)
    scale = montage.enlargement(images.shape[1], scale)
    font, tiles = ImageFont.load_default(size=11), []
    for image, label in zip(images.repeat(scale, 1).repeat(scale, 2), map(printable, labels), strict=True):
        tile = Image.new("RGBA" if image.shape[-1] == 4 else "RGB", (image.shape[1], image.shape[0] + _LINE), "white")
        tile.paste(montage.to_image(image), (0, 0))
        while label and font.getlength(label) > image.shape[1]:
            label = label[:-1]
        ImageDraw.Draw(tile).text((1, image.shape[0] + 1), label, fill="black", font=font)
        tiles.append(np.asarray(tile))
    return montage.grid(np.stack(tiles), columns, scale=1)


def image_of_each(rows: np.ndarray, spec: Spec) -> np.ndarray | None:
    """uint8 (N, H, W, C), an image for each row: itself, or the central slice of a volume; None where there is none."""
    images = medium_of(spec).as_images(rows, spec)
    return images[0] if images is not None and len(images[0]) == len(rows) else None


def check_film(path: Path, spec: Spec) -> None:
    """Raise a UsageError, before the work, where no film can be made of such samples."""
    single = np.zeros((1, *spec.shape, spec.channels), spec.dtype or medium_of(spec).storage)
    if ending_of(path) in montage.FILMS and image_of_each(single, spec) is None and spec.medium != "video":
        kind = f"{spec.medium}s of {spec}"
        raise UsageError(f"{path.name} is a film, and no image stands for {kind}. Name a sheet (.png), or an .npz.")
