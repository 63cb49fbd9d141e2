"""Formats of image files: their names, how they are recognised, and what decodes them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from reverie.core.errors import argument
from reverie.media.tones import tiff_tags

PIXEL_LIMIT = 100_000_000  # width times height; larger images are refused by their header, before decoding
MOST_PIXELS = 1_000_000_000  # a header that claims more is damaged, or an attack
TEXT_LIMIT = 16 << 20  # bytes of one unpacked text inside a PNG: programs store their settings there
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, TEXT_LIMIT)

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # no EPS or PDF: they start other programs
NAMES = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".pgm", ".ppm", ".pnm", ".pbm", ".pfm"},
    "AVIF": {".avif"},
    "HEIF": {".heic", ".heif", ".hif"},
    "JXL": {".jxl"},
}
SUFFIXES = frozenset((".webp", ".bmp", ".dib", ".gif")).union(*NAMES.values())
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")
PLUGINS = {"PNG": "Png", "JPEG": "Jpeg", "WEBP": "WebP", "BMP": "Bmp", "DIB": "Bmp", "TIFF": "Tiff", "GIF": "Gif"}
PLUGINS |= {"PPM": "Ppm", "AVIF": "Avif"}
MISSING = {  # format that not every installation decodes -> what to do
    "AVIF": "AVIF images need a newer Pillow: pip install -U 'pillow>=11.3'",
    "HEIF": "HEIC images need pillow-heif: pip install 'reverie[heif]'",
    "JXL": "JPEG XL images need pyjpegxl: pip install 'reverie[jpegxl]'",
}
_TIFF = "Pillow reads no TIFF of these values and channels; save colours as 8 or 16 bits, grey also as 32-bit floats"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
_SKIPPED = frozenset((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # JPEG: tables, restarts, comments, APPn
_REFUSED = (SyntaxError, IndexError, TypeError, struct.error)  # a plugin's ways to say that a file is not its own


class Unusable(Exception):
    """An unusable image; ``kind`` and ``action`` as in Problem."""

    def __init__(self, kind: str, action: str):
        super().__init__(action)
        self.kind, self.action = kind, action

    @property
    def message(self) -> str:
        """Of one image that the user named, which is not skipped."""
        return f"cannot be used as an image ({self.kind}): {self.action.removeprefix('skipped: ')}."


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings. Enter in one thread, around the pool: warning filters are global."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_image(data: bytes, limit: int = PIXEL_LIMIT) -> Image.Image:
    """An encoded image, its header read and no pixel decoded.

    Args:
        limit: the most pixels.

    Raises:
        Unusable: no image, a damaged header, a format without a decoder here, too many pixels.
    """
    if not data:
        raise Unusable("zero-byte", "skipped: the file is empty")
    try:
        image = _identified(data)
        width, height = image.size
    except Unusable:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, which readers of WebP and GIF check
        raise Unusable("decompression-bomb", f"skipped: its header claims too many pixels ({short(error)})") from None
    except Exception as error:
        if "MAX_TEXT" in str(error):
            raise Unusable("long-text", f"skipped: a text in it unpacks to over {TEXT_LIMIT >> 20} MiB") from None
        if data.startswith(MAGIC):  # Pillow names the buffer of what it cannot identify
            reason = "its header cannot be read" if isinstance(error, UnidentifiedImageError) else short(error)
            raise Unusable("truncated", f"skipped: damaged or truncated ({reason})") from None
        if isinstance(error, UnidentifiedImageError):
            raise Unusable("not-an-image", "skipped: its content is no known image format") from None
        raise Unusable("not-an-image", f"skipped: cannot be read as an image ({short(error)})") from None
    if width < 1 or height < 1:
        raise Unusable("truncated", "skipped: its header claims no pixels")
    check_pixels((width, height), limit)
    if raw := next((tile for tile in getattr(image, "tile", []) if ";16" in str(tile)), None):
        image.info["reverie_raw"] = str(raw)  # Pillow drops the file's bit depth once it has decoded
    if image.format == "TIFF":
        image.info["reverie_tiff"] = tiff_tags(image)  # crops and turned copies keep it
    return image


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the frame header of a JPEG file (ITU-T T.81, B.2), in a tenth of Pillow's time.

    None where anything is unusual, so that only Pillow can tell.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    size, position = None, 2
    while position + 9 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # the scan: pixels
            return size
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            if size or bits != 8 or components not in (1, 3, 4) or not width * height:
                return None
            size = width, height
        elif marker not in _SKIPPED:
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def check_pixels(size: tuple[int, int], limit: int) -> None:
    """Raise Unusable if a header claims more pixels than ``limit``."""
    width, height = size
    if width * height > limit:
        enough = 10 ** (len(str(width * height)) - 2)
        remedy = argument("max_pixels", -(-width * height // enough) * enough)
        reads = f"; {remedy} reads it" if width * height <= MOST_PIXELS else ""
        raise Unusable(
            "decompression-bomb", f"skipped: its header claims {width} x {height} pixels, over {limit:,}{reads}"
        )


def short(error: Exception) -> str:
    """An error in one line of at most 120 characters."""
    return " ".join(str(error).split())[:120] or type(error).__name__


def _identified(data: bytes) -> Image.Image:
    """As ``PIL.Image.open`` of our formats, with our limit of pixels in place of Pillow's.

    Raises:
        UnidentifiedImageError: none of them.
        Unusable: one whose decoder is not installed.
    """
    rare = _rare(data)
    for name in [rare] if rare else [*FORMATS, "PPM"]:
        reader = _reader(name)
        if reader is None:
            raise Unusable("no-decoder", f"skipped: {MISSING[name]}")
        factory, accepts = reader
        if not accepts or accepts(data[:16]) is True:
            try:
                return factory(io.BytesIO(data), "")
            except _REFUSED as error:
                if name == "TIFF" and "unknown pixel mode" in str(error):
                    raise Unusable("no-decoder", f"skipped: {_TIFF}") from None
    raise UnidentifiedImageError("no known image format")


def _rare(data: bytes) -> str | None:
    """The format of ``MISSING`` that this is, by its first bytes."""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JXL"
    if data[4:8] != b"ftyp":
        return None
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = [_BRANDS.get(box[i : i + 4]) for i in range(0, len(box), 4)]
    return next((name for name in ("AVIF", "HEIF") if name in brands), None)


@functools.cache
def _reader(name: str) -> tuple[Callable[..., Image.Image], Any] | None:
    """(factory, acceptance test) of a format; None if its decoder is not installed."""
    if name in ("HEIF", "JXL"):
        try:
            if name == "JXL":
                from reverie.media.jpegxl import JpegXLFile

                return JpegXLFile, None
            import pillow_heif
        except ImportError:
            return None
        return pillow_heif.HeifImageFile, None
    try:
        importlib.import_module(f"PIL.{PLUGINS[name]}ImagePlugin")
    except ImportError:
        return None
    if name not in Image.OPEN or (name == "AVIF" and not _has_avif()):
        return None
    return Image.OPEN[name]


def _has_avif() -> bool:
    from PIL import features

    return bool(features.check("avif"))
