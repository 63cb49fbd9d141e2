"""The origin of a file, inside the file: version, verb, run, checkpoint, seeds and options, as one JSON text.

A PNG has it as the text "reverie"; JPEG, WebP, TIFF and AVIF as the EXIF ImageDescription; a GIF and an MP4 as their
comment; an .npz as the array "reverie"; a Parquet file in its schema; a JSON file at its top level; a folder as the
file reverie.json in it. Other formats (BMP, PDF, CSV, .npy ...) carry none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from reverie import __version__
from reverie.core.errors import UsageError, argument
from reverie.core.files import check_regular, disk_errors, is_temporary, read_json, write_json
from reverie.media.decode import quiet

NOTE = "reverie.json"  # of a folder
Origin = Mapping[str, Any]
_LIMIT = 60_000  # characters; a JPEG holds 64 KiB
_DESCRIPTION = 0x010E  # EXIF's ImageDescription
_EXIF = ("JPEG", "WEBP", "TIFF", "AVIF")
_OTHERS = (".npz", ".npy", ".mp4", ".svg", ".json", ".rvc")  # endings beside Pillow's


def ending_of(path: Path | str) -> str:
    """The lower-case ending of a file's name; "" where it is no file format, as in samples-cfg-2.25."""
    ending = Path(path).suffix.lower()
    return ending if ending in Image.registered_extensions() or ending in _OTHERS else ""


def check_name_before_ending(path: Path, name: str) -> None:
    """Raise a UsageError if an argument's path is an ending alone, as .png: it would be taken as a folder's name."""
    if not path.suffix and ending_of(f"x{path.name}"):
        raise UsageError(f"{argument(name, path)} has no name before its ending.")


def complete_origin(origin: Origin | None) -> dict[str, Any]:
    """An origin as it is written: with the version, and the verb "save" where there is no other."""
    return {"reverie": __version__, "verb": "save"} | dict(origin or {})


def text_of(origin: Origin | None) -> str:
    """An origin as one line of ASCII JSON; very long entries (thousands of references) are left out."""
    entries = complete_origin(origin)
    while len(text := json.dumps(entries)) > _LIMIT:
        longest = max(entries, key=lambda name: len(json.dumps(entries[name])))
        entries[longest] = "left out: too long"
    return text


def pillow_options(path: Path, origin: Origin | None) -> dict[str, Any]:
    """Options of Pillow's ``save`` that write an origin; none for formats that carry none."""
    kind, text = Image.registered_extensions().get(path.suffix.lower()), text_of(origin)
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text("reverie", text)
        return {"pnginfo": chunks}
    if kind in _EXIF:
        exif = Image.Exif()
        exif[_DESCRIPTION] = text
        return {"exif": exif}
    return {"comment": text} if kind == "GIF" else {}


def origin_of(path: Path | str) -> dict[str, Any] | None:
    """The origin of a file or folder that reverie wrote; None of any other, also one that cannot be read."""
    path = Path(path)
    try:
        links, path = (False, path / NOTE) if path.is_dir() else (True, Path(os.path.realpath(path)))
        check_regular(path)
        json_file = path.suffix.lower() == ".json"
        origin = read_json(path, links) if json_file else json.loads(_text_in(path) or "null")
    except Exception:  # Pillow and zipfile raise errors of many types on damaged files, and those are not ours
        return None
    ours = isinstance(origin, dict) and "reverie" in origin and isinstance(origin.get("verb"), str)
    return origin if ours and isinstance(origin.get("weights") or {}, dict) else None


def _text_in(path: Path) -> str | None:
    ending = path.suffix.lower()
    if ending == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return str(archive["reverie"]) if "reverie" in archive else None
    if ending == ".parquet":
        from pyarrow import parquet  # an extra; without it the file is not known as ours

        return (parquet.read_schema(path).metadata or {}).get(b"reverie", b"null").decode("ascii")
    if ending == ".mp4":
        return _comment_of_mp4(path)
    with quiet(), Image.open(path, formats=("PNG", "GIF", *_EXIF)) as image:
        if image.format == "GIF":
            comment = image.info.get("comment", b"")
            return comment.decode("ascii") if isinstance(comment, bytes) else comment
        return image.info.get("reverie") if image.format == "PNG" else image.getexif().get(_DESCRIPTION)


def _comment_of_mp4(path: Path) -> str | None:
    """The comment (the atom \u00a9cmt) in the metadata of an MP4."""
    with path.open("rb") as stream:
        while len(header := stream.read(8)) == 8:
            size, kind = int.from_bytes(header[:4], "big"), header[4:]
            if kind == b"moov":
                _, comment, data = stream.read(size - 8).partition(b"\xa9cmt")
                length = int.from_bytes(data[:4], "big")  # of the atom "data": its size, name, type and locale
                return data[16:length].decode("utf-8") if comment else None
            if size < 8:  # the last atom, or one of 64 bits
                size = int.from_bytes(stream.read(8), "big") - 8 if size == 1 else 0
            if size < 8:
                break
            stream.seek(size - 8, 1)
    return None


def seeds_entry(seeds: Sequence[int]) -> dict[str, Any]:
    """Seeds in an origin: the first and their number where they follow one another, else all."""
    if not len(seeds):
        return {}
    if isinstance(seeds, range) or list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return {"seed": seeds[0], "number": len(seeds)}
    return {"seeds": list(seeds)}


def difference(a: Origin, b: Origin) -> str:
    """The first difference of two origins, as text; "" if they ask for the same samples of the same weights."""
    for name in dict.fromkeys([*a, *b]):
        if name in ("reverie", "rows"):
            continue
        old, new = (entry.get(name) for entry in (a, b))
        if name == "weights" and old and new:  # a moved run, or one that is finished now, has the same weights
            old, new = ({key: entry.get(key) for key in ("checkpoint", "sha256")} for entry in (old, new))
        if old != new:
            return f"{name} was {old!r} and is {new!r} now"
    return ""


# Folders


def fresh_folder(path: Path, origin: Origin | None = None, overwrite: bool | None = None) -> Path:
    """A new or empty folder with a note of its origin; files that reverie wrote to it earlier are removed.

    Args:
        overwrite: also files of another request; None, as False: where there is no such argument.
    Raises:
        UsageError: it holds other files, or without ``overwrite`` those of another request.
    """
    with disk_errors(path):
        exists = path.is_dir()
    if exists:
        ours = origin_of(path)
        new = complete_origin(origin)
        if ours and not overwrite and (change := difference(ours, new)):
            remedy = "" if overwrite is None else f", or {argument('overwrite')} to replace them"
            raise UsageError(
                f"{path} holds other results of reverie: {change:.300}. Nothing was touched. Choose another folder"
                f"{remedy}."
            )
        files = sorted(path.iterdir())
        foreign = [file for file in files if not (ours and _of_folder(file, ours))]
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise UsageError(
                f"{path} is not empty; nothing was touched. It holds {foreign[0].name}{more}. Choose an empty or a new "
                "folder."
            )
        with disk_errors(path):
            for file in files:
                file.unlink()
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_json(path / NOTE, complete_origin(origin))
    return path


def _of_folder(file: Path, note: Origin) -> bool:
    """Whether a file of a folder was written with the folder's note: a row of its number, or a named translation."""
    if file.is_symlink() or not file.is_file():
        return False
    if file.name == NOTE or is_temporary(file):
        return True
    number = note.get("rows", note.get("number", note.get("frames")))
    count = number if type(number) is int else 0
    row = re.fullmatch(r"(\d{6,18})\.\w+", file.name)
    numbered = row and int(row[1]) < count and len(row[1]) == max(6, len(str(count - 1)))
    if file.suffix == ".npy":
        return bool(numbered)
    if (origin := origin_of(file)) is None or origin["verb"] != note["verb"]:
        return False
    images = note.get("images")
    return bool(numbered) or (isinstance(images, list) and origin.get("images") in images)


def of_row(origin: Origin | None, index: int) -> dict[str, Any]:
    """The origin of one row of several: its own seed, and the class and caption whose turn it is."""
    row = dict(origin or {})
    seeds = row.pop("seeds", None)
    if seeds is not None or "number" in row:
        row |= {"seed": seeds[index] if seeds else row["seed"] + index, "number": 1}
    turns = {name: row[name] for name in ("label", "text") if isinstance(row.get(name), list)}
    return row | {name: values[index % len(values)] for name, values in turns.items()}
