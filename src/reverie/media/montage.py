"""Rows to one image, and to files: grids, strips, films.

Images here are uint8 (N, H, W, C), C = 1 (grey), 3 (RGB) or 4 (RGBA).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import atomic
from reverie.core.terminal import printable
from reverie.core.values import integer, is_finite
from reverie.media import alpha
from reverie.media.origin import Origin, ending_of, pillow_options, text_of

_WITH_ALPHA = ("PNG", "WEBP", "TIFF", "AVIF")  # formats
FILMS = (".webp", ".gif", ".mp4")  # endings; any other is one strip
_LONGEST = 600.0  # seconds of a film


def to_image(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1, 3 or 4) to a Pillow image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_image(image: Image.Image) -> np.ndarray:
    """A grey, RGB or RGBA Pillow image to uint8 (H, W, C)."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2, scale: int | None = None) -> np.ndarray:
    """uint8 (N, H, W, C) to one image (rows*, columns*, C), row by row, on white; of RGBA on nothing.

    Args:
        columns: images in a row; None makes it nearly square.
        gap: pixels between images.
        scale: integer enlargement; None enlarges small images to about 56 pixels.
    Raises:
        UsageError: no whole number of columns, or no whole-number scale.
    """
    count, height, width, channels = images.shape
    most = math.ceil(math.sqrt(count)) if columns is None else integer(argument("columns"), columns, least=1)
    columns = max(1, min(count, most))
    rows = max(1, math.ceil(count / columns))  # no images are a blank tile
    scale = enlargement(height, scale)
    images = images.repeat(scale, 1).repeat(scale, 2)
    height, width = height * scale, width * scale
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), blank(channels), np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def blank(channels: int) -> int:
    """The value of a pixel beside images: white, or transparent beside RGBA."""
    return 0 if channels == 4 else 255


def enlargement(height: int, scale: int | None = None) -> int:
    """A whole-number scale, by default that which enlarges small images to about 56 pixels."""
    return max(1, round(56 / height)) if scale is None else integer(argument("scale"), scale, 1, 64)


def check_seconds(seconds: Any) -> None:
    """Raise a UsageError unless this is the length of a film."""
    if not is_finite(seconds) or not 0 < seconds <= _LONGEST:
        raise UsageError(f"{argument('seconds')} must be above 0 and at most {_LONGEST:g}, not {seconds!r}.")


def strips(rows: np.ndarray, columns: int = 8) -> np.ndarray:
    """uint8 (N, T, H, W, C) to one image: a strip each, of at most ``columns`` evenly spaced steps of T.

    Strips are side by side with a white tile between, if that makes the image squarer.
    """
    length = rows.shape[1]
    steps = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    tiles, across = rows[:, steps], max(1, round(math.sqrt(len(rows) / (len(steps) + 1))))
    if across > 1:
        tiles = np.concatenate([tiles, np.full_like(tiles[:, :1], blank(rows.shape[-1]))], 1)
    return grid(tiles.reshape(len(tiles) * tiles.shape[1], *rows.shape[2:]), columns=across * tiles.shape[1])


def labelled(sheets: Sequence[tuple[str, Path]], width: int = 640, height: int = 180) -> np.ndarray:
    """The upper parts of images, one above the other, each under its label: uint8 (H, width, 3) on white."""
    line, rows = 18, []
    for label, file in sheets:
        try:
            with Image.open(file) as image:
                flat = to_image(alpha.composited(np.asarray(image.convert("RGBA"))))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, of a damaged file
            label, flat = f"{label}: {file.name} is damaged", Image.new("RGB", (width, 1), "white")
        flat = flat.resize((width, max(1, round(flat.height * width / flat.width))), Image.Resampling.LANCZOS)
        part = Image.new("RGB", (width, line + min(height, flat.height)), "white")
        ImageDraw.Draw(part).text((2, 2), printable(label), fill="black")
        part.paste(flat, (0, line))
        rows.append(np.asarray(part))
    return np.concatenate(rows)


def check_ending(path: Path) -> None:
    """Raise a UsageError unless the ending is that of an image format that can be written."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"Cannot write {path.name}: no image is written with the ending {path.suffix!r}. Try .png.")


def has_alpha(path: Path) -> bool:
    """Whether the ending is that of a format with transparency."""
    return Image.registered_extensions().get(path.suffix.lower()) in _WITH_ALPHA


def as_written(path: Path, images: np.ndarray) -> np.ndarray:
    """uint8 (..., H, W, C) as a file of this ending holds them: RGBA on white, with a warning, if it has no alpha."""
    if images.shape[-1] != 4 or has_alpha(path):
        return images
    warnings.warn(f"{path.name} has no transparency, so it shows the images on white. Try .png or .webp.", stacklevel=3)
    return alpha.composited(images)


def check_film_ending(path: Path) -> None:
    """Raise a UsageError unless the ending is a film's; a ReverieError where no library writes it."""
    if path.suffix.lower() not in FILMS:
        raise UsageError(f"{path.name} is no film: films end in {', '.join(FILMS)}.")
    if path.suffix.lower() == ".mp4":
        mp4_library()


def save(path: Path | str, image: np.ndarray, origin: Origin | None = None) -> Path:
    """Write one uint8 (H, W, C) image with its origin, atomically; the ending chooses the format.

    Raises:
        UsageError: an ending without an image format, or of one that cannot hold this image.
    """
    path = Path(path)
    check_ending(path)
    with atomic(path) as temporary:
        try:
            to_image(as_written(path, image)).save(temporary, **pillow_options(path, origin))
        except (OSError, ValueError) as error:  # Pillow's: this format has no such colours or size
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UsageError(f"Cannot write {path.name}: {error}. Try .png.") from error
    return path


def film_scale(height: int, width: int) -> int:
    """The whole-number enlargement of a film: small ones to about 160 pixels, at most 4,000 wide."""
    return max(1, min(round(160 / height), 4000 // width))


def save_film(
    path: Path | str,
    frames: np.ndarray,
    seconds: float = 3.0,
    hold: float = 0.0,
    origin: Origin | None = None,
    lossless: bool = True,
    durations: Sequence[float] = (),
    scale: int | None = None,
    plays: int = 0,
) -> Path:
    """Write uint8 (N, H, W, C) frames as .webp, .gif or .mp4, or as one strip (any other image ending).

    Args:
        seconds: length of the film.
        hold: extra seconds of the last frame.
        lossless: of .webp; photographs take five times less space without.
        durations: of the frames in milliseconds, of .webp and .gif; equal by default.
        scale: whole-number enlargement; by default small films are enlarged to about 160 pixels.
        plays: of .webp and .gif; 0 is without end.
    Raises:
        ReverieError: mp4 without the ``video`` extra.
        UsageError: no frames.
    """
    path = Path(path)
    if not len(frames):
        raise UsageError(f"Cannot write {path.name}: there are no images.")
    ending = ending_of(path)
    scale = film_scale(*frames.shape[1:3]) if scale is None else scale
    if ending in FILMS:
        frames = as_written(path, frames)
    if ending in (".webp", ".gif"):
        film = [to_image(frame) for frame in frames.repeat(scale, 1).repeat(scale, 2)]
        duration = [max(10, round(each)) for each in durations or [1000 * seconds / len(frames)] * len(frames)]
        duration[-1] += round(1000 * hold)
        options: dict[str, Any] = {"lossless": lossless} if ending == ".webp" else {}
        options |= pillow_options(path, origin)
        if ending == ".webp" or plays != 1:  # a GIF says how often it is repeated
            options["loop"] = plays - 1 if ending == ".gif" and plays else plays
        with atomic(path) as temporary:
            film[0].save(temporary, save_all=True, append_images=film[1:], duration=duration, **options)
    elif ending == ".mp4":
        rate = len(frames) / seconds
        held = np.concatenate([frames, frames[-1:].repeat(round(hold * rate), 0)])
        _save_mp4(path, held.repeat(scale, 1).repeat(scale, 2), rate, origin)
    else:
        return save(path, grid(frames, columns=min(len(frames), 20)), origin)
    return path


def mp4_library() -> Any:
    """The module that writes mp4.

    Raises:
        ReverieError: it is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ReverieError("mp4 films need an extra: pip install 'reverie[video]' (or use .webp or .gif).") from error
    return imageio_ffmpeg


def _save_mp4(path: Path, frames: np.ndarray, frames_per_second: float, origin: Origin | None) -> None:
    library = mp4_library()
    frames = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))
    with atomic(path) as temporary:
        size = (frames.shape[2], frames.shape[1])
        comment = ["-metadata", f"comment={text_of(origin)}"]
        writer = library.write_frames(
            str(temporary), size, fps=frames_per_second, macro_block_size=2, output_params=comment
        )
        writer.send(None)
        for frame in frames:
            writer.send(frame)
        writer.close()
