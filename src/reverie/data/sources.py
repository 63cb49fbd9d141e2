"""``data(spec)``: from what the user names to two splits of pictures."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from reverie.core.errors import ReverieError, UsageError, suggest
from reverie.data.items import HELD_OUT_NAMES, Listing
from reverie.data.types import Dataset
from reverie.home import Progress

if TYPE_CHECKING:
    import numpy as np

BUNDLED_NAMES = ("fashion", "emoji")
PUBLIC_NAMES = ("mnist", "fashion-mnist", "cifar10", "stacked-mnist")
DEFAULT_SIZE = 64  # where the pictures' own sizes differ, are not square, or pass MAX_OWN_SIZE
MAX_OWN_SIZE = 256
POSSIBLE = (
    f"a bundled set ({', '.join(BUNDLED_NAMES)}), a public set ({', '.join(PUBLIC_NAMES)}), hf:owner/name, "
    "a folder of pictures, an .npz file, or WebDataset shards (x.tar, a folder of them, x-{000..003}.tar)"
)


def data(
    spec: str | os.PathLike[str],
    size: int | None = None,
    channels: int | None = None,
    fit: str = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
    held_out: float = 0.1,
    progress: Progress | None = None,
    copies: bool = False,
) -> Dataset:
    """Pictures ready for training, in two splits that share none.

    Args:
        spec: a bundled name, a public name, ``hf:owner/name``, a folder, an ``.npz`` file, or ``.tar`` shards.
            ``SPEC:train`` or ``SPEC:test`` (also ``:held_out``, ``:val``) takes one split as the whole set, and divides
            it again by content.
        size: side of the square pictures; None = their own where all are equal, square and at most 256, else 64.
        channels: 1 (grey) or 3 (RGB); None = 1 where every picture is grey, else 3.
        fit: "crop" = short side to ``size`` (Lanczos, antialiased), centre kept; "pad" = long side to ``size``.
        background: RGB behind transparent pixels and in the padding.
        held_out: share to hold out where the source names no split of its own.
        progress: called as progress(done, total, what) during long work.
        copies: keep exact copies, which among pictures to be judged are the generator's fault, not the collection's.

    Raises:
        UsageError: the spec is unknown, an option is out of range.
        ReverieError: nothing usable (``TooFew`` carries ``report``), or a source or the cache folder fails.
    """
    text = os.path.expanduser(os.fspath(spec))  # noqa: PTH111 (a pattern with braces is no path)
    if text.startswith("~"):
        text = os.fspath(Path(text).expanduser())
    _check(size, channels, fit, background, held_out)
    source, part = _split_name(text)
    background = (background[0], background[1], background[2])

    if source in BUNDLED_NAMES or source in PUBLIC_NAMES or _is_npz(source):
        from reverie.data.arrays import dataset, load_npz

        if source in BUNDLED_NAMES:
            from reverie.data.bundled import BUNDLED

            arrays = BUNDLED[source]()
        elif source in PUBLIC_NAMES:
            from reverie.data.public import load_public

            arrays = load_public(source, progress)
        else:
            arrays = load_npz(Path(source))
        return dataset(text, arrays, part, size, channels, fit, background, held_out, progress, copies)

    listing = _listing(source)
    from reverie.data import intake, picture, store
    from reverie.data.plan import make_plan

    seen, problems = intake.survey(listing, source, progress, copies)
    if size is None:
        sizes = {one.size for one in seen}
        width, height = next(iter(sizes))
        size = width if len(sizes) == 1 and width == height <= MAX_OWN_SIZE else DEFAULT_SIZE
    form = picture.Form(size, channels or 3, fit, background)
    plan = make_plan(seen, form, find_channels=channels is None, held_out=held_out)
    return store.open_or_build(text, plan, problems, part, progress)


def load_picture(
    path: str | os.PathLike[str],
    size: int,
    channels: int,
    fit: str = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """One picture file as uint8 (size, size, channels), decoded just as intake decodes.

    Raises:
        ReverieError: the file cannot be read or is no picture.
    """
    from reverie.data import picture

    path = Path(path)
    try:
        with picture.quiet():
            return picture.decode(path.read_bytes(), picture.Form(size, channels, fit, background))[0]
    except OSError as error:
        raise ReverieError(f"{path} cannot be read: {error.strerror or error}.") from None
    except picture.Unusable as error:
        raise ReverieError(f"{path} cannot be used as a picture ({error.kind}): {error.action}.") from None


def _check(size: int | None, channels: int | None, fit: str, background: tuple[int, ...], held_out: float) -> None:
    if size is not None and not 1 <= size <= 4096:
        raise UsageError(f"size is {size}; 1 to 4096 pixels are possible.")
    if channels not in (None, 1, 3):
        raise UsageError(f"channels is {channels}; 1 (grey) or 3 (RGB) are possible.")
    if fit not in ("crop", "pad"):
        raise UsageError(f'fit is "{fit}"; "crop" or "pad" are possible.{suggest(str(fit), ["crop", "pad"])}')
    if len(background) != 3 or not all(0 <= int(v) <= 255 for v in background):
        raise UsageError(f"background is {background}; three numbers from 0 to 255 are needed.")
    if not 0 < held_out < 1:
        raise UsageError(f"held_out is {held_out}; a share between 0 and 1 is needed.")


def anchored(spec: str) -> str:
    """The same data, named so that another working folder finds it: paths are made absolute, names stay."""
    source, _ = _split_name(spec)
    if source in (*BUNDLED_NAMES, *PUBLIC_NAMES) or source.startswith("hf:"):
        return spec
    return os.path.abspath(os.path.expanduser(source)) + spec[len(source) :]  # noqa: PTH100, PTH111 (braces, splits)


def _split_name(text: str) -> tuple[str, str | None]:
    """("cifar10", "held_out") from "cifar10:test"; part is "train", "held_out" or None."""
    head, colon, tail = text.rpartition(":")
    if not colon or not head or _exists(text):
        return text, None
    if tail == "train":
        return head, "train"
    if tail in HELD_OUT_NAMES:
        return head, "held_out"
    if head in BUNDLED_NAMES or head in PUBLIC_NAMES or (head != "hf" and _exists(head)):
        raise UsageError(f'"{tail}" is no split of {head}; train and held_out (or test, val) are.')
    return text, None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long or with a null byte: no path
        return False


def _is_npz(source: str) -> bool:
    return source.lower().endswith(".npz") and _exists(source) and Path(source).is_file()


def _listing(source: str) -> Listing:
    if source.startswith("hf:"):
        from reverie.data.hub import list_hub

        name = source[3:]
        if not 1 <= len(name.split("/")) <= 2 or not all(name.split("/")):
            raise UsageError(f"{source} names no set on the hub; hf:owner/name is the form.")
        return list_hub(name)
    from reverie.data import folder, shards

    path = Path(source)
    try:
        if path.is_dir():
            listing = folder.list_folder(path)
            tars = [] if listing.items else sorted(path.glob("*.tar"))
            if tars:
                others = [problem for problem in listing.problems if problem.file != "*.tar"]
                listing = shards.list_shards(tars)
                listing.problems += others
            return listing
        if source.lower().endswith(".tar"):
            found = shards.expand(source)
            if any(one.exists() for one in found):
                return shards.list_shards(found)
        exists = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ReverieError(f"{source} cannot be opened: {error.strerror or error}.") from None
        exists = False
    except ValueError:  # a null byte
        exists = False
    if exists:
        raise UsageError(f"{source} is a file that holds no set of pictures. Possible: {POSSIBLE}.")
    names = [*BUNDLED_NAMES, *PUBLIC_NAMES]
    raise UsageError(f'There is no data called "{source}".{suggest(source, names)} Possible: {POSSIBLE}.')
