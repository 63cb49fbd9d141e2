"""How to open data: the options of ``open_data`` and of the command line, checked and parsed in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reverie.core.errors import UsageError, suggest
from reverie.core.values import integers, is_finite
from reverie.media import Size, medium_of, parse_size
from reverie.media.spec import is_range

Background = str | Sequence[int]  # "white", "#ff8800", "10,20,30" or (10, 20, 30)
WHITE = (255, 255, 255)
DEFAULT_SIZE = 64  # where the images' own sizes differ, are not square, or pass MAX_OWN_SIZE
MAX_OWN_SIZE = 256


@dataclass(frozen=True)
class OpenOptions:
    """Parsed and checked. See ``open_data`` for what each means; ``size`` has one extent where a side was given."""

    size: tuple[int, ...] | None = None
    channels: int | None = None
    fit: str = "crop"
    background: tuple[int, int, int] = WHITE
    held_out: float = 0.1
    medium: str | None = None
    low: float | None = None
    high: float | None = None
    copies: bool = False

    def image_shape(self, common: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) of images: as asked for, else their ``common`` size where it is square and small.

        Raises:
            UsageError: another number of extents than two.
        """
        if self.size is None:
            return common if common and common[0] == common[1] <= MAX_OWN_SIZE else (DEFAULT_SIZE, DEFAULT_SIZE)
        if len(self.size) > 2:
            raise UsageError(f"size is {'x'.join(map(str, self.size))}; an image has a height and a width.")
        return self.size[0], self.size[-1]

    @property
    def opened(self) -> dict[str, Any]:
        """What provenance says of these options; ``requested`` holds those that the result does not tell."""
        requested = {"size": self.size and list(self.size), "channels": self.channels, "low": self.low}
        requested |= {"high": self.high}
        return {
            "fit": self.fit,
            "background": list(self.background),
            "held_out": self.held_out,
            "requested": {name: value for name, value in requested.items() if value is not None},
        }


def open_options(
    size: Size | None = None,
    channels: int | None = None,
    fit: str = "crop",
    background: Background = WHITE,
    held_out: float = 0.1,
    medium: str | None = None,
    low: float | None = None,
    high: float | None = None,
    copies: bool = False,
) -> OpenOptions:
    """Parse and check.

    Raises:
        UsageError: an option that is out of range or that nobody knows.
    """
    others = medium not in (None, "image", "video")  # may have any number of channels
    if channels is not None and (integers([channels]) is None or (channels not in (1, 3) and not others)):
        raise UsageError(f"channels is {channels}; 1 (grey) or 3 (RGB) are possible.")
    if fit not in ("crop", "pad"):
        raise UsageError(f'fit is "{fit}"; "crop" or "pad" are possible.{suggest(str(fit), ["crop", "pad"])}')
    if not is_finite(held_out) or not 0 < held_out < 1:
        raise UsageError(f"held_out is {held_out}; a share between 0 and 1 is needed.")
    if (low, high) != (None, None) and not is_range(low, high):
        raise UsageError(f"low is {low} and high is {high}; give both as finite numbers, low below high.")
    if medium is not None:
        medium_of(str(medium))
    extents = parse_size(size)
    colour = parse_background(background)
    low, high, channels = _plain(low), _plain(high), channels and int(channels)
    return OpenOptions(extents, channels, fit, colour, float(held_out), medium, low, high, copies)


def _plain(number: float | None) -> float | None:
    """A NumPy number as Python's, which goes into JSON."""
    return number if number is None or isinstance(number, int) else float(number)


def parse_background(background: Background) -> tuple[int, int, int]:
    """A colour's name, "#rrggbb", "r,g,b" or three numbers to RGB.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(background, str):
        from PIL import ImageColor

        text = background.strip()
        try:
            numbers = re.fullmatch(r"(\d+)[, ]+(\d+)[, ]+(\d+)", text)
            values = tuple(int(n) for n in numbers.groups()) if numbers else ImageColor.getrgb(text)[:3]
        except ValueError:
            raise UsageError(
                f'background is "{background}"; a colour such as black, "#ff8800" or 10,20,30 is needed.'
            ) from None
    else:
        values = integers(background) or ()
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise UsageError(f"background is {background}; a colour's name or three numbers from 0 to 255 are needed.")
    return values[0], values[1], values[2]
