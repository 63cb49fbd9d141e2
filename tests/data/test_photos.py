"""Photographs: found in a Debian package by their sha256, cropped, split by photograph. No network is touched."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import reverie.data
from reverie.core.errors import ReverieError
from reverie.core.fetching import deb_files
from reverie.data import photos

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def encoded(seed: int, width: int = 640, height: int = 512) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 64, width // 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(64, 0).repeat(64, 1)).save(buffer, "BMP")
    return buffer.getvalue()


def rcc(entries: list[bytes]) -> bytes:
    body = b"".join(struct.pack(">I", len(entry)) + entry for entry in entries)
    return struct.pack(">4sIIII", b"qres", 3, 20 + len(body) + 8, 20, 20 + len(body)) + body + b"tree and names"


def deb(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    archive = b"!<arch>\n"
    for name, data in {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": buffer.getvalue()}.items():
        header = f"{name:16}{0:<12}{0:<6}{0:<6}{644:<8}{len(data):<10}`\n".encode()
        archive += header + data + b"\n" * (len(data) % 2)
    return archive


ENCODED = {f"photo-{seed}": encoded(seed) for seed in range(8)}
CATALOGUE = {name: photos.Photo(hashlib.sha256(data).hexdigest(), "A", "CC0 1.0", "") for name, data in ENCODED.items()}
PACKAGED = deb(
    {"./usr/a.rcc": rcc([b"a menu", *list(ENCODED.values())[:3]]), "./b.rcc": rcc(list(ENCODED.values())[3:])}
)


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """The packages that apt-get has; none at first, and no network."""
    packages: dict[str, bytes] = {}

    def fetch(package: str, progress=None) -> dict[str, bytes]:
        if package not in packages:
            raise OSError("apt-get failed: no such package")
        return deb_files(packages[package])

    def offline(address: str, progress=None) -> bytes:
        raise OSError("network is unreachable")

    monkeypatch.setattr(photos, "catalogue", lambda: CATALOGUE)
    monkeypatch.setattr(photos, "HELD_OUT", 0.4)
    monkeypatch.setattr(photos, "apt_download", fetch)
    monkeypatch.setattr(photos, "download", offline)
    monkeypatch.setenv("REVERIE_HOME", str(tmp_path / "home"))
    return packages


def test_no_photograph_has_crops_in_both_splits(apt: dict[str, bytes]):
    apt[photos.PACKAGE] = PACKAGED
    data = reverie.data.open_data("photos")
    train, held_out = ({name.partition("/")[0] for name in part.names} for part in (data.train, data.held_out))
    assert held_out == {name for name, photo in CATALOGUE.items() if int(photo.sha256, 16) < 0.4 * 16**64}
    assert 0 < len(held_out) < 8 and train == CATALOGUE.keys() - held_out
    assert len(data.train) == 5 * len(train)  # of 640 x 512: one at 320 x 256, two times two at 640 x 512


def test_crops_are_tiles_of_the_photograph_at_each_size():
    whole, *tiles = photos.crop(ENCODED["photo-0"])
    pixels = np.asarray(Image.open(io.BytesIO(ENCODED["photo-0"])))
    for tile, (top, left) in zip(tiles, [(0, 0), (0, 384), (256, 0), (256, 384)], strict=True):
        assert (tile == pixels[top : top + 256, left : left + 256]).all()
    half = Image.fromarray(pixels).resize((320, 256), Image.Resampling.LANCZOS)
    assert (whole == np.asarray(half)[:, :256]).all()


def test_photographs_come_from_the_cache_after_the_first_time(apt: dict[str, bytes]):
    apt[photos.PACKAGE] = PACKAGED
    first = reverie.data.open_data("photos").fingerprint
    apt.clear()
    assert reverie.data.open_data("photos").fingerprint == first
    assert (photos.folder() / "photo-3.webp").read_bytes() == ENCODED["photo-3"]
    (photos.folder() / "photo-3.webp").write_bytes(b"damaged")
    with pytest.raises(ReverieError, match=r"1 of 8 photographs are missing or changed: photo-3"):
        reverie.data.open_data("photos")


def test_changed_photographs_are_refused_and_every_source_is_named(apt: dict[str, bytes]):
    apt[photos.PACKAGE] = deb({"./a.rcc": rcc([data + b"\0" for data in ENCODED.values()])})
    with pytest.raises(ReverieError) as error:
        reverie.data.open_data("photos")
    for text in ("cache (", f"file ({photos.folder().parent / photos.DEB})", photos.ADDRESS, "apt-get download"):
        assert text in str(error.value)
    assert "8 of 8 photographs are missing or changed" in str(error.value) and "By hand: put the" in str(error.value)
    (photos.folder().parent).mkdir(parents=True, exist_ok=True)
    (photos.folder().parent / photos.DEB).write_bytes(PACKAGED)  # what the message says to do by hand
    assert reverie.data.open_data("photos").train["x"].shape[1:] == (256, 256, 3)


def test_what_is_no_package_or_resource_file_is_refused():
    for content in (b"", b"<html>not found</html>", b"!<arch>\n", PACKAGED[:100]):
        with pytest.raises(ValueError, match="not a Debian package"):
            deb_files(content)
    with pytest.raises(ValueError, match="not a Qt resource file"):
        list(photos.rcc_entries(b"html"))


def test_the_documentation_lists_every_photograph_with_author_and_licence():
    rows = dict(re.findall(r"^\| \[([a-z-]+)\]\((.*) \|$", DOCS.read_text("utf-8"), re.MULTILINE))
    listed = {name: f"{photo.page}) | {photo.author} | {photo.licence}" for name, photo in photos.catalogue().items()}
    assert rows == listed
    assert {photo.licence for photo in photos.catalogue().values()} == {
        "public domain",
        "CC0 1.0",
        "CC BY 2.0",
        "CC BY 3.0",
    }


def test_a_folder_with_the_name_of_a_set_is_not_passed_over_in_silence(apt, tmp_path, monkeypatch):
    apt[photos.PACKAGE] = PACKAGED
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.warns(UserWarning, match=r"photos is the data set of that name.*write \./photos"):
        assert reverie.data.open_data("photos").train["x"].shape[1:] == (256, 256, 3)
    with pytest.raises(ReverieError, match=r"photos"):
        reverie.data.open_data("./photos")
