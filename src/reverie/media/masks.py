"""Masks in image files: the values of their pixels, and the region that these mark in another image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reverie.media.budget import DECODING, decoded_bytes
from reverie.media.decode import TURNS, orientation
from reverie.media.fitting import Form, fit_mask
from reverie.media.formats import PIXEL_LIMIT, Unusable, open_image, short

FLAT = 64  # values, which most masks and maps of labels have at most
NEAR = 0.1  # of the range of values: so far from its ends are those of a soft or compressed mask
ENDS = 0.9  # share of its pixels there
NO_MASK = "no-mask"  # kind of problem
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")

Note = tuple[str, str]  # (kind, action), as in Problem
Marked = Mapping[str, frozenset[int]]  # kind of values -> those that mark


class Values(NamedTuple):
    """The pixels of a mask.

    Attributes:
        kind: "grey"; "index" of a palette of colours; "alpha"; "colour": the brightest of the three channels.
        pixels: uint8 (H, W), upright.
        turned: whether the file's EXIF orientation says how it is upright.
    """

    kind: str
    pixels: np.ndarray
    turned: bool

    @property
    def distinct(self) -> frozenset[int]:
        return frozenset(np.flatnonzero(np.bincount(self.pixels.ravel(), minlength=256)).tolist())

    @property
    def flat(self) -> bool:
        """Whether they are those of a mask, few or near the ends of their range; not of a photograph."""
        if len(self.distinct) <= FLAT:
            return True
        low, high = int(self.pixels.min()), int(self.pixels.max())
        near = NEAR * (high - low)
        return float(((self.pixels <= low + near) | (self.pixels >= high - near)).mean()) >= ENDS


def read_values(data: bytes, limit: int = PIXEL_LIMIT, alpha: bool = False) -> Values:
    """The values of an encoded mask: its opacity, if that varies or ``alpha`` is set, rather than its colours.

    Raises:
        Unusable: no image, damaged, or of more than ``limit`` pixels.
    """
    image = open_image(data, limit)
    with DECODING.hold(decoded_bytes(image.mode, image.size)):
        return _read(image, alpha)


def _read(image: Image.Image, alpha: bool) -> Values:
    try:
        image.load()
        kind, pixels = _values(image, alpha)
        turn = TURNS.get(orientation(image))
        if turn is not None:
            pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({short(error)})") from None
    return Values(kind, pixels, turn is not None)


def _values(image: Image.Image, alpha: bool) -> tuple[str, np.ndarray]:
    if image.mode == "P" and image.getpalette():
        return _of_palette(image)
    if image.mode in _ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        opacity = rgba.getchannel("A")
        low, high = opacity.getextrema()
        if alpha or low != high:
            return "alpha", np.asarray(opacity)
    if image.mode in ("1", "L"):
        return "grey", np.asarray(image.convert("L"))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        numbers = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
        most = numbers.max(initial=0.0)
        scale = 255.0 if image.mode == "F" and most <= 1 else 1 / 257 if most > 255 else 1.0
        return "grey", np.rint(numbers * scale).clip(0, 255).astype(np.uint8)
    return _brightest(image.convert("RGB"))


def _of_palette(image: Image.Image) -> tuple[str, np.ndarray]:
    """Indices; the grey levels that they stand for, of a grey palette or where only black and white are used."""
    index = np.asarray(image)
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours)] = colours
    used = palette[np.unique(index)]
    grey, plain = ((table == table[:, :1]).all() for table in (colours, used))
    if grey or (plain and {*used[:, 0].tolist()} <= {0, 255}):
        return "grey", palette[index, 0]
    return "index", index.astype(np.uint8)


def _brightest(image: Image.Image) -> tuple[str, np.ndarray]:
    array = np.asarray(image)
    kind = "grey" if (array == array[..., :1]).all() else "colour"
    return kind, array.max(2)


def decode_masks(
    masks: Sequence[bytes], image: bytes, form: Form, marked: Marked, limit: int = PIXEL_LIMIT, half: str = ""
) -> tuple[np.ndarray, list[Note]]:
    """The region that one or several masks mark together, with the geometry of their decoded image.

    A mask has the proportions of the upright image, or those of the image as it is stored, and is then turned with it.

    Args:
        image: encoded, for its size and orientation.
        marked: values by their kind.
        half: of the image, as for ``decode``.

    Returns:
        uint8 (H, W, 1), 255 where marked, resized by nearest neighbour, padded with 0; and what was done. What cannot
        be used of the masks marks nothing.
    """
    opened = open_image(image, limit)
    turn = TURNS.get(orientation(opened))
    stored = (opened.width // 2 if half else opened.width, opened.height)
    upright = stored[::-1] if orientation(opened) > 4 else stored
    region, notes = np.zeros((*form.shape, 1), np.uint8), list[Note]()
    for data in masks:
        try:
            opened = open_image(data, limit)
            with DECODING.hold(decoded_bytes(opened.mode, opened.size) + 2 * upright[0] * upright[1]):
                values = _read(opened, "alpha" in marked)
                lut = np.isin(np.arange(256), [*marked.get(values.kind, ())]).astype(np.uint8) * 255
                mask = Image.fromarray(lut[values.pixels])
                mask = _fitted(mask, None if values.turned else turn, upright, stored, notes)
                region |= fit_mask(np.asarray(mask)[..., None], form)
        except Unusable as error:
            notes.append((NO_MASK, f"used, without its mask: {error.action.removeprefix('skipped: ')}"))
    return region, notes


def _fitted(
    mask: Image.Image,
    turn: Image.Transpose | None,
    upright: tuple[int, int],
    stored: tuple[int, int],
    notes: list[Note],
) -> Image.Image:
    """A mask in the size of its upright image. Raises Unusable if its proportions are others."""
    size = mask.size
    if turn is not None and same_proportions(size, upright):
        notes.append(("mask-turn", "used: its mask has no orientation mark and fits the upright image"))
    elif turn is not None and same_proportions(size, stored):
        mask = mask.transpose(turn)
        notes.append(("mask-turn", "converted: its mask is turned with it, as the sizes say"))
    if not same_proportions(mask.size, upright):
        sizes = f"{size[0]} x {size[1]} pixels, the image {upright[0]} x {upright[1]}"
        raise Unusable(NO_MASK, f"skipped: it has other proportions, {sizes}")
    if mask.size != upright:
        notes.append(("mask-size", f"converted: its mask is resized from {size[0]} x {size[1]}"))
        mask = mask.resize(upright, Image.Resampling.NEAREST)
    return mask


def same_proportions(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes differ by a factor, but for a pixel of the smaller."""
    small, large = sorted((a, b))
    scale = max(small[0] / large[0], small[1] / large[1])
    return all(abs(side * scale - other) <= 1 for side, other in zip(large, small, strict=True))


def to_hex(values: frozenset[int]) -> str:
    """A set of values as 64 hexadecimal digits."""
    bits: Any = np.isin(np.arange(256), [*values])
    return bytes(np.packbits(bits)).hex()


def from_hex(text: str) -> frozenset[int]:
    """The inverse of ``to_hex``."""
    return frozenset(np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))).tolist())
