"""The files of a folder or a zip by their relative paths: what layouts look at."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from reverie.core.errors import ReverieError, argument
from reverie.core.files import exists
from reverie.core.terminal import count, printable
from reverie.data.archive import DEFLATE
from reverie.data.items import File, Listing, Packing
from reverie.data.types import Problem
from reverie.media.decode import SUFFIXES
from reverie.media.films import VIDEO_SUFFIXES

OTHER_MEDIA = dict.fromkeys(VIDEO_SUFFIXES, "video") | dict.fromkeys((".npy", ".nii", ".nii.gz"), "volume")
_MATLAB = (
    "scipy.io.loadmat reads it: save its images by numpy.savez(path, images=..., labels=...), or its labels of files "
    "as a table of file_name and label"
)
CONVERT = {
    ".mat": _MATLAB,
    ".zip": "a .zip is a source of its own: pass its path",
    ".pkl": "pickles may run code when read; save arrays by numpy.savez",
    ".pickle": "pickles may run code when read; save arrays by numpy.savez",
    ".tfrecord": "convert them to WebDataset shards or Parquet",
}
TWICE = ("duplicate", "skipped: a later file of the same name takes its place")
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")  # of Windows, before an absolute path
LARGEST = 1 << 30  # bytes of a zip's member that are unpacked in memory


@dataclass
class Tree:
    """Files of a source.

    Attributes:
        name: of the source, for messages.
        files: relative path, with "/", -> File; sorted by path.
        problems: of finding them.
    """

    name: str
    files: dict[str, File]
    problems: list[Problem] = field(default_factory=list)

    @cached_property
    def images(self) -> list[str]:
        """Paths with the suffix of an image, in the order of the files."""
        return [name for name in self.files if suffix(name) in SUFFIXES]

    @cached_property
    def root(self) -> str:
        """The lone folders, with "/", that hold every image; "" if the first level has images or several folders."""
        root = ""
        while self.images:
            heads = {name[len(root) :].partition("/")[0] for name in self.images}
            if len(heads) > 1 or root + next(iter(heads)) in self.files:
                break
            root += next(iter(heads)) + "/"
        return root

    def beside(self, listing: Listing, used: Collection[str]) -> Listing:
        """The listing of some files, with the problems of the others."""
        listing.problems += self.problems + ignored(name for name in self.files if name not in used)
        return listing

    def below(self, name: str) -> str:
        """The path of a file without the lone folders above."""
        return name[len(self.root) :]


def suffix(name: str) -> str:
    """The lower-case suffix, such as ".png" and ".nii.gz"."""
    ending = name[len(stem(name)) :].lower()
    return ".nii.gz" if ending == ".gz" and name[:-3].lower().endswith(".nii") else ending


def stem(name: str) -> str:
    """A path without its last suffix."""
    dot = name.rfind(".")
    return name[:dot] if name.rfind("/") + 1 < dot < len(name) - 1 else name


def of_folder(root: Path) -> Tree:
    """Every visible regular file under ``root``.

    Links are followed; a folder reached twice (a loop, or two links) is entered once. Run directories below ``root``
    are skipped: their images are generated.
    """
    tree, top = Tree(str(root), {}), os.fspath(root)
    seen: set[tuple[int, int]] = set()
    todo: list[tuple[str, str]] = [(top, "")]
    while todo:
        folder, prefix = todo.pop()
        try:
            identity = Path(folder).stat()
            if (identity.st_dev, identity.st_ino) in seen and identity.st_ino:
                tree.problems.append(
                    Problem(printable(prefix), "symlink-loop", "skipped: this folder was reached before")
                )
                continue
            seen.add((identity.st_dev, identity.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            tree.problems.append(Problem(printable(prefix or "."), "unreadable", f"skipped: {error.strerror or error}"))
            continue
        if prefix and _is_run(Path(folder)):
            tree.problems.append(Problem(printable(prefix), "run", "skipped: a run directory of reverie, not data"))
            continue
        folders = []
        for entry in listed:
            name = prefix + entry.name
            if is_hidden(entry.name):
                tree.problems.append(Problem(printable(name), "hidden", "skipped: hidden"))
                continue
            try:
                if entry.is_dir():
                    folders.append((entry.path, name + "/"))
                elif entry.is_file():
                    stat = entry.stat()
                    tree.files[name] = File(name, stat.st_size, stat.st_mtime_ns, folder=top)
                elif entry.is_symlink() and not exists(entry.path):
                    tree.problems.append(Problem(printable(name), "broken-link", "skipped: the link is broken"))
                else:
                    tree.problems.append(Problem(printable(name), "not-a-file", "skipped: a pipe, socket or device"))
            except OSError as error:  # ELOOP: a link to itself
                tree.problems.append(Problem(printable(name), "broken-link", f"skipped: {error.strerror or error}"))
        todo += reversed(folders)
    tree.files = _sorted(tree.files)
    return tree


def of_zip(path: Path) -> Tree:
    """Every visible file in a zip, read from it without unpacking.

    Raises:
        ReverieError: no zip, or a damaged one.
    """
    tree = Tree(str(path), {})
    try:
        stat = path.stat()
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ReverieError(f"{path} cannot be read as a zip: {getattr(error, 'strerror', None) or error}.") from None
    for member in members:
        name = _DRIVE.sub("", member.filename.replace("\\", "/")).removeprefix("./").lstrip("/")
        if member.is_dir() or not name:
            continue
        if is_hidden(name):
            tree.problems.append(Problem(printable(name), *hidden(name, "zip")))
        elif member.flag_bits & 1:
            tree.problems.append(Problem(printable(name), "unreadable", "skipped: encrypted"))
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = f"by method {member.compress_type} of zip; only deflate is read"
            tree.problems.append(Problem(printable(name), "unreadable", f"skipped: compressed {method}"))
        elif _claims_too_much(member, stat.st_size):
            tree.problems.append(
                Problem(printable(name), "decompression-bomb", f"skipped: it claims {member.file_size:,} bytes")
            )
        else:
            if name in tree.files:
                tree.problems.append(Problem(printable(name), *TWICE))
            packing = Packing(member.compress_size, member.CRC, member.compress_type == zipfile.ZIP_DEFLATED)
            tree.files[name] = File(
                str(path), member.file_size, stat.st_mtime_ns, member.header_offset, packing=packing
            )
    tree.files = _sorted(tree.files)
    return tree


def _claims_too_much(member: zipfile.ZipInfo, size: int) -> bool:
    """Whether its sizes cannot be those of a member of a zip of ``size`` bytes, or are too large to unpack."""
    most = DEFLATE * (member.compress_size + 64)
    return member.file_size > min(LARGEST, most) or member.compress_size > size


def ignored(names: Iterable[str]) -> list[Problem]:
    """One problem per extension of files that are neither images nor words about them."""
    by_suffix = Counter(suffix(name) for name in names)
    problems = []
    for extension, n in sorted(by_suffix.items()):
        kind, action = "ignored", f"ignored: {count(n, 'file')}"
        if medium := OTHER_MEDIA.get(extension):
            kind, action = "other-medium", f"{action}; {argument('medium', medium)} reads {extension} files"
        if extension in (".csv", ".tsv"):
            action += "; a table about images has a header, and a column of their files' names, such as file_name"
        if remedy := CONVERT.get(extension):
            kind, action = "other-format", f"{action}; {remedy}"
        problems.append(Problem(f"*{extension}" if extension else "(no extension)", kind, action))
    return problems


def _sorted(files: dict[str, File]) -> dict[str, File]:
    return dict(sorted(files.items(), key=lambda pair: os.fsencode(pair[0])))


def is_hidden(path: str) -> bool:
    """Whether a part of a path begins with a dot (".." too), or is what macOS adds to zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def hidden(path: str, archive: str) -> tuple[str, str]:
    """A problem's kind and action of a hidden member of an archive."""
    return "hidden", f"skipped: its path leads out of the {archive}" if ".." in path.split("/") else "skipped: hidden"


def _is_run(folder: Path) -> bool:
    """Whether it has a run.json of reverie."""
    try:
        info = json.loads((folder / "run.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and {"reverie", "model"} <= info.keys()
