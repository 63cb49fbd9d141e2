"""``open_data(source)``: from a source or an object to two splits."""

from __future__ import annotations

import errno
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from reverie.core.cache import Progress, check_progress
from reverie.core.errors import ReverieError, UsageError, argument, suggest
from reverie.core.files import exists, is_file
from reverie.data.choose import Choice
from reverie.data.items import HELD_OUT_NAMES, Listing, clear_negatives
from reverie.data.options import WHITE, Background, OpenOptions, open_options
from reverie.data.types import Dataset, Report, Split
from reverie.media import Size
from reverie.media.formats import PIXEL_LIMIT

if TYPE_CHECKING:
    import numpy as np

BUNDLED_NAMES = ("fashion", "emoji")
PUBLIC_NAMES = (
    "mnist",
    "binary-mnist",
    "binary-mnist:static",
    "binary-mnist:seeded",
    "fashion-mnist",
    "cifar10",
    "stacked-mnist",
    "photos",
)
POSSIBLE = (
    f"a bundled set ({', '.join(BUNDLED_NAMES)}), a public set ({', '.join(PUBLIC_NAMES)}), hf:owner/name, "
    "a folder of images or a .zip of one, an .npz, .npy or .h5 file, a folder of idx or CIFAR files, or WebDataset "
    "shards (x.tar, a folder of them, x-{000..003}.tar)"
)

PACKED = (".zip", ".parquet", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")  # read as images only
IN_MEMORY: WeakValueDictionary[str, Dataset] = WeakValueDictionary()  # fingerprint -> data from Python, while in use


def open_data(
    source: Any,
    size: Size | None = None,
    channels: int | None = None,
    fit: str = "crop",
    background: Background = WHITE,
    held_out: float = 0.1,
    medium: str | None = None,
    progress: Progress | None = None,
    copies: bool = False,
    labels: Sequence[Any] | np.ndarray | None = None,
    texts: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    layout: str | None = None,
    classes: str | Sequence[str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    resolution_at_least: int | None = None,
    dedupe: bool = False,
    max_pixels: int = PIXEL_LIMIT,
    frames: int | None = None,
    stride: int | None = None,
) -> Dataset:
    """Data for training, in two splits without common samples.

    Args:
        source: a bundled name, a public name, ``hf:owner/name``, a folder, ``.npz`` or ``.npy``, ``.tar`` shards.
            ``SOURCE:train`` or ``SOURCE:test`` (also ``:held_out``, ``:val``) takes only that split, and splits it
            again by content. Or an object: a NumPy array or tensor (N, H, W), (N, H, W, C), (N, C, H, W); for other
            media see ``data.rows.LAYOUTS``; a list of PIL images; a torch ``Dataset``, ``DataLoader`` or other
            iterable of known length with samples that are images, (image, label) or dicts of columns (``x``,
            ``label``, ``text``, ``source``, ``mask``, ``attributes``). It is read once, in order.
        size: side of square images, or (height, width), or "48x64"; None: the images' size if all are equal, square
            and at most 256, else 64.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, with the images' transparency); None: 1 if every image is grey, else 3.
        fit: "crop": cover ``size`` (Lanczos, antialiased) and keep the centre; "pad": fit inside ``size``.
        background: behind transparent pixels and in the padding: RGB, or a colour's name. Images of four channels
            stay transparent, and have it where RGB is needed: for metrics.
        held_out: fraction to hold out if the source has no split.
        medium: "image", "video", "volume" or "sequence", if the shape is ambiguous.
        progress: called as progress(done, total, what) during long work.
        copies: keep exact copies, such as those among generated images to evaluate.
        labels, texts: (N,), for objects: numbers or names of classes, captions.
        low, high: values of arrays, and of 16-bit and float files, that map to -1 and 1 in a model; None: decided from
            all values of the set.
        layout: of a folder or zip, a name of ``data.layouts.LAYOUTS``; None: recognised, and named in the report.
        classes: only these, a list or "a,b".
        where: only images whose columns fulfil this, such as ``age >= 18 and style == 'ink'``: columns of tables,
            attributes, ``label``, ``text``, ``file_name``.
        limit: at most so many images, chosen by their content.
        resolution_at_least: only files whose image's shorter side has so many pixels.
        dedupe: of images that look the same, keep one.
        max_pixels: most pixels of a file's image; the files of larger ones are skipped, by their header.
        frames, stride: of the clips that films are cut into, with ``medium="video"``: so many frames (None: 16), of
            the film's every ``stride``-th (None: 1). ``size`` is that of the frames.

    Raises:
        UsageError: the source is unknown, an option is out of range, an object shuffles or augments.
        ReverieError: too few images (``TooFew``, with ``report``), or a source or the cache folder fails.
    """
    check_progress(progress)
    choice = Choice.of(classes, where, limit, resolution_at_least, dedupe)
    opening = (size, channels, fit, background, held_out, medium, low, high, copies, layout, choice, max_pixels)
    options = open_options(*opening, frames, stride)
    if layout is not None:
        _check_layout(source, layout)
    if not isinstance(source, str | os.PathLike):
        from reverie.data.arrays import dataset
        from reverie.data.memory import name_of, read_object

        arrays = read_object(source, options, labels, texts, progress)
        fresh = dataset(name_of(source), arrays, None, options, {"reopenable": False}, progress)
        opened_before = IN_MEMORY.setdefault(fresh.fingerprint, fresh)
        return opened_before if opened_before.provenance == fresh.provenance else fresh
    if labels is not None or texts is not None:
        raise UsageError("labels and texts go with arrays and other objects; folders and files have their own.")
    text = os.path.expanduser(os.fspath(source))  # noqa: PTH111 (a pattern with braces is no path)
    if text.startswith("~"):
        text = os.fspath(Path(text).expanduser())
    if not text.strip():
        raise UsageError(f'The name of the data is empty; the working folder is ".". Possible: {POSSIBLE}.')
    name, part = _split_name(text)
    if _holds_arrays(name, layout):
        from reverie.data.arrays import dataset

        if name in (*BUNDLED_NAMES, *PUBLIC_NAMES) and Path(name).is_dir():
            warnings.warn(f"{name} is the data set of that name, not the folder: write ./{name}.", stacklevel=2)
        arrays = _named_arrays(name, options, progress)
        text = (arrays.name or name) + text[len(name) :]
        opened = {"source": anchored(text), "reopenable": True}
        return dataset(text, arrays, part, options, opened, progress)
    opened = {"source": anchored(text), "reopenable": True}
    return _from_files(text, name, part, options, opened, progress)


def _check_layout(source: Any, layout: str) -> None:
    """Raise UsageError for an unknown layout, or one of a source that has none."""
    from reverie.data.layouts import check_layout

    check_layout(layout)
    path = Path(_split_name(os.fspath(source))[0]).expanduser() if isinstance(source, str | os.PathLike) else None
    packed = path is not None and path.name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"))
    if path is None or not (exists(path) and (path.is_dir() or packed)):
        raise UsageError(f"{argument('layout')} is for folders, zips and tars of images.")


def _named_arrays(name: str, options: OpenOptions, progress: Progress | None) -> Any:
    if name not in BUNDLED_NAMES and name not in PUBLIC_NAMES:
        from reverie.data.containers import loader_of

        loader = loader_of(name)
        assert loader is not None
        return loader(Path(name), options)
    _only_images(name, options)
    if name in BUNDLED_NAMES:
        from reverie.data.bundled import BUNDLED

        return BUNDLED[name]()
    from reverie.data.public import load_public

    return load_public(name, progress)


def _from_files(
    text: str, name: str, part: str | None, options: OpenOptions, opened: dict[str, Any], progress: Progress | None
) -> Dataset:
    """Folders, shards and hub sets: decode files into the store."""
    if options.medium in ("video", "volume") and _exists(name) and not name.lower().endswith(PACKED):
        return _from_members(text, name, part, options, opened, progress)
    listing = _listing(name, options.layout)
    _only_images(name, options, deep=True)
    from reverie.data import choose, intake, store
    from reverie.data.plan import make_plan
    from reverie.media import decode

    clear_negatives(listing)
    choice = options.choice
    choose.choose_items(choice, listing)
    seen, problems = intake.survey(
        listing, name, progress, options.copies, choice.resolution_at_least, options.max_pixels
    )
    kept = choose.limited(choice, [image.sha for image in seen], problems)
    seen = [image for image, inside in zip(seen, kept, strict=True) if inside]
    splits = [image.item.split for image in seen]
    if part is None and "held_out" in splits and splits.count("train") < intake.MIN_IMAGES:
        raise intake.TooFew(text, Report(len(seen), problems), splits.count("train"))
    sizes = {image.size[::-1] for image in seen}
    common = next(iter(sizes)) if len(sizes) == 1 else None
    ends = None if options.low is None or options.high is None else (options.low, options.high)
    form = decode.Form(options.image_shape(common), options.channels or 3, options.fit, options.background, ends)
    plan = make_plan(
        seen,
        form,
        find_channels=options.channels is None,
        held_out=options.held_out,
        attributes=listing.attributes,
        dedupe=choice.dedupe,
        max_pixels=options.max_pixels,
    )
    report = Report(len(seen), read_as=listing.read_as, sizes=dict(Counter(image.size for image in seen)))
    return store.open_or_build(text, plan, problems, options.opened | opened, part, progress, report)


def _from_members(
    text: str, name: str, part: str | None, options: OpenOptions, opened: dict[str, Any], progress: Progress | None
) -> Dataset:
    """Clips of films, or volumes, of a folder or a file: decode them into the store."""
    from reverie.data import store

    choice = options.choice
    of_images = {"layout": options.layout, "resolution_at_least": choice.resolution_at_least, "dedupe": choice.dedupe}
    of_images["max_pixels"] = options.max_pixels != PIXEL_LIMIT
    if others := [argument(option) for option, value in of_images.items() if value]:
        raise UsageError(
            f"{name} is read as {options.medium}s; {' and '.join(others)} {'are' if others[1:] else 'is'} for images."
        )
    if options.medium == "video":
        if options.low is not None:
            raise UsageError(f"{name} holds films; low and high are for arrays.")
        from reverie.data.clips import plan_clips as plan_of
    else:
        from reverie.data.volumes import plan_volumes as plan_of
    plan, problems, read_as = plan_of(Path(name), options, part, progress)
    if options.medium == "volume":
        opened = opened | {"intensities": plan.form.as_dict()["range"]}
    report = Report(len(plan.rows), read_as=read_as)
    return store.open_or_build(text, plan, problems, options.opened | opened, part, progress, report)


def _only_images(name: str, options: OpenOptions, deep: bool = False) -> None:
    if options.medium not in (None, "image"):
        raise UsageError(f"{name} holds images; a {options.medium} must be an array: an .npz file, or from Python.")
    if options.low is not None and not deep:
        raise UsageError(f"{name} holds 8-bit images; low and high are for arrays of other ranges.")


def originals(data: Dataset, split: Split) -> list[np.ndarray] | list[bytes]:
    """Images of a split as their source holds them, neither resized nor converted: uint8 (H, W, C), or files' bytes.

    Data from Python is not kept: of it, images are as they were opened.

    Raises:
        ReverieError: a file that cannot be read any more.
    """
    if not data.opened.get("reopenable"):
        return list(split["x"])
    name, _ = _split_name(data.opened["source"])
    layout = data.opened.get("requested", {}).get("layout")
    if _holds_arrays(name, layout):
        rows = _named_arrays(name, open_options(), None).rows
        index = {row: number for number, row in enumerate(rows.names)}
        return [rows["x"][index[row]] for row in split.names]
    listing = _listing(name, layout)
    files = {item.name: item.file for item in listing.items}
    if any(file.half for file in files.values()):
        raise ReverieError(f"{name} holds pairs side by side: an image is half of a file, which is not kept alone.")
    try:
        return [files[row].read() for row in split.names]
    except (KeyError, OSError) as error:
        raise ReverieError(f"{name} has changed since it was opened: {error} cannot be read.") from None


def anchored(source: str) -> str:
    """The source with an absolute path, valid in any working folder; names stay."""
    name, _ = _split_name(source)
    if name in (*BUNDLED_NAMES, *PUBLIC_NAMES) or name.startswith("hf:"):
        return source
    return os.path.abspath(os.path.expanduser(name)) + source[len(name) :]  # noqa: PTH100, PTH111 (braces, splits)


def _split_name(text: str) -> tuple[str, str | None]:
    """("cifar10", "held_out") from "cifar10:test"; part is "train", "held_out" or None."""
    head, colon, tail = text.rpartition(":")
    if not colon or not head or text in PUBLIC_NAMES or _exists(text):
        return text, None
    if tail == "train":
        return head, "train"
    if tail in HELD_OUT_NAMES:
        return head, "held_out"
    if head in BUNDLED_NAMES or head in PUBLIC_NAMES or (head != "hf" and _exists(head)):
        kinds = [name for name in PUBLIC_NAMES if name.startswith(f"{head}:")]
        kind = f" There are also {' and '.join(kinds)}." if kinds else ""
        raise UsageError(f'"{tail}" is no split of {head}; its splits are train and held_out (or test, val).{kind}')
    return text, None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # a name too long or with a null byte: no path
        return False


def _holds_arrays(name: str, layout: str | None) -> bool:
    """Whether it is a bundled or public set, or a file or folder of arrays; with a ``layout`` it holds images."""
    if name in BUNDLED_NAMES or name in PUBLIC_NAMES:
        return True
    if layout is not None or not _exists(name):
        return False
    from reverie.data.containers import loader_of

    return loader_of(name) is not None


def explain(source: str | os.PathLike[str]) -> list[tuple[str, str, str]]:
    """Of every layout: its name, whether a folder or zip fits it ("yes", "no", "ask", "on request" ...), and why.

    Raises:
        UsageError: neither a folder nor a zip.
        ReverieError: a damaged zip.
    """
    from reverie.data import layouts, tree

    path = Path(source).expanduser()
    if exists(path) and path.is_dir():
        return layouts.explain(tree.of_folder(path))
    if is_file(path) and path.suffix.lower() == ".zip":
        return layouts.explain(tree.of_zip(path))
    raise UsageError(f"{path} is no folder and no zip; other sources have no layouts.")


def _listing(source: str, layout: str | None = None) -> Listing:
    if source.startswith("hf:"):
        from reverie.data.hub import list_hub

        name = source[3:]
        if not 1 <= len(name.split("/")) <= 2 or not all(name.split("/")):
            raise UsageError(f"{source} is no set on the hub; the form is hf:owner/name.")
        return list_hub(name)
    from reverie.data import records, shards, tree
    from reverie.data.intake import MIN_IMAGES
    from reverie.data.layouts import list_tree

    path = Path(source)
    try:
        if path.is_dir():
            files = tree.of_folder(path)
            if layout is None and records.is_lmdb(source):
                return files.beside(records.list_lmdb(path), (records.LMDB, records.LOCK))
            few = len(files.images) < MIN_IMAGES  # a preview beside shards is no data set
            tars = [path / name for name in files.files if few and name.lower().endswith(shards.TARS)]
            tables = [name for name in files.files if few and records.is_parquet(name)]
            if layout is None and tables and not tars:
                return files.beside(records.list_parquet([path / name for name in tables]), tables)
            if not tars:
                return list_tree(files, layout)
            return files.beside(shards.list_shards(tars, layout), [name for name in files.files if path / name in tars])
        if source.lower().endswith(records.PARQUET) and path.is_file():
            return records.list_parquet([path])
        if source.lower().endswith(".zip") and path.is_file():
            return list_tree(tree.of_zip(path), layout)
        if source.lower().endswith(shards.TARS):
            paths = shards.expand(source)
            if any(shard.exists() for shard in paths):
                return shards.list_shards(paths, layout)
        exists = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise ReverieError(f"{source} cannot be opened: {error.strerror or error}.") from None
        exists = False
    except UsageError:
        raise
    except ValueError:  # a null byte
        exists = False
    if exists:
        medium = tree.OTHER_MEDIA.get(tree.suffix(source))
        hint = f" {argument('medium', medium)} reads it." if medium else ""
        raise UsageError(f"{source} is no file of images.{hint} Possible: {POSSIBLE}.")
    names = [*BUNDLED_NAMES, *PUBLIC_NAMES]
    raise UsageError(f'There is no data called "{source}".{suggest(source, names)} Possible: {POSSIBLE}.')
