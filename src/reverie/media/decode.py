"""Decode an image file to a uint8 array of the requested shape, with a note of every conversion."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reverie.core.errors import ReverieError
from reverie.media import profiles, values
from reverie.media.budget import DECODING, decoded_bytes
from reverie.media.fitting import Form as Form
from reverie.media.fitting import fit as fit
from reverie.media.fitting import fit_mask as fit_mask
from reverie.media.fitting import warn_of_fit as warn_of_fit
from reverie.media.formats import FORMATS as FORMATS
from reverie.media.formats import NAMES, check_pixels, jpeg_size, open_image, short
from reverie.media.formats import PIXEL_LIMIT as PIXEL_LIMIT
from reverie.media.formats import SUFFIXES as SUFFIXES
from reverie.media.formats import Unusable as Unusable
from reverie.media.formats import quiet as quiet
from reverie.media.tones import numbers_of, odd_tones, opacity_of_16_bits, unsigned

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")  # modes of Pillow
_CONVERTED = {"icc_profile", "transparency"}  # what Pillow knows of an image that needs a conversion
_BRIGHT = 100  # of 255: an image with such a value is neither a map of labels nor 14 bits in 16
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = tuple(TURNS[orientation] for orientation in (5, 6, 7, 8))

Note = tuple[str, str]  # (kind, action), as in Problem
Ranges = Mapping[str, values.Range]  # kind of values, as in Tally -> the values that become 0 and 255


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
        array: uint8 (H, W, channels).
        notes: the conversions.
        tally: of its values.
        ends: the values that became 0 and 255; None for 8-bit values as they are.
    """

    array: np.ndarray
    notes: list[Note]
    tally: values.Tally
    ends: values.Range | None


def inspect(data: bytes, limit: int = PIXEL_LIMIT, half: str = "") -> tuple[int, int]:
    """(width, height) of an encoded image, or of its ``half``, from its header alone. Raises Unusable."""
    width, height = jpeg_size(data) or open_image(data, limit).size
    check_pixels((width, height), limit)
    return (width // 2 if half else width, height)


def upright_size(image: Image.Image | bytes) -> tuple[int, int]:
    """(width, height) of an open or encoded image once it is turned as its EXIF orientation says."""
    image = open_image(image) if isinstance(image, bytes) else image
    width, height = image.size
    return (height, width) if orientation(image) > 4 else (width, height)


def decode(
    data: bytes, form: Form, suffix: str = "", limit: int = PIXEL_LIMIT, half: str = ""
) -> tuple[np.ndarray, list[Note]]:
    """Decode one image that is no part of a set: turn upright, composite, scale to 8 bits and fit.

    Args:
        suffix: the file's extension, to detect another format's extension; "" for no check.
        limit: the most pixels.
        half: "left" or "right", of an image that is two side by side.

    Returns:
        uint8 (H, W, channels), and the conversions. Raises Unusable.
    """
    decoded = decode_of_set(data, form, {}, suffix, limit, half)
    decision = values.range_of([decoded.tally])
    dark = decoded.tally.kind == "uint8" and decoded.tally.high != 1  # one dark image is no map of labels
    if form.ends is None and not dark and not decision.usual and decision.range != decoded.ends:
        decoded = decode_of_set(data, form, {decoded.tally.kind: decision.range}, suffix, limit, half)
    return decoded.array, decoded.notes


def decode_of_set(
    data: bytes, form: Form, ranges: Ranges, suffix: str = "", limit: int = PIXEL_LIMIT, half: str = ""
) -> Decoded:
    """As ``decode``, by the ranges of a set.

    Args:
        ranges: without that of the image's kind of values, 8 and 16 bits are scaled from their full range, others from
            the range of this image.
    """
    image = open_image(data, limit)
    notes: list[Note] = []
    extension = suffix.lower()
    if extension in SUFFIXES and extension not in NAMES.get(image.format or "", SUFFIXES):
        notes.append(("misnamed", f"used: it is {image.format} under the extension {extension}"))
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a phone's JPEG with a depth map
            kind = "multi-page" if image.format == "TIFF" else "animated"
            notes.append((kind, "used: the first frame; --medium video takes all"))
        turn = TURNS.get(orientation(image))
        # Decode a JPEG at 1/2, 1/4 or 1/8 scale: exact enough at four times the requested size.
        side = 4 * max(form.shape)
        wide = side * 2 if half else side
        image.draft(None, (side, wide) if turn in _ON_THEIR_SIDE else (wide, side))
        with DECODING.hold(decoded_bytes(image.mode, image.size)):
            image.load()
            if turn is not None:
                notes.append(("exif-rotation", "converted: turned upright as its EXIF orientation says"))
            if half:
                image, turn = _half(image if turn is None else image.transpose(turn), half), None
            clear = form.channels == 4
            image, recolour, tally, ends = _to_8_bits(image, form.background, notes, ranges, form.ends, clear)
            image = image if turn is None else image.transpose(turn)
            _odd_shape(image.size, form, notes)
            if image.mode == "L" and form.channels == 3:
                notes.append(("grey", "converted: grey to RGB"))
            array = fit(image, form, recolour)
    except Unusable:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({short(error)})") from None
    return Decoded(array, notes, tally, ends)


def _half(image: Image.Image, half: str) -> Image.Image:
    """The left or right half of an upright image, without the column between them of an odd width."""
    middle = image.width // 2
    left = 0 if half == "left" else image.width - middle
    return image.crop((left, 0, left + middle, image.height))


def cut(data: bytes, half: str, limit: int = PIXEL_LIMIT) -> bytes:
    """A half of an encoded image, upright, encoded without loss; the image itself if ``half`` is "".

    Raises:
        Unusable: a damaged image, or one of 16 bits a colour, of which Pillow reads 8.
    """
    if not half:
        return data
    image = open_image(data, limit)
    if values_of(image) == "colour16":
        raise Unusable("16-bit", "skipped: 16 bits a colour are not cut into halves")
    turn = TURNS.get(orientation(image))
    written = io.BytesIO()
    try:
        image.load()
        part = unsigned(_half(image if turn is None else image.transpose(turn), half))
        if values_of(part) in ("uint16", "float"):
            part = Image.fromarray(numbers_of(part))
        part.save(written, "PNG" if part.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF")
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({short(error)})") from None
    return written.getvalue()


def read(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Decode at the image's own size: upright, composited on ``background``, "L" or "RGB". Raises Unusable."""
    image = open_image(data)
    try:
        image.load()
        return from_pillow(image, background, [])
    except Unusable:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({short(error)})") from None


def read_file(path: Path | str) -> Image.Image:
    """``read`` a file. Raises a ReverieError that names it."""
    try:
        with quiet():
            return read(Path(path).read_bytes())
    except OSError as error:
        raise ReverieError(f"{path} cannot be read: {error.strerror or error}.") from None
    except Unusable as error:
        raise ReverieError(f"{path} {error.message}") from None


def read_alpha(path: Path | str) -> Image.Image | None:
    """``alpha_of`` a file that can be read."""
    with quiet():
        return alpha_of(open_image(Path(path).read_bytes()))


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The alpha channel of an open image ("L"), upright; None if it has none or is opaque."""
    if not _has_alpha(image):
        return None
    alpha = image.convert("RGBA").getchannel("A")
    turn = TURNS.get(orientation(image))
    return None if alpha.getextrema() == (255, 255) else alpha if turn is None else alpha.transpose(turn)


def flatten(
    image: Image.Image,
    background: tuple[int, int, int],
    notes: list[Note],
    recolour: profiles.Recolour | None = None,
) -> Image.Image:
    """Any Pillow mode to "L" or "RGB", transparent pixels composited on ``background``; appends conversions.

    ``recolour`` is applied below transparency; without it, the result is still to be recoloured.
    """
    mode = image.mode
    if values_of(image) in ("uint16", "int", "float"):
        return _to_8_bits(image, background, notes)[0]
    if values_of(image) == "colour16":
        notes.append(("16-bit", "converted: scaled from 16 to 8 bits"))
    if _has_alpha(image):
        rgba = image.convert("RGBA")
        opaque = rgba.getchannel("A").getextrema() == (255, 255)
        if recolour is not None:
            alpha, rgba = rgba.getchannel("A"), recolour(rgba.convert("RGB")).convert("RGBA")
            rgba.putalpha(alpha)
        canvas = Image.new("RGBA", rgba.size, (*background, 255))
        canvas.alpha_composite(rgba)
        done = "dropped an opaque alpha channel" if opaque else f"composited on background {background}"
        notes.append(("rgba", f"converted: {done}"))
        return canvas.convert("RGB")
    if mode == "L" or mode == "RGB":
        return image
    if mode == "1":
        notes.append(("bilevel", "converted: black and white to grey"))
        return image.convert("L")
    kind = {"P": "palette", "CMYK": "cmyk"}.get(mode, "colour-space")
    try:
        flat = image.convert("RGB")
    except ValueError:
        raise Unusable("colour-space", f"skipped: colour mode {mode} has no conversion to RGB") from None
    notes.append((kind, f"converted: from {mode} to RGB"))
    return flat


def from_pillow(
    image: Image.Image,
    background: tuple[int, int, int],
    notes: list[Note],
    ranges: Ranges | None = None,
    clear: bool = False,
) -> Image.Image:
    """An open Pillow image to "L" or "RGB", or "RGBA" if ``clear``, upright, in sRGB; appends conversions.

    ``ranges`` are as of a set.
    """
    turn = TURNS.get(orientation(image))
    flat, recolour, *_ = _to_8_bits(image, background, notes, ranges or {}, clear=clear)
    flat = flat if recolour is None else recolour(flat)
    return flat if turn is None else flat.transpose(turn)


def tally_of(image: Image.Image) -> values.Tally:
    """Counts over the values of an open Pillow image; of a bright 8-bit image some value above ``_BRIGHT``."""
    kind = values_of(image)
    if kind in ("uint16", "int", "float"):
        return values.tally(numbers_of(image), kind)
    if image.mode not in ("L", "RGB"):
        return values.Tally(kind, high=255.0)
    width, height = image.size
    for corner in ((width // 2, height // 2), (0, 0), (width - 1, 0), (width // 3, height - 1)):
        pixel: Any = image.getpixel(corner)
        if (brightest := max(pixel) if isinstance(pixel, tuple) else pixel) > _BRIGHT:  # as in nearly every image
            return values.Tally(kind, high=float(brightest))
    extrema = np.array(image.getextrema())
    return values.Tally(kind, float(extrema.min()), float(extrema.max()))


def values_of(image: Image.Image) -> str:
    """The kind of values of a Pillow image, as in Tally."""
    if image.mode.startswith("I;16"):
        return "uint16"
    if image.mode in ("I", "F"):
        return "float" if image.mode == "F" else "int"
    deep = ";16" in str(getattr(image, "tile", "")) or ";16" in str(image.info.get("reverie_raw", ""))
    return "colour16" if deep else "uint8"


def fit_array(pixels: np.ndarray, form: Form) -> np.ndarray:
    """uint8 (H, W, C), C = 1, 3 or 4 (RGBA), to uint8 (H', W', channels), as ``decode`` does."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return fit(image.convert("RGBA") if form.channels == 4 else flatten(image, form.background, []), form)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 is upright."""
    try:
        value: Any = image.getexif().get(0x0112, 1)
        return int(value)
    except Exception:  # a damaged EXIF block does not make the image unusable
        return 1


def _to_8_bits(
    image: Image.Image,
    background: tuple[int, int, int],
    notes: list[Note],
    ranges: Ranges | None = None,
    ends: values.Range | None = None,
    clear: bool = False,
) -> tuple[Image.Image, profiles.Recolour | None, values.Tally, values.Range | None]:
    """A loaded image to "L" or "RGB" ("CMYK" if it is still to be recoloured): (image, what recolours it, tally, ends).

    Args:
        ends: chosen by the user, for images of more than 8 bits.
        clear: to "RGBA", recoloured, instead.
    """
    if clear:
        return _to_rgba(image, background, notes, ranges, ends)
    if remark := odd_tones(image):
        notes.append(("tones", remark))
    image = unsigned(image)
    kind = values_of(image)
    chosen = ends if ends and kind != "uint8" else (ranges or {}).get(kind)
    if kind in ("uint16", "int", "float"):
        numbers = numbers_of(image)
        tally = values.tally(numbers, kind)
        decision = values.range_of([tally])
        words = decision.words if chosen is None else f"{chosen[0]:g}..{chosen[1]:g}"
        if chosen is None and kind == "uint16":
            chosen, words = values.FULL[kind], "0..65535"
        chosen = chosen or decision.range
        if tally.bad:
            action = f"converted: {tally.bad:,} of {numbers.size:,} values are not finite; set to 0, black"
            notes.append(("not-finite", action))
        notes.append(("float" if kind == "float" else "16-bit", f"converted: {words} scaled to 8 bits"))
        flat = Image.fromarray(values.to_8_bits(numbers, chosen))
        if (opacity := opacity_of_16_bits(image)) is not None:
            notes.append(
                ("tones", f"converted: its transparent grey, of 16 bits, composited on background {background}")
            )
            flat = Image.composite(flat.convert("RGB"), Image.new("RGB", flat.size, background), opacity)
        return flat, None, tally, chosen
    if kind == "uint8" and chosen is None and image.mode in ("L", "RGB") and not _CONVERTED & image.info.keys():
        return image, None, tally_of(image), None
    recolour = profiles.to_srgb(image, notes)
    if image.mode == "CMYK" and recolour is not None:
        notes.append(("cmyk", "converted: from CMYK to RGB"))
        return image, recolour, values.Tally(kind, high=255.0), None
    flat = flatten(image, background, notes, recolour)
    tally = tally_of(flat)._replace(kind=kind)
    if chosen is not None and tally.high:
        scale = 257.0 if kind == "colour16" else 1.0  # the first byte of v is v / 257, rounded down
        flat = values.stretch(flat, (chosen[0] / scale, chosen[1] / scale))
    return flat, None if _has_alpha(image) else recolour, tally, chosen


def _to_rgba(
    image: Image.Image,
    background: tuple[int, int, int],
    notes: list[Note],
    ranges: Ranges | None,
    ends: values.Range | None,
) -> tuple[Image.Image, None, values.Tally, values.Range | None]:
    """As ``_to_8_bits``, to "RGBA": its colours without their opacity are converted, its opacity stays."""
    colours, opacity = image, opacity_of_16_bits(image)
    if opacity is not None:
        notes.append(("tones", "converted: its transparent grey, of 16 bits, has no opacity"))
        colours = image.copy()
        del colours.info["transparency"]
    elif _has_alpha(image) and values_of(image) in ("uint8", "colour16"):
        rgba = image.convert("RGBA")
        opacity, colours = rgba.getchannel("A"), rgba.convert("L" if image.mode in ("L", "LA", "La") else "RGB")
        colours.info = {name: value for name, value in image.info.items() if name != "transparency"}
    flat, recolour, tally, chosen = _to_8_bits(colours, background, notes, ranges, ends)
    flat = (flat if recolour is None else recolour(flat)).convert("RGBA")
    if opacity is not None:
        tally = tally._replace(high=255.0)  # dark colours with an opacity are no map of labels
        flat.putalpha(opacity)
    if opacity is None or opacity.getextrema() == (255, 255):
        notes.append(("opaque", "used: it has no transparent pixels"))
    return flat, None, tally, chosen


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in _WITH_ALPHA or "transparency" in image.info


def _odd_shape(size: tuple[int, int], form: Form, notes: list[Note]) -> None:
    short, long = sorted(size)
    if long > 8 * short:
        kept = "only its centre is kept" if form.fit == "crop" else "most of the result is background"
        notes.append(("extreme-aspect", f"used: {size[0]} x {size[1]}, {kept}"))
    if short < 8 and short < min(form.shape):
        notes.append(("tiny", f"used: enlarged from {size[0]} x {size[1]}"))
