"""Read films: animated GIF, WebP and PNG, and video files with the ``video`` extra."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reverie.core.errors import ReverieError
from reverie.media import decode, montage
from reverie.media.formats import open_image

WHITE = (255, 255, 255)  # behind transparent pixels
VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".wmv", ".ogv", ".flv"])
_LOCAL = ["-protocol_whitelist", "file,pipe"]  # a playlist named .mp4 would fetch other files


def is_video(path: Path | str) -> bool:
    """Whether a file's name ends as one of a video that ffmpeg decodes."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


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
        if is_video(self.path):
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
        ReverieError: it cannot be read, or is a video file and the ``video`` extra is missing.
    """
    if is_video(path):
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


def video_size(path: str) -> tuple[int, int, int]:
    """(width, height, number of frames) of a video file, upright; every frame counts once, whatever its duration.

    Raises:
        Unusable: it cannot be decoded.
        ReverieError: the ``video`` extra is missing.
    """
    library = montage.mp4_library()
    with _usable():
        command = [library.get_ffmpeg_exe(), "-nostdin", *_LOCAL, "-i", path, "-map", "0:v:0"]
        command += ["-fps_mode", "passthrough", "-f", "null", "-"]
        log = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True).stderr
        size = re.search(rb"Video: wrapped_avframe.*?, (\d{1,5})x(\d{1,5})\b", log)
        counts = re.findall(rb"frame=\s*(\d+)", log)
        if size is None or not counts or counts[-1] == b"0":
            raise ValueError("it has no frames")
        return int(size[1]), int(size[2]), int(counts[-1])


def video_frames(path: str) -> Iterator[Image.Image]:
    """The frames of a video file, RGB, upright, one by one. Raises Unusable."""
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of films that are turned upright
    order = {"input_params": _LOCAL, "output_params": ["-map", "0:v:0", "-fps_mode", "passthrough"]}
    with _usable(), contextlib.closing(montage.mp4_library().read_frames(path, **order)) as reader:
        size = next(reader)["size"]
        for frame in reader:
            yield Image.frombuffer("RGB", size, frame, "raw", "RGB", 0, 1)


def animation_size(data: bytes) -> tuple[int, int, int]:
    """(width, height, number of frames) of an image, by its header; 1 if it is still. Raises Unusable."""
    with _usable(), open_image(data) as film:
        return *film.size, 1 if film.format == "MPO" else getattr(film, "n_frames", 1)  # MPO: a phone's JPEG


def animation_frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of an animated image, in Pillow's modes, one by one. Raises Unusable."""
    with _usable(), open_image(data) as film:
        for index in range(getattr(film, "n_frames", 1)):
            film.seek(index)
            yield film.copy()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Errors of the readers as a ReverieError."""
    try:
        yield
    except Exception as error:  # decoders raise errors of many types on damaged data
        raise ReverieError(f"{path} cannot be read as an image or a film: {_reason(error)}.") from None


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Errors of the readers as Unusable."""
    try:
        yield
    except (decode.Unusable, ReverieError):
        raise
    except Exception as error:  # decoders raise errors of many types on damaged data
        raise decode.Unusable("truncated", f"skipped: damaged or truncated ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The last line of a reader's error: ffmpeg prints its whole log."""
    log = getattr(error, "stderr", None)
    text = log.decode(errors="replace") if isinstance(log, bytes) else str(error)
    lines = text.split("=== stderr ===")[-1].strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:200]
