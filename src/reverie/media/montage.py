"""Rows to one image, and to files: grids, strips, films.

Images here are uint8 (N, H, W, C), C = 1 (grey) or 3 (RGB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import atomic

FILMS = (".webp", ".gif", ".mp4")  # endings; any other is one strip


def to_image(image: np.ndarray) -> Image.Image:
    """uint8 (H, W, 1 or 3) to a Pillow image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def grid(images: np.ndarray, columns: int | None = None, gap: int = 2, scale: int | None = None) -> np.ndarray:
    """uint8 (N, H, W, C) to one image (rows*, columns*, C) on white, row by row.

    Args:
        columns: images in a row; None makes it nearly square.
        gap: white pixels between images.
        scale: integer enlargement; None enlarges small images to about 56 pixels.
    """
    count, height, width, channels = images.shape
    columns = min(count, columns or math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    scale = scale or max(1, round(56 / height))
    images = images.repeat(scale, 1).repeat(scale, 2)
    height, width = height * scale, width * scale
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def strips(rows: np.ndarray, columns: int = 8) -> np.ndarray:
    """uint8 (N, T, H, W, C) to one image: a strip each, of at most ``columns`` evenly spaced steps of T.

    Strips are side by side with a white tile between, if that makes the image squarer.
    """
    length = rows.shape[1]
    steps = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
    tiles, across = rows[:, steps], max(1, round(math.sqrt(len(rows) / (len(steps) + 1))))
    if across > 1:
        tiles = np.concatenate([tiles, np.full_like(tiles[:, :1], 255)], 1)
    return grid(tiles.reshape(-1, *rows.shape[2:]), columns=across * tiles.shape[1])


def labelled(sheets: Sequence[tuple[str, Path]], width: int = 640, height: int = 180) -> np.ndarray:
    """The upper parts of images, one above the other, each under its label: uint8 (H, width, 3) on white."""
    line, rows = 18, []
    for label, file in sheets:
        with Image.open(file) as image:
            flat = image.convert("RGB")
        flat = flat.resize((width, max(1, round(flat.height * width / flat.width))), Image.Resampling.LANCZOS)
        part = Image.new("RGB", (width, line + min(height, flat.height)), "white")
        ImageDraw.Draw(part).text((2, 2), label, fill="black")
        part.paste(flat, (0, line))
        rows.append(np.asarray(part))
    return np.concatenate(rows)


def save(path: Path | str, image: np.ndarray) -> Path:
    """Write one uint8 (H, W, C) image, atomically; the ending chooses the format."""
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"Cannot write {path.name}: no image format ends in {path.suffix!r}. Try .png.")
    with atomic(path) as temporary:
        to_image(image).save(temporary)
    return path


def save_film(path: Path | str, frames: np.ndarray, seconds: float = 3.0, hold: float = 0.0) -> Path:
    """Write uint8 (N, H, W, C) frames as .webp, .gif or .mp4, or as one strip (any other image ending).

    Args:
        seconds: length of the film.
        hold: extra seconds of the last frame.
    Raises:
        ReverieError: mp4 without the ``video`` extra.
    """
    path = Path(path)
    ending = path.suffix.lower()
    scale = max(1, round(160 / frames.shape[1]))
    if ending in (".webp", ".gif"):
        film = [to_image(frame) for frame in frames.repeat(scale, 1).repeat(scale, 2)]
        duration = [max(10, round(1000 * seconds / len(frames)))] * len(frames)
        duration[-1] += round(1000 * hold)
        options: dict[str, Any] = {"lossless": True} if ending == ".webp" else {}
        with atomic(path) as temporary:
            film[0].save(temporary, save_all=True, append_images=film[1:], duration=duration, loop=0, **options)
    elif ending == ".mp4":
        rate = len(frames) / seconds
        held = np.concatenate([frames, frames[-1:].repeat(round(hold * rate), 0)])
        _save_mp4(path, held.repeat(scale, 1).repeat(scale, 2), rate)
    else:
        return save(path, grid(frames, columns=min(len(frames), 20)))
    return path


def _save_mp4(path: Path, frames: np.ndarray, frames_per_second: float) -> None:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ReverieError("mp4 films need an extra: pip install 'reverie[video]' (or use .webp or .gif).") from error
    frames = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))
    with atomic(path) as temporary:
        size = (frames.shape[2], frames.shape[1])
        writer = imageio_ffmpeg.write_frames(str(temporary), size, fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(frame)
        writer.close()
