"""``open_data(source)``: from a source or an object to two splits."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from reverie.core.cache import Progress, check_progress
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.core.files import exists
from reverie.data.choose import Choice
from reverie.data.items import asked_part, kind_of
from reverie.data.labels import clear_negatives
from reverie.data.listing import (
    BUNDLED_NAMES,
    POSSIBLE,
    PUBLIC_NAMES,
    keep_named,
    list_source,
    path_exists,
    split_name,
)
from reverie.data.naming import Columns, columns_of
from reverie.data.options import WHITE, Background, OpenOptions, open_options
from reverie.data.types import Dataset, Report, Split
from reverie.media import Size
from reverie.media.decode import cut
from reverie.media.formats import PIXEL_LIMIT, Unusable

if TYPE_CHECKING:
    import numpy as np

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
    masks: str | bool | None = None,
    mask_values: str | int | Sequence[int] | None = None,
    keep_classes: bool = True,
    columns: str | Mapping[str, str] | Columns | None = None,
) -> Dataset:
    """Data for training, in two splits without common samples.

    Args:
        source: a bundled name, a public name, ``hf:owner/name``, a folder, ``.npz`` or ``.npy``, ``.tar`` shards.
            ``SOURCE:train`` or ``SOURCE:held_out`` (also ``:test``, ``:val``: of a source with both, that one
            alone) takes only that split, and splits it again by content. Or an object: a NumPy array or tensor
            (N, H, W), (N, H, W, C), (N, C, H, W); for other media see ``data.rows.LAYOUTS``; a list of PIL images; a
            torch ``Dataset``, ``DataLoader`` or other iterable of known length with samples that are images, (image,
            label) or dicts of columns (``x``, ``label``, ``text``, ``source``, ``mask``,
            ``attributes``). It is read once, in order.
        size: side of square images, or (height, width), or "48x64"; None: the images' size if all are equal, square
            and at most 256, else 64.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, with the images' transparency); None: 1 if every image is grey, else 3.
        fit: "crop": cover ``size`` (Lanczos, antialiased) and keep the centre; "pad": fit inside ``size``.
        background: behind transparent pixels and in the padding: RGB, or a colour's name. Images of four channels
            stay transparent, and have it where RGB is needed: for metrics.
        held_out: fraction to hold out if the source has no split; 0: nothing, all images are trained on.
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
        masks: of a folder, zip or shards: "yes" or True takes all that have an image, "no" or False none; None:
            those that are recognised.
        mask_values: grey values or indices of palettes that mark, such as 15 or "1,15"; None: decided from all masks.
        keep_classes: a class that would be held out completely keeps an image to train on, unless the source has a
            split; False: it does not, as in runs of older versions.
        columns: which columns of tables, Parquet files and sets of the hub are the image, the label, the text and the
            mask: "image=img,label=fine_label,text=alt_text", or a mapping; those that are not named are found.

    Raises:
        UsageError: the source is unknown, an option is out of range, an object shuffles or augments.
        ReverieError: too few images (``TooFew``, with ``report``), or a source or the cache folder fails.
    """
    check_progress(progress)
    options = open_options(
        size=size,
        channels=channels,
        fit=fit,
        background=background,
        held_out=held_out,
        medium=medium,
        low=low,
        high=high,
        copies=copies,
        layout=layout,
        choice=Choice.of(classes, where, limit, resolution_at_least, dedupe),
        max_pixels=max_pixels,
        frames=frames,
        stride=stride,
        masks=masks,
        mask_values=mask_values,
        keep_classes=keep_classes,
        columns=columns,
    )
    if layout is not None:
        _check_layout(source, layout)
    if not isinstance(source, str | os.PathLike):
        options.check_no_masks("an object")
        from reverie.data.arrays import dataset
        from reverie.data.memory import name_of, read_object

        options.check_no_columns("an object")
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
    name, part = split_name(text)
    if _holds_arrays(name, layout):
        options.check_no_masks(name)
        from reverie.data.arrays import dataset

        if name in (*BUNDLED_NAMES, *PUBLIC_NAMES) and Path(name).is_dir():
            warnings.warn(f"{name} is the data set of that name, not the folder: write ./{name}.", stacklevel=2)
        options.check_no_columns(name)
        side = text[len(name) + 1 :]
        if kind_of(side) == "val":
            options = replace(options, second="val")
        arrays = _named_arrays(name, options, progress)
        if part and (words := asked_part(side, () if arrays.cut is None else (arrays.second,))):
            arrays = replace(arrays, read_as="; ".join(filter(None, (arrays.read_as, words))))
        text = (arrays.name or name) + text[len(name) :]
        opened = {"source": anchored(text), "reopenable": True} | ({"exact": True} if options.second == "val" else {})
        return dataset(text, arrays, part, options, opened, progress)
    rules = options.columns.rules
    opened = {"source": anchored(text), "reopenable": True} | ({"tables": rules} if rules > 1 else {})
    from reverie.data.intake import Changed, forget

    try:
        return _from_files(text, name, part, options, opened, progress)
    except Changed:
        forget(name)
        raise


def _check_layout(source: Any, layout: str) -> None:
    """Raise UsageError for an unknown layout, or one of a source that has none."""
    from reverie.data.layouts import check_layout

    check_layout(layout)
    path = Path(split_name(os.fspath(source))[0]).expanduser() if isinstance(source, str | os.PathLike) else None
    packed = path is not None and path.name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz"))
    if path is None or not (exists(path) and (path.is_dir() or packed)):
        raise UsageError(f"{argument('layout')} is for folders, zips and tars of images.")


def _named_arrays(name: str, options: OpenOptions, progress: Progress | None) -> Any:
    if name not in BUNDLED_NAMES and name not in PUBLIC_NAMES:
        from reverie.data.containers import load

        return load(name, options)
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
    if options.medium in ("video", "volume") and path_exists(name) and not name.lower().endswith(PACKED):
        return _from_members(text, name, part, options, opened, progress)
    listing = list_source(name, options.layout, options.masks, options.columns)
    part = listing.part or part
    if part == "held_out" and keep_named(listing, text[len(name) + 1 :]):
        part, opened = None, opened | {"exact": True}
    _only_images(name, options, deep=True)
    from reverie.data import choose, intake, store
    from reverie.data.marking import look_at_masks
    from reverie.data.masks import check_masked
    from reverie.data.members import first_by_content
    from reverie.data.plan import make_plan
    from reverie.media import decode

    masked = check_masked(listing.items, name, options.with_masks)
    clear_negatives(listing)
    choice = options.choice
    choose.choose_items(choice, listing)
    seen, problems = intake.survey(
        listing, name, progress, options.copies, choice.resolution_at_least, options.max_pixels
    )
    seen, seconds_end = first_by_content(seen, options, problems)
    seen, marking = look_at_masks(seen, name, options.mask_values, problems, options.max_pixels, progress)
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
        keep_classes=options.keep_classes,
        dedupe=choice.dedupe,
        max_pixels=options.max_pixels,
        marking=marking,
        seconds_end=seconds_end,
    )
    opened = opened | ({"masks": True} if masked else {})
    report = Report(len(seen), read_as=listing.read_as, sizes=dict(Counter(image.size for image in seen)))
    return store.open_or_build(text, plan, problems, options.opened | opened, part, progress, report)


def _from_members(
    text: str, name: str, part: str | None, options: OpenOptions, opened: dict[str, Any], progress: Progress | None
) -> Dataset:
    """Clips of films, or volumes, of a folder or a file: decode them into the store."""
    from reverie.data import store

    options.check_no_masks(name)
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

    Of an image that is half of a file, these are that half alone, encoded without loss. Data from Python
    is not kept: of it, images are as they were opened.

    Raises:
        ReverieError: a file that cannot be read any more.
    """
    if not data.opened.get("reopenable"):
        return list(split["x"])
    name, _ = split_name(data.opened["source"])
    second = "val" if data.opened.get("exact") and kind_of(data.opened["source"][len(name) + 1 :]) == "val" else "test"
    requested = data.opened.get("requested", {})
    layout = requested.get("layout")
    if _holds_arrays(name, layout):
        rows = _named_arrays(name, OpenOptions(second=second), None).rows
        index = {row: number for number, row in enumerate(rows.names)}
        return [rows["x"][index[row]] for row in split.names]
    masks = requested.get("masks") if data.opened.get("masks") else "no"
    listing = list_source(name, layout, masks, columns_of(data.opened))
    files = {item.name: item.file for item in listing.items}
    limit = requested.get("max_pixels", PIXEL_LIMIT)
    try:
        return [cut(file.read(), file.half, limit) for file in (files[row] for row in split.names)]
    except Unusable as error:
        raise ReverieError(f"An image of {name} {error.message}") from None
    except (KeyError, OSError) as error:
        raise ReverieError(f"{name} has changed since it was opened: {error} cannot be read.") from None


def anchored(source: str) -> str:
    """The source with an absolute path, valid in any working folder; names stay."""
    name, _ = split_name(source)
    if name in (*BUNDLED_NAMES, *PUBLIC_NAMES) or name.startswith("hf:"):
        return source
    return os.path.abspath(os.path.expanduser(name)) + source[len(name) :]  # noqa: PTH100, PTH111 (braces, splits)


def _holds_arrays(name: str, layout: str | None) -> bool:
    """Whether it is a bundled or public set, or a file or folder of arrays; with a ``layout`` it holds images."""
    if name in BUNDLED_NAMES or name in PUBLIC_NAMES:
        return True
    if layout is not None or not path_exists(name):
        return False
    from reverie.data.containers import loader_of

    return loader_of(name) is not None
