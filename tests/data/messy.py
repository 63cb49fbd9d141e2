"""A folder with every kind of trouble that pictures in the wild bring: ``python tests/data/messy.py FOLDER``."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, good: int = 40) -> dict[str, str]:
    """Fill ``folder`` with ``good`` clean pictures and one of each trouble; returns file -> the kind to be reported.

    What this system cannot make (links on Windows, undecodable names on macOS, forbidden files as root) is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str] = {}

    def put(name: str, kind: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        expected[name] = kind

    for seed in range(good):
        (folder / f"good_{seed:03d}.png").write_bytes(encoded(example(seed, 48, 40)))
    put("grey.png", "grey", encoded(example(101).convert("L")))
    put("bilevel.png", "bilevel", encoded(example(102).convert("1")))
    put("palette.png", "palette", encoded(example(103).convert("P")))
    put("clear palette.png", "rgba", encoded(example(104).convert("P"), transparency=3))
    rgba = example(105).convert("RGBA")
    rgba.putalpha(example(106).convert("L"))
    put("rgba.png", "rgba", encoded(rgba))
    put("grey alpha.png", "rgba", encoded(rgba.convert("LA")))
    ramp = np.outer(np.linspace(0, 65535, 40), np.linspace(0.2, 1, 40)).astype(np.uint16)
    put("deep.png", "16-bit", encoded(Image.fromarray(ramp)))
    put("deep colour.png", "16-bit", deep_colour())
    put("float.tif", "float", encoded(Image.fromarray(ramp[::-1].astype(np.float32) / 65535), "TIFF"))
    put("cmyk.jpg", "cmyk", encoded(example(107).convert("CMYK"), "JPEG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    put("turned.jpg", "exif-rotation", encoded(example(108, 60, 40), "JPEG", exif=exif))
    frames = [example(seed) for seed in (109, 110, 111)]
    put("film.gif", "animated", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    put("film.webp", "animated", encoded(frames[1], "WEBP", save_all=True, append_images=frames[2:]))
    put("film.png", "animated", encoded(frames[2], save_all=True, append_images=frames[:1]))
    put("pages.tiff", "multi-page", encoded(example(112), "TIFF", save_all=True, append_images=frames[:1]))
    content = encoded(example(113, 200, 200), "JPEG", quality=95)
    put("cut.jpg", "truncated", content[: len(content) // 2])
    put("cut.png", "truncated", encoded(example(114, 90, 90))[:2000])
    put("empty.png", "zero-byte", b"")
    put("text.jpg", "not-an-image", b"This is a letter, not a picture.\n" * 20)
    put("bomb.png", "decompression-bomb", bomb())
    put("really a png.jpg", "misnamed", encoded(example(115)))
    put("strip.png", "extreme-aspect", encoded(example(116, 600, 8)))
    put("dot.png", "tiny", encoded(Image.new("RGB", (1, 1), "red")))
    put("zz copy.png", "duplicate", (folder / "good_000.png").read_bytes())
    put("zz again.jpg", "near-duplicate", encoded(example(1, 48, 40), "JPEG", quality=85))
    put(".hidden.png", "hidden", encoded(example(117)))
    (folder / "notes.doc").write_bytes(b"nothing to see")
    expected["*.doc"] = "ignored"
    (folder / "写真 صورة 🖼️ é.png").write_bytes(encoded(example(118)))
    with contextlib.suppress(OSError):
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        expected["loop/"] = "symlink-loop"
        (folder / "nowhere.png").symlink_to(folder / "not there.png")
        expected["nowhere.png"] = "broken-link"
    with contextlib.suppress(OSError, ValueError):
        Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\xfename.png")).write_bytes(
            encoded(example(119).convert("CMYK"), "TIFF")
        )
        expected["bad\\xff\\xfename.png"] = "misnamed"
    with contextlib.suppress(OSError, AttributeError):
        os.mkfifo(folder / "pipe.png")
        expected["pipe.png"] = "not-a-file"
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        put("forbidden.png", "unreadable", encoded(example(120)))
        (folder / "forbidden.png").chmod(0)
    return expected


def example(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A few bytes whose header claims 60,000 x 60,000 pixels."""
    return png(60_000, 60_000, 8, 2, bytes(1000))


def deep_colour() -> bytes:
    """RGB with 16 bits a channel."""
    values = np.random.default_rng(9).integers(0, 65536, (5, 5, 3)).repeat(8, 0).repeat(8, 1).astype(">u2")
    return png(40, 40, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))


if __name__ == "__main__":
    for file, kind in sorted(make(Path(sys.argv[1])).items()):
        print(f"{kind:20} {file}")
