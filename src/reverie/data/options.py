"""Options of ``open_data`` and of the command line, parsed and checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reverie.core.errors import UsageError, argument, suggest
from reverie.core.files import quoted
from reverie.core.values import check_bool, integer, integers, is_finite
from reverie.data.choose import Choice
from reverie.data.naming import FOUND, Columns
from reverie.media import Size, medium_of, parse_size
from reverie.media.formats import PIXEL_LIMIT
from reverie.media.spec import is_range

Background = str | Sequence[int]  # "white", "#ff8800", "10,20,30" or (10, 20, 30)
WHITE = (255, 255, 255)
CHOICES = (
    "layout",
    "classes",
    "where",
    "limit",
    "resolution_at_least",
    "dedupe",
    "max_pixels",
    "frames",
    "stride",
    "masks",
    "mask_values",
    "columns",
)  # arguments of ``open_data`` that ``train`` passes on
ALL = Choice()
MASKS = ("yes", "no")  # None: recognised
HELD_OUT = 0.1  # share, unless the source has a split
DEFAULT_SIZE = 64  # if the images' sizes differ, are not square, or exceed MAX_OWN_SIZE
MAX_OWN_SIZE = 256
DEFAULT_FRAMES = 16  # of a clip


@dataclass(frozen=True)
class OpenOptions:
    """Parsed and checked options, see ``open_data``; ``size`` has one extent for a side.

    Attributes:
        second: "val" where that of two held-out splits of arrays is asked for.
    """

    size: tuple[int, ...] | None = None
    channels: int | None = None
    fit: str = "crop"
    background: tuple[int, int, int] = WHITE
    held_out: float = 0.1
    medium: str | None = None
    low: float | None = None
    high: float | None = None
    copies: bool = False
    layout: str | None = None
    choice: Choice = ALL
    max_pixels: int = PIXEL_LIMIT
    frames: int | None = None
    stride: int | None = None
    masks: str | None = None
    mask_values: tuple[int, ...] | None = None
    keep_classes: bool = True
    columns: Columns = FOUND
    second: str = "test"

    @property
    def with_masks(self) -> bool:
        """Whether the user says that there are masks."""
        return self.masks == "yes" or self.mask_values is not None or bool(self.columns.mask)

    def check_no_masks(self, source: str) -> None:
        """Raise UsageError if masks are asked of a source that has no mask files."""
        if self.with_masks:
            raise UsageError(f"{argument('masks')} and {argument('mask_values')} are for image files, not {source}.")

    @property
    def clip(self) -> tuple[int, int]:
        """(frames, stride) of the clips of films."""
        of_size = self.size[0] if self.size and len(self.size) == 3 else DEFAULT_FRAMES
        return self.frames or of_size, self.stride or 1

    def check_no_columns(self, what: str) -> None:
        """Raise UsageError if columns are named, which ``what`` has not."""
        if self.columns != FOUND:
            raise UsageError(
                f"{argument('columns')} is for tables beside images, Parquet files, shards and sets of the hub; {what} "
                "has none."
            )

    def frame_size(self, common: tuple[int, int] | None) -> tuple[int, int]:
        """``image_shape`` of the frames of clips, whose size may have the number of frames as its first extent."""
        return replace(self, size=self.size and self.size[-2:]).image_shape(common)

    def image_shape(self, common: tuple[int, int] | None) -> tuple[int, int]:
        """(height, width) of images: as requested, else their ``common`` size if it is square and small.

        Raises:
            UsageError: more than two extents.
        """
        if self.size is None:
            return common if common and common[0] == common[1] <= MAX_OWN_SIZE else (DEFAULT_SIZE, DEFAULT_SIZE)
        if len(self.size) > 2:
            raise UsageError(f"{argument('size', 'x'.join(map(str, self.size)))}: an image has a height and a width.")
        return self.size[0], self.size[-1]

    @property
    def opened(self) -> dict[str, Any]:
        """These options for the provenance; ``requested`` has those that the result does not determine."""
        pixels = None if self.max_pixels == PIXEL_LIMIT else self.max_pixels
        requested: dict[str, Any] = {"size": self.size and list(self.size), "channels": self.channels, "low": self.low}
        requested |= {"high": self.high, "layout": self.layout, **self.choice.as_dict(), "max_pixels": pixels}
        requested |= {"frames": self.frames, "stride": self.stride, "columns": self.columns.as_dict() or None}
        requested |= {"copies": True if self.copies else None}
        requested |= {"masks": "yes" if self.masks == "yes" else None}  # "no": the provenance has no masks
        requested |= {"mask_values": self.mask_values and list(self.mask_values)}
        return {
            "fit": self.fit,
            "background": list(self.background),
            "held_out": self.held_out,
            "requested": {name: value for name, value in requested.items() if value is not None},
        }


def open_options(
    *,
    size: Size | None,
    channels: int | None,
    fit: str,
    background: Background,
    held_out: float,
    medium: str | None,
    low: float | None,
    high: float | None,
    copies: bool,
    layout: str | None,
    choice: Choice,
    max_pixels: int,
    frames: int | None,
    stride: int | None,
    masks: str | bool | None,
    mask_values: str | int | Sequence[int] | None,
    keep_classes: bool,
    columns: str | Mapping[str, str] | Columns | None,
) -> OpenOptions:
    """Parse and check the arguments of ``open_data``.

    Raises:
        UsageError: an unknown value or one out of range.
    """
    if medium is not None:
        medium_of(str(medium))
    usual = {None: (1, 3, 4), "image": (1, 3, 4), "video": (1, 3)}.get(medium)  # others have any number of channels
    if channels is not None and (integers([channels]) is None or channels not in (usual or (channels,))):
        rgba = ", or 4 (RGBA)" * (medium != "video")
        raise UsageError(f"{argument('channels')} must be 1 (grey) or 3 (RGB){rgba}, not {channels!r}.")
    if fit not in ("crop", "pad"):
        raise UsageError(f'{argument("fit")} must be "crop" or "pad", not {fit!r}.{suggest(str(fit), ["crop", "pad"])}')
    if not is_finite(held_out) or not 0 <= held_out < 1:
        raise UsageError(f"{argument('held_out')} must be between 0 and 1, or 0 to hold nothing out, not {held_out!r}.")
    if (low, high) != (None, None) and not is_range(low, high):
        ends = f"{argument('low')} is {low} and {argument('high')} is {high}"
        raise UsageError(f"{ends}; both must be finite numbers, with low below high.")
    check_bool(argument("keep_classes"), keep_classes)
    extents = parse_size(size)
    for name, value, least in (("frames", frames, 2), ("stride", stride, 1)):
        if value is not None and (integers([value]) is None or value < least):
            raise UsageError(f"{argument(name)} must be a whole number of at least {least}, not {value!r}.")
        if value is not None and medium != "video":
            raise UsageError(f"{argument(name)} is for clips: {argument('medium', 'video')}.")
    if frames is not None and extents and len(extents) == 3 and extents[0] != frames:
        raise UsageError(f"{argument('frames')} is {frames}, and {argument('size')} has {extents[0]} frames.")
    if isinstance(masks, bool):
        masks = "yes" if masks else "no"
    if masks not in (None, *MASKS):
        raise UsageError(f'{argument("masks")} must be "yes" or "no", not {masks!r:.80}.')
    if masks == "no" and mask_values is not None:
        raise UsageError(f"{argument('mask_values')} is for masks, and {argument('masks', 'no')} reads none.")
    columns = Columns.of(columns)
    if masks == "no" and columns.mask:
        raise UsageError(f"{argument('columns')} names the masks, and {argument('masks', 'no')} reads none.")
    return OpenOptions(
        size=extents,
        channels=channels and int(channels),
        fit=fit,
        background=parse_background(background),
        held_out=float(held_out),
        medium=medium,
        low=_plain(low),
        high=_plain(high),
        copies=copies,
        layout=layout,
        choice=choice,
        max_pixels=integer(argument("max_pixels"), max_pixels, least=1, most=1 << 40),
        frames=frames and int(frames),
        stride=stride and int(stride),
        masks=masks,
        mask_values=parse_values(mask_values),
        keep_classes=keep_classes,
        columns=columns,
    )


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Options of opening as flags of the command line: ``--size 32x48``, ``--dedupe``."""
    words = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
            continue
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, list | tuple):
            value = ("x" if name == "size" else ",").join(map(str, value))
        number = f"{value:g}" if isinstance(value, float) else f"{value}"
        words.append(f"{flag} {quoted(value) if isinstance(value, str) else number}")
    return words


def flags_of(opened: Mapping[str, Any]) -> list[str]:
    """The options in ``OpenOptions.opened``, and the medium, that are not the default, as flags."""
    options = {name: value for name, value in opened["requested"].items() if name != "keep_classes"}
    usual = OpenOptions().opened | {"medium": "image"}
    same = ("fit", "background", "held_out", "medium")
    options |= {name: opened[name] for name in same if opened[name] != usual[name]}
    return as_flags(options | ({"background": colour_name(opened["background"])} if "background" in options else {}))


def _plain(number: float | None) -> float | None:
    """A NumPy number as a Python number, for JSON."""
    return number if number is None or isinstance(number, int) else float(number)


def parse_values(values: str | int | Sequence[int] | None) -> tuple[int, ...] | None:
    """ "1,15", a number or numbers to those that mark.

    Raises:
        UsageError: not whole numbers from 0 to 255.
    """
    if values is None:
        return None
    if isinstance(values, str):
        parts = values.split(",")
        numeric = all(re.fullmatch(r" *\d{1,3} *", part) for part in parts)
        numbers: Sequence[int] | None = [int(part) for part in parts] if numeric else None
    else:
        numbers = integers([values] if isinstance(values, int) else values)
    if not numbers or not all(0 <= number <= 255 for number in numbers):
        raise UsageError(f"{argument('mask_values')} must be whole numbers from 0 to 255, as 1,15; not {values!r:.80}.")
    return tuple(sorted({*map(int, numbers)}))


def parse_background(background: Background) -> tuple[int, int, int]:
    """A colour's name, "#rrggbb", "r,g,b" or three numbers to RGB.

    Raises:
        UsageError: no such colour.
    """
    if isinstance(background, str):
        from PIL import ImageColor

        text = background.strip()
        try:
            numbers = re.fullmatch(r"(\d+)[, ]+(\d+)[, ]+(\d+)", text)
            values = tuple(int(n) for n in numbers.groups()) if numbers else ImageColor.getrgb(text)[:3]
        except ValueError:
            raise _bad_background(background) from None
    else:
        values = integers(background) or ()
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise _bad_background(background)
    return values[0], values[1], values[2]


def colour_name(rgb: Sequence[int]) -> str:
    """ "white" of (255, 255, 255); "#0a141e" where there is no name."""
    from PIL import ImageColor

    names = [*ImageColor.colormap]
    number = "#{:02x}{:02x}{:02x}".format(*rgb)
    return next((name for name in names if ImageColor.getrgb(name)[:3] == tuple(rgb)), number)


def _bad_background(background: Background) -> UsageError:
    colours = 'a colour such as black or "#ff8800", or three numbers from 0 to 255'
    return UsageError(f"{argument('background')} must be {colours}, not {background!r}.")
