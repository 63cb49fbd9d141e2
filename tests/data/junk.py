"""Junk to mix into data sets: what users' folders, zips and tars hold beside images."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from layout_cases import Case, encoded
from messy import bomb, deep_colour, example, png
from messy import encoded as written
from PIL import Image

from reverie.core.terminal import printable
from reverie.data.tree import suffix
from reverie.media.formats import SUFFIXES

Files = dict[str, bytes]
GOOD = encoded(999_001)
ANY_IMAGE = (".png", ".jpg", ".gif", ".webp", ".tif", ".bmp", ".ppm", ".pgm", ".pfm", ".avif", ".heic", ".jxl", ".apng")
COCO = (
    {"images": 3, "annotations": []},
    {"images": [None, 5, {"file_name": 3}], "annotations": [7, {"image_id": []}], "categories": 5},
    {"images": [{"id": [], "file_name": "FILE"}], "annotations": [{"image_id": {}, "category_id": []}]},
    {"images": [{"id": 1, "file_name": "FILE"}], "annotations": [{"image_id": 1}], "categories": ["id", {"id": []}]},
    {"images": [{"id": 1, "file_name": "no.png"}], "annotations": [{"image_id": 2, "caption": 5}], "categories": {}},
)
ROWS: tuple[Any, ...] = (
    {},
    [],
    None,
    {"file_name": None},
    {"file_name": ["FILE"]},
    {"file_name": "FILE", "note": {"a": [1]}, "n": 10**400},
    {"file_name": "FILE", "note": float("nan"), "m": float("inf")},
    {"file_name": "\ud800.png", "label": "\ud800"},
    {"file_name": "../../etc/passwd"},
    {"file_name": "missing.png", "text": "nobody"},
    {"FILE_NAME": "FILE\u0000"},
)


def junk(draw: st.DrawFn, images: list[str]) -> Files:
    """One piece of junk; ``images`` are the paths of the data's own."""
    near = draw(st.sampled_from(images or [""]))
    folder = near.rpartition("/")[0] + "/" * ("/" in near) if draw(st.integers(0, 4)) else "junk/"
    pieces: dict[str, Callable[[], Files]] = {
        "empty": lambda: {f"{folder}empty{draw(st.sampled_from(ANY_IMAGE))}": b""},
        "noise": lambda: {f"{folder}noise{draw(st.sampled_from(ANY_IMAGE))}": draw(st.binary(max_size=80))},
        "magic": lambda: {f"{folder}magic.png": draw(st.sampled_from(MAGICS)) + draw(st.binary(max_size=40))},
        "text": lambda: {f"{folder}letter.jpg": b"Dear reader, this is no image.\n" * 9},
        "cut": lambda: {f"{folder}cut.png": GOOD[: draw(st.integers(1, len(GOOD) - 1))]},
        "flipped": lambda: {
            f"{folder}flipped.{draw(st.sampled_from(['png', 'jpg', 'gif', 'tif', 'webp']))}": _flipped(draw)
        },
        "bomb": lambda: {f"{folder}bomb.png": bomb()},
        "wide": lambda: {f"{folder}wide.png": png(1 << 31, 1, 8, 2, b"")},
        "modes": lambda: {folder + name: data for name, data in [draw(st.sampled_from(MODES))]},
        "copy": lambda: {f"{folder}zz copy.png": GOOD, f"{folder}zz copy again.png": GOOD},
        "hidden": lambda: {folder + name: GOOD for name in (".DS_Store", "._a.png", ".git/x.png", "__MACOSX/a.png")},
        "names": lambda: {folder + draw(st.sampled_from(NAMES)): GOOD},
        "others": lambda: {folder + name: data for name, data in draw(st.sampled_from(OTHERS)).items()},
        "run": lambda: {
            f"{folder}old run/run.json": b'{"reverie": "1", "model": {}}',
            f"{folder}old run/samples/0.png": GOOD,
        },
        "coco": lambda: {f"{folder}odd.json": json.dumps(draw(st.sampled_from(COCO))).replace("FILE", near).encode()},
        "rows": lambda: {f"{folder}odd.jsonl": _rows(draw, near)},
        "csv": lambda: {f"{folder}odd.csv": draw(st.sampled_from(TABLES)).replace(b"FILE", os.fsencode(near))},
        "lists": lambda: {folder + draw(st.sampled_from(LISTS)): draw(st.sampled_from(LINES))},
        "dataset": lambda: {
            "junk/dataset.json": draw(st.sampled_from([b"{", b'{"labels": 3}', b"[" * 9999, b'"\xff"']))
        },
        "caption": lambda: {near.rpartition(".")[0] + ".prompt": draw(st.binary(max_size=9))},
    }
    return draw(st.sampled_from(sorted(pieces)).map(pieces.__getitem__))()


def _flipped(draw: st.DrawFn) -> bytes:
    form = draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"]))
    data = bytearray(written(example(draw(st.integers(0, 3)), 8, 8), form))
    for where in draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
        data[where] = draw(st.integers(0, 255))
    return bytes(data)


def _rows(draw: st.DrawFn, near: str) -> bytes:
    rows = draw(st.lists(st.sampled_from(ROWS), min_size=1, max_size=5))
    text = "\n".join(json.dumps(row).replace("FILE", near) for row in rows)
    return (text + draw(st.sampled_from(["", "\n{", "\n\x00", "\n" + "[" * 3000]))).encode("utf-8", "surrogatepass")


MAGICS = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"II*\0",
    b"BM",
    b"P6\n9999999999 1\n255\n",
    b"RIFF\0\0\0\0WEBP",
)
_FRAMES = [example(seed, 8, 8) for seed in (201, 202)]
_NAN = np.full((8, 8), np.nan, np.float32)
MODES = (
    ("grey.png", written(example(203, 8, 8).convert("L"))),
    ("bit.png", written(example(204, 8, 8).convert("1"))),
    ("palette.png", written(example(205, 8, 8).convert("P"))),
    ("clear.png", written(example(206, 8, 8).convert("P"), transparency=3)),
    ("cmyk.jpg", written(example(207, 8, 8).convert("CMYK"), "JPEG")),
    ("lab.tif", written(example(208, 8, 8).convert("LAB"), "TIFF")),
    ("film.gif", written(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:])),
    ("pages.tif", written(_FRAMES[1], "TIFF", save_all=True, append_images=_FRAMES[:1])),
    ("deep.png", deep_colour()),
    ("nan.tif", written(Image.fromarray(_NAN), "TIFF")),
    ("dot.png", written(example(209, 1, 1))),
    ("strip.png", written(example(210, 900, 3))),
    ("no ending", GOOD),
    ("wrong.jpg", written(example(211, 8, 8))),
)
NAMES = (
    "bad\udcff\udcfe.png",
    "line\nbreak.png",
    "\x1b[31mred.png",
    "\u202egnp.exe.png",
    "n" * 240 + ".png",
    " .png",
    "..png",
    "a:b*c?.png",
    "％20.PNG",
    "-rf.png",
    "$HOME.png",
    "e\u0301.png",
)
OTHERS: tuple[Files, ...] = (
    {"Thumbs.db": b"\xd0\xcf", "README": b"read me", "desktop.ini": b""},
    {"film.mp4": b"\0\0\0\x18ftypmp42", "scan.nii.gz": b"\x1f\x8b", "a.npy": b"\x93NUMPY"},
    {"model.safetensors": b"{}", "script.py": b"import os", "a.zip": b"PK", "b.tar": b"", "c.parquet": b"PAR1"},
    {"metadata.csv": b"", "metadata.jsonl": b"[]"},
    {"notes.txt": b"\xff\xfe\xff", "x.caption": b""},
)
TABLES = (
    b"",
    b"\n\n",
    b"file_name,text\n",
    b'file_name,text\nFILE,"never closed\nFILE,again',
    b"file_name\n\xff\xfe\x00",
    b"file_name,text\nmissing.png,gone\nFILE,a,b,c,d\n",
    b"file_name;text\nFILE;one\nFILE;one\nFILE;two",
    b"file_name,label\nFILE\n,\n",
    b"a\0b,file_name\n1,FILE",
    b"file_name,text\nFILE," + b"x" * 140_000,
)
LISTS = ("list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt", "trainval.txt", "list.txt")
LINES = (b"", b"9", b"9\n", b"\xff\xfe", b"2\na b\nno.png 1", b"no.png 1 1 1\n#", b"\n\n\n", b"no.png 7\nno.png")


def write_junk(source: Path, case: Case, files: Files, odd: Iterable[str] = ()) -> None:
    """Junk into the source of a case, beside links and pipes where it is a folder."""
    if case.suffix == ".zip":
        with zipfile.ZipFile(source, "a") as archive:
            for name, data in files.items():
                archive.writestr(name.encode("utf-8", "replace").decode(), data)
            for kind in odd:
                _odd_member(archive, kind)
    elif case.suffix.startswith(".t"):
        with tarfile.open(source, "w:gz" if case.suffix.endswith("gz") else "w") as tar:
            for name, data in {**case.files, **files}.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for kind in odd:
                _odd_entry(tar, kind)
    elif not case.suffix:
        for name, data in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
        for kind in odd:
            _odd_file(source, kind)


ODD = ("loop", "broken", "itself", "pipe", "hollow", "twice", "outside")


def _odd_file(root: Path, kind: str) -> None:
    match kind:
        case "loop":
            (root / "loop").symlink_to(root, target_is_directory=True)
        case "broken":
            (root / "broken.png").symlink_to(root / "nowhere.png")
        case "itself":
            (root / "itself.png").symlink_to(root / "itself.png")
        case "pipe":
            os.mkfifo(root / "pipe.png")
        case _:
            (root / "hollow" / "deep").mkdir(parents=True, exist_ok=True)


def _odd_member(archive: zipfile.ZipFile, kind: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there already
        names = {"twice": ["two.png", "two.png"], "outside": ["../../out.png"], "loop": ["/abs.png"]}
        names |= {"itself": ["win\\path.png"], "hollow": ["hollow/"]}
        for i, name in enumerate(names.get(kind, [])):
            archive.writestr(name, b"" if name.endswith("/") else encoded(999_100 + i))
    if kind == "broken":
        info = zipfile.ZipInfo("packed.png")
        info.compress_type = zipfile.ZIP_BZIP2
        archive.writestr(info, GOOD)


def _odd_entry(tar: tarfile.TarFile, kind: str) -> None:
    kinds = {"loop": tarfile.SYMTYPE, "broken": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "hollow": tarfile.DIRTYPE}
    for i in range(2 if kind == "twice" else 1):
        info = tarfile.TarInfo({"outside": "../../out.png"}.get(kind, f"{kind}.png"))
        info.type, info.linkname = kinds.get(kind, tarfile.REGTYPE), "nowhere.png"
        data = b"" if kind in kinds else encoded(999_100 + i)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


# Accounting


def unaccounted(source: Path, case: Case, dataset: Any) -> list[str]:
    """What became of some file is not in the report: it is neither used, nor a problem, nor in a counted line.

    Used are rows, their sources, and the words of the case. A problem of a folder ("run/") is one of all in it. The
    counted lines, such as ("*.txt", "ignored: 3 files"), must be of exactly the files that are left.
    """
    names = _names(source)
    rows = {name.removeprefix(f"{source.name}/") for name in (*dataset.train.names, *dataset.held_out.names)}
    used = rows | {printable(name) for name in case.files}
    problems = dataset.report.problems
    named = {problem.file.removeprefix(f"{source.name}/") for problem in problems}
    shut = ("hidden", "run", "symlink-loop", "unreadable", "ignored")  # a folder with all in it
    folders = tuple(f"{problem.file.rstrip('/')}/" for problem in problems if problem.kind in shut)
    if case.options.get("medium") == "video":
        films = {name.rpartition(":")[0] for name in rows} | {p.file for p in problems if p.kind == "short-film"}
        used |= films | {n for n in map(printable, names) if n.rpartition("/")[0] in films and suffix(n) in SUFFIXES}
    tables = re.findall(r"; ([^;]+?) about [\d,]+ images?", dataset.report.read_as)
    left = [n for n in map(printable, names) if n not in used | named and not n.startswith(folders) and n not in tables]
    if case.name == "pairs":  # one sample: a pair's problem is in the name of its image
        partners = {Path(name).stem for name in named if suffix(name) in SUFFIXES}
        left = [name for name in left if suffix(name) not in SUFFIXES or Path(name).stem not in partners]
    count = Counter(f"*{suffix(name)}" if suffix(name) else "(no extension)" for name in left)
    for problem in problems:
        if match := re.match(r"ignored: ([\d,]+) files?", problem.action):
            count[problem.file] -= int(match[1].replace(",", ""))
    return [f"{ending}: {n}" for ending, n in count.items() if n]


def _names(source: Path) -> list[str]:
    """Every file of a folder, zip or tar."""
    if source.name.endswith(".zip"):
        with zipfile.ZipFile(source) as archive:
            names = [m.filename.replace("\\", "/").lstrip("/") for m in archive.infolist() if not m.is_dir()]
    elif source.is_file():
        with tarfile.open(source) as tar:
            names = [entry.name.removeprefix("./") for entry in tar if not entry.isdir()]
    else:
        names = []
        for folder, _, files in os.walk(source):
            names += [os.path.relpath(Path(folder) / file, source) for file in files]
    return [*dict.fromkeys(names)]
