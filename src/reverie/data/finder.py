"""Images by the names that tables give them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import PurePosixPath

from reverie.core.terminal import printable


class Finder:
    """Images by the names that tables give them: relative to the table, composed or decomposed, or by the bare name."""

    def __init__(self, images: Iterable[str]):
        self.images = images

    @cached_property
    def exact(self) -> dict[str, str]:
        return {composed(name): name for name in self.images}

    @cached_property
    def bare(self) -> dict[str, list[str]]:
        bare: dict[str, list[str]] = {}
        for name in self.exact.values():
            path = PurePosixPath(composed(name))
            for key in {path.name, path.stem}:
                bare.setdefault(key, []).append(name)
        return bare

    def lost(self, name: str) -> str:
        """Why there is no image of this name: there is none, or there are several."""
        several = self.bare.get(composed(name.replace("\\", "/")).removeprefix("./"), [])
        if not several:
            return "which does not exist"
        return f"of which there are {len(several):,}, the first {printable(several[0])}: a path with folders says which"

    def __call__(self, folder: PurePosixPath, name: str, about: str = "") -> str | None:
        """The path of an image, None if there is none or several.

        Args:
            folder: of the table.
            name: in the table.
            about: of several images of this name, the one whose folder is named in it: train2017 in captions_train2017.
        """
        written = composed(name.replace("\\", "/")).removeprefix("./")
        if path := self.exact.get(str(folder / written)) or self.exact.get(written):
            return path
        several = self.bare.get(written, [])
        if len(several) > 1 and about:
            several = [path for path in several if any(part in about for part in path.split("/")[:-1])]
        return several[0] if len(several) == 1 else None


def composed(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)
