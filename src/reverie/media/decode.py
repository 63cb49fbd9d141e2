"""Decode an image file to a uint8 array of the requested shape, with a note of every conversion."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from reverie.core.errors import ReverieError

PIXEL_LIMIT = 100_000_000  # width times height; larger images are refused by their header, before decoding
SUFFIXES = frozenset(
    [".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"]
)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # no EPS or PDF: they start other programs
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
NAMES = {"PNG": {".png", ".apng"}, "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"}, "TIFF": {".tif", ".tiff"}}
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")  # modes of Pillow
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Note = tuple[str, str]  # (kind, action), as in Problem


class Unusable(Exception):
    """An unusable image; ``kind`` and ``action`` as in Problem."""

    def __init__(self, kind: str, action: str):
        super().__init__(action)
        self.kind, self.action = kind, action

    @property
    def message(self) -> str:
        """Of one image that the user named, which is not skipped."""
        return f"cannot be used as an image ({self.kind}): {self.action.removeprefix('skipped: ')}."


@dataclass(frozen=True)
class Form:
    """The shape of decoded images.

    Attributes:
        shape: (height, width) in pixels.
        channels: 1 (ITU-R 601 luma) or 3 (RGB).
        fit: "crop" (cover ``shape``, keep the centre) or "pad" (fit inside ``shape``, pad with the background).
        background: RGB behind transparent pixels and in the padding.
    """

    shape: tuple[int, int]
    channels: int
    fit: str
    background: tuple[int, int, int]

    @property
    def array(self) -> tuple[int, int, int]:
        """Shape of the array: (H, W, C)."""
        return (*self.shape, self.channels)

    def as_dict(self) -> dict[str, Any]:
        """For keys and fingerprints; the size of a square is its side."""
        height, width = self.shape
        size = height if height == width else [height, width]
        return {"size": size, "channels": self.channels, "fit": self.fit, "background": self.background}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings. Enter in one thread, around the pool: warning filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def inspect(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded image from its header alone. Raises Unusable."""
    if not data:
        raise Unusable("zero-byte", "skipped: the file is empty")
    return _open(data).size


def upright_size(image: Image.Image | bytes) -> tuple[int, int]:
    """(width, height) of an open or encoded image once it is turned as its EXIF orientation says."""
    image = _open(image) if isinstance(image, bytes) else image
    width, height = image.size
    return (height, width) if _orientation(image) > 4 else (width, height)


def warn_of_fit(size: tuple[int, int], form: Form) -> None:
    """Warn that one image, named by the user, is cropped or padded; a row or column of pixels is rounding."""
    (width, height), (rows, columns) = size, form.shape
    scales = columns / width, rows / height
    if max(width, height) * (max(scales) - min(scales)) >= 1:
        done = "cropped at its centre" if form.fit == "crop" else "padded"
        warnings.warn(
            f"An image of {width} x {height} pixels was {done}: the model's images have {columns} x {rows}.",
            stacklevel=4,
        )


def decode(data: bytes, form: Form, suffix: str = "") -> tuple[np.ndarray, list[Note]]:
    """Decode, turn upright, composite, scale to 8 bits and fit.

    Args:
        suffix: the file's extension, to detect another format's extension; "" for no check.

    Returns:
        uint8 (H, W, channels), and the conversions. Raises Unusable.
    """
    image = _open(data)
    notes: list[Note] = []
    extension = suffix.lower()
    if extension in SUFFIXES and extension not in NAMES.get(image.format or "", SUFFIXES):
        notes.append(("misnamed", f"used: it is {image.format} under the extension {extension}"))
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a phone's JPEG with a depth map
            kind = "multi-page" if image.format == "TIFF" else "animated"
            notes.append((kind, "used: the first frame; --medium video takes all"))
        turn = TURNS.get(_orientation(image))
        # Decode a JPEG at 1/2, 1/4 or 1/8 scale: exact enough at four times the requested size.
        image.draft(None, (4 * max(form.shape), 4 * max(form.shape)))
        image.load()
        image = flatten(image, form.background, notes)
        if turn is not None:
            image = image.transpose(turn)
            notes.append(("exif-rotation", "converted: turned upright as its EXIF orientation says"))
        _odd_shape(image.size, form, notes)
        if image.mode == "L" and form.channels == 3:
            notes.append(("grey", "converted: grey to RGB"))
        image = fit(image, form).convert("RGB" if form.channels == 3 else "L")
    except Unusable:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({_short(error)})") from None
    return np.asarray(image).reshape(form.array), notes


def read(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Decode at the image's own size: upright, composited on ``background``, "L" or "RGB". Raises Unusable."""
    image = _open(data)
    try:
        image.load()
        return from_pillow(image, background, [])
    except Unusable:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types on damaged data
        raise Unusable("truncated", f"skipped: damaged or truncated ({_short(error)})") from None


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
        return alpha_of(_open(Path(path).read_bytes()))


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The alpha channel of an open image ("L"), upright; None if it has none or is opaque."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    turn = TURNS.get(_orientation(image))
    return None if alpha.getextrema() == (255, 255) else alpha if turn is None else alpha.transpose(turn)


def flatten(image: Image.Image, background: tuple[int, int, int], notes: list[Note]) -> Image.Image:
    """Any Pillow mode to "L" or "RGB", transparent pixels composited on ``background``; appends conversions."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _numeric(image, notes)
    if ";16" in str(getattr(image, "tile", "")) or ";16" in str(image.info.get("reverie_raw", "")):
        notes.append(("16-bit", "converted: scaled from 16 to 8 bits"))
    if mode in _WITH_ALPHA or "transparency" in image.info:
        rgba = image.convert("RGBA")
        opaque = rgba.getchannel("A").getextrema() == (255, 255)
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


def from_pillow(image: Image.Image, background: tuple[int, int, int], notes: list[Note]) -> Image.Image:
    """An open Pillow image to "L" or "RGB", upright; appends conversions."""
    turn = TURNS.get(_orientation(image))
    flat = flatten(image, background, notes)
    return flat if turn is None else flat.transpose(turn)


def fit(image: Image.Image, form: Form) -> Image.Image:
    """Resize an "L" or "RGB" image to the form's shape by antialiased Lanczos."""
    return _resize(image, form, Image.Resampling.LANCZOS, form.background)


def _resize(
    image: Image.Image, form: Form, resampling: Image.Resampling, background: tuple[int, int, int]
) -> Image.Image:
    (width, height), (rows, columns) = image.size, form.shape
    if (height, width) == form.shape:
        return image
    if form.fit == "crop":
        inside = min(width, height * columns / rows), min(height, width * rows / columns)
        left, top = (width - inside[0]) // 2, (height - inside[1]) // 2
        box = (left, top, left + inside[0], top + inside[1])
        return image.resize((columns, rows), resampling, box=box)
    scale = min(columns / width, rows / height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (columns, rows), background).convert(image.mode)
    corner = ((columns - inner[0]) // 2, (rows - inner[1]) // 2)
    canvas.paste(image.resize(inner, resampling), corner)
    return canvas


def fit_array(pixels: np.ndarray, form: Form) -> np.ndarray:
    """uint8 (H, W, C), C = 1, 3 or 4 (RGBA), to uint8 (H', W', channels), as ``decode`` does."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = fit(flatten(image, form.background, []), form).convert("RGB" if form.channels == 3 else "L")
    return np.asarray(image).reshape(form.array)


def fit_mask(mask: np.ndarray, form: Form) -> np.ndarray:
    """uint8 (H, W, 1) to uint8 (H', W', 1) by nearest neighbour; padding is 0."""
    image = _resize(Image.fromarray(mask[..., 0]), form, Image.Resampling.NEAREST, (0, 0, 0))
    return np.asarray(image).reshape(*form.shape, 1)


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except Image.DecompressionBombError:
        raise Unusable("decompression-bomb", f"skipped: its header claims over {PIXEL_LIMIT:,} pixels") from None
    except Exception as error:
        if data.startswith(MAGIC):  # Pillow names the buffer of what it cannot identify
            reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else _short(error)
            raise Unusable("truncated", f"skipped: damaged or truncated ({reason})") from None
        if isinstance(error, UnidentifiedImageError):
            raise Unusable("not-an-image", "skipped: its content is no known image format") from None
        raise Unusable("not-an-image", f"skipped: cannot be read as an image ({_short(error)})") from None
    if width * height > PIXEL_LIMIT:
        raise Unusable(
            "decompression-bomb", f"skipped: its header claims {width} x {height} pixels, over {PIXEL_LIMIT:,}"
        )
    if width < 1 or height < 1:
        raise Unusable("truncated", "skipped: its header claims no pixels")
    if raw := next((tile for tile in getattr(image, "tile", []) if ";16" in str(tile)), None):
        image.info["reverie_raw"] = str(raw)  # Pillow drops the file's bit depth once it has decoded
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value: Any = image.getexif().get(0x0112, 1)
        return int(value)
    except Exception:  # a damaged EXIF block does not make the image unusable
        return 1


def _numeric(image: Image.Image, notes: list[Note]) -> Image.Image:
    """16-bit, 32-bit and float grey to 8 bits, by the range of the type if it has one, else of the image."""
    values = np.asarray(image).astype(np.float64)
    bad = ~np.isfinite(values)
    values[bad] = 0.0
    low, high = float(values.min()), float(values.max())
    kind = "float" if image.mode == "F" else "16-bit"
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high, how = 0.0, 1.0, "0..1"
    elif image.mode == "F" and low >= 0 and high <= 255:
        low, high, how = 0.0, 255.0, "0..255"
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high, how = 0.0, 65535.0, "0..65535"
    else:
        how = f"its own range {low:g}..{high:g}"
    also = f", {int(bad.sum())} values that are not finite set to 0" if bad.any() else ""
    notes.append((kind, f"converted: {how} scaled to 8 bits{also}"))
    scaled = (values - low) * (255.0 / (high - low if high > low else 1.0))
    return Image.fromarray((scaled + 0.5).clip(0, 255).astype(np.uint8))


def _odd_shape(size: tuple[int, int], form: Form, notes: list[Note]) -> None:
    short, long = sorted(size)
    if long > 8 * short:
        kept = "only its centre is kept" if form.fit == "crop" else "most of the result is background"
        notes.append(("extreme-aspect", f"used: {size[0]} x {size[1]}, {kept}"))
    if short < 8 and short < min(form.shape):
        notes.append(("tiny", f"used: enlarged from {size[0]} x {size[1]}"))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
