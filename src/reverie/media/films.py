"""Read films: animated GIF, WebP and PNG, and MP4 with the ``video`` extra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.core.errors import ReverieError
from reverie.media import decode, montage
from reverie.media.origin import ending_of

WHITE = (255, 255, 255)  # behind transparent pixels


@dataclass(frozen=True)
class Film:
    """A film in a file; iterating reads its frames, uint8 (H, W, 3), one by one.

    Attributes:
        frames: their number.
        seconds: its length.
    """

    path: Path
    frames: int
    seconds: float

    def __iter__(self) -> Iterator[np.ndarray]:
        if ending_of(self.path) == ".mp4":
            import imageio_ffmpeg

            reader = imageio_ffmpeg.read_frames(str(self.path))
            width, height = next(reader)["size"]
            for frame in reader:
                yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
            return
        with decode.quiet(), Image.open(self.path) as film:
            for index in range(self.frames):
                film.seek(index)
                yield montage.from_image(decode.flatten(film.copy(), WHITE, []).convert("RGB"))


def read_film(path: Path) -> Film | None:
    """The film in a file; None if it is a still image.

    Raises:
        ReverieError: it cannot be read, or is an MP4 and the ``video`` extra is missing.
    """
    if ending_of(path) == ".mp4":
        try:
            import imageio_ffmpeg
        except ImportError as error:
            raise ReverieError(
                "mp4 films need an extra: pip install 'reverie[video]' (or use .webp or .gif)."
            ) from error
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
        return Film(path, frames, seconds)
    try:
        with decode.quiet(), Image.open(path, formats=decode.FORMATS) as film:
            frames = getattr(film, "n_frames", 1)
            if frames < 2 or film.format in ("MPO", "TIFF"):
                return None
            milliseconds = 0.0
            for index in range(frames):
                film.seek(index)
                film.load()
                milliseconds += film.info.get("duration", 100) or 100
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise ReverieError(f"{path} cannot be read as an image or a film: {error}.") from None
    return Film(path, frames, milliseconds / 1000)
