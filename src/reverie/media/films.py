"""Read films: animated GIF, WebP and PNG, and MP4 with the ``video`` extra."""

from __future__ import annotations

import contextlib
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
        durations: of the frames in milliseconds; none if all are equal.
        plays: how often it is played; 0 is without end.
    """

    path: Path
    frames: int
    seconds: float
    durations: tuple[float, ...] = ()
    plays: int = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        if ending_of(self.path) == ".mp4":
            with _readable(self.path):
                reader = montage.mp4_library().read_frames(str(self.path))
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
        library = montage.mp4_library()
        with _readable(path):
            frames, seconds = library.count_frames_and_secs(str(path))
            if not frames:
                raise ValueError("it has no frames")
        return Film(path, frames, seconds)
    with _readable(path), decode.quiet(), Image.open(path, formats=decode.FORMATS) as film:
        frames = getattr(film, "n_frames", 1)
        if frames < 2 or film.format in ("MPO", "TIFF"):
            return None
        durations, loop = [], film.info.get("loop")
        for index in range(frames):
            film.seek(index)
            film.load()
            durations.append(film.info.get("duration", 100) or 100)
    if film.format == "GIF":  # it says how often the film is repeated
        loop = 1 if loop is None else loop and loop + 1
    return Film(path, frames, sum(durations) / 1000, tuple(durations), loop or 0)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the readers as a ReverieError, with their last line: ffmpeg prints its whole log."""
    try:
        yield
    except Exception as error:  # decoders raise errors of many types on damaged data
        lines = str(error).split("=== stderr ===")[-1].strip().splitlines() or [type(error).__name__]
        raise ReverieError(f"{path} cannot be read as an image or a film: {lines[-1].strip()}.") from None
