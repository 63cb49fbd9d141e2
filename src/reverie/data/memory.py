"""Data from Python objects: arrays, tensors, lists of PIL images, torch data sets and loaders.

An object is read once, in order. If its first samples differ on a second reading, it shuffles or augments, and is
refused: data and held-out split would differ on every opening.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from typing import Any

import numpy as np

from reverie.core.cache import Progress
from reverie.core.errors import UsageError
from reverie.data import ranges
from reverie.data.arrays import Arrays, from_columns
from reverie.data.columns import name_rows
from reverie.data.options import OpenOptions
from reverie.data.rows import Rows
from reverie.data.types import Problem
from reverie.media import Spec, decode

COMPARED = 16  # first samples that are read twice
KEYS = {  # column -> accepted keys of a sample
    "x": ("x", "image", "images", "img", "pixel_values"),
    "label": ("label", "labels", "y", "target"),
    "text": ("text", "texts", "caption", "captions"),
    "source": ("source",),
    "mask": ("mask",),
    "attributes": ("attributes",),
}


def name_of(source: Any) -> str:
    """An object's name in messages and run directories: "array", "tensor", "list", or its type's name."""
    return {"ndarray": "array", "Tensor": "tensor"}.get(type(source).__name__, type(source).__name__)


def read_object(
    source: Any, options: OpenOptions, labels: Any = None, texts: Any = None, progress: Progress | None = None
) -> Arrays:
    """A data set from an object.

    Args:
        source: an array or tensor (N, ...), or an object of known length that yields samples: tensors, arrays, PIL
            images, (image, label) or dicts of columns; a DataLoader yields batches of them.
        labels, texts: (N,), replace those of the object.

    Raises:
        UsageError: an object of unknown length, or one that shuffles or augments.
        ReverieError: samples of unfit shapes or types.
    """
    what = f"the {name_of(source)}"
    problems: list[Problem] = []
    if isinstance(source, np.ndarray) or _is_tensor(source):
        columns: dict[str, Any] = {"x": _array(source)}
        channels_first = _is_tensor(source)
    else:
        count = _length(source, what)
        _check_order(source, what, count)
        samples = _collect(_samples(source, what, count), what, count, progress)
        _check_count(source, what, count, len(samples.get("x", ())))
        channels_first = _is_tensor(samples["x"][0])
        columns = {name: _column(name, values, what, options, problems) for name, values in samples.items()}
    if labels is not None:
        columns["label"] = _labels(labels)
    if texts is not None:
        columns["text"] = _listed(texts, "texts")
    classes = getattr(source, "classes", None) or getattr(getattr(source, "dataset", None), "classes", None)
    classes = [str(name) for name in classes] if isinstance(classes, Sequence) else None
    return from_columns(columns, what, options, channels_first, classes=classes, problems=problems)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a caller with a tensor has imported it
    return torch is not None and isinstance(value, torch.Tensor)


def _is_image(value: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(value, pil.Image)


def _is_loader(value: Any) -> bool:
    loading = sys.modules.get("torch.utils.data")
    return loading is not None and isinstance(value, loading.DataLoader)


def _array(value: Any) -> np.ndarray:
    """An array or tensor, or a value of a sample, as a NumPy array.

    Raises:
        UsageError: masked values, a tensor that is not dense, a PIL image that cannot be read.
    """
    if not _is_tensor(value):
        if np.ma.is_masked(value):
            raise UsageError("The masked array has masked values. Fill them first: array.filled(0).")
        return np.asarray(_loaded(value) if _is_image(value) else value)
    layout = str(value.layout).removeprefix("torch.")
    kinds = {"quantised": value.is_quantized, "meta": value.is_meta, layout: layout != "strided"}
    if odd := [kind for kind, holds in kinds.items() if holds]:
        raise UsageError(
            f"A {odd[0]} tensor cannot be read as data. Pass a dense one of numbers: tensor.to_dense(), .dequantize()."
        )
    tensor = value.detach().cpu()
    numpy_has = str(tensor.dtype) in ("torch.float16", "torch.float32", "torch.float64")
    return (tensor.float() if tensor.is_floating_point() and not numpy_has else tensor).numpy()


def _loaded(image: Any) -> Any:
    """A PIL image, loaded. Raises UsageError if that fails or it has no pixels."""
    try:
        image.load()
        if 0 not in image.size:
            return image
        reason: object = f"its size is {image.size}"
    except (OSError, ValueError, SyntaxError) as error:  # cut short, closed, damaged
        reason = error
    name = getattr(image, "filename", "")
    raise UsageError(f"A PIL image{f' of {name}' if name else ''} cannot be read: {reason}. Leave it out.")


def _listed(values: Any, name: str) -> Any:
    """Labels or texts as an array or a list. Raises UsageError if they are neither."""
    if isinstance(values, np.ndarray) or _is_tensor(values):
        return _array(values)
    if isinstance(values, str | bytes | Mapping | Set) or not hasattr(values, "__iter__"):
        raise UsageError(f"{name} are {values!r:.60}; a list with one entry per image is needed.")
    return list(values)


def _labels(labels: Any) -> Any:
    """Labels, numbers or names, as an array; several of each sample as a list of lists or an array (N, K)."""
    listed = _listed(labels, "labels")
    if isinstance(listed, np.ndarray):
        return listed
    vectors = [_is_vector(value) for value in listed]
    if any(vectors):
        rows = [_array(value).tolist() if hasattr(value, "dtype") else value for value in listed]
        if any(not vector and value is not None for vector, value in zip(vectors, rows, strict=True)):
            raise UsageError("A label is a number or a name, not an array; or each is a list of them.")
        if any(row is None or len(row) != 1 for row in rows):
            return [None if row is None else [*row] for row in rows]
        listed = [next(iter(row)) for row in rows]
    if any(np.ndim(value) for value in listed):
        raise UsageError("A label is a number or a name, not an array.")
    values = [value.item() if hasattr(value, "item") else value for value in listed]
    kinds = {type(value) for value in values}
    if kinds <= {int, bool} or kinds == {str}:
        return np.array(values)
    column = np.empty(len(values), object)
    column[:] = values
    return column


def _is_vector(value: Any) -> bool:
    """Whether a label is a list of labels."""
    return isinstance(value, list | tuple | set) or (hasattr(value, "dtype") and getattr(value, "ndim", 0) == 1)


def _length(source: Any, what: str) -> int:
    remedy = "Pass a list, an array, or a data set with a length."
    if isinstance(source, Mapping) or not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        raise UsageError(f"{what} is no data: a source's name, an array or samples are needed. {remedy}")
    try:
        count = len(source)
    except TypeError:
        raise UsageError(f"{what} has no length. {remedy}") from None
    if not count:
        raise UsageError(f"{what} is empty.")
    return count


def _samples(source: Any, what: str, count: int) -> Iterator[dict[str, Any]]:
    """One dict of columns per sample, in order."""
    if _is_loader(source) and source.batch_size is not None:
        for batch in source:
            columns = _named(batch, batched=True)
            rows = {name: _rows_of(values) for name, values in columns.items()}
            if len({*rows.values()}) > 1 or not rows["x"]:
                raise UsageError(f"{what} yields a batch whose columns are no lists of equal length: {rows}.")
            for row in range(rows["x"]):
                yield {name: values[row] for name, values in columns.items()}
    elif hasattr(source, "__iter__"):
        yield from map(_named, source)
    else:  # a torch data set ends at its length, not with an IndexError
        for index in range(count):
            try:
                sample = source[index]
            except IndexError as error:
                raise UsageError(
                    f"{what} has a length of {count}, but sample {index} raises an IndexError: {error}. Fix its "
                    "__len__ or its __getitem__."
                ) from error
            yield _named(sample)


def _rows_of(values: Any) -> int:
    """Number of rows in a batch's column; 0 if it is no list."""
    rows = not isinstance(values, Mapping) and hasattr(values, "__len__") and getattr(values, "ndim", 1) > 0
    return len(values) if rows else 0


def _named(sample: Any, batched: bool = False) -> dict[str, Any]:
    """A sample or a batch as columns."""
    if isinstance(sample, Mapping):
        columns = {column: next((key for key in keys if key in sample), None) for column, keys in KEYS.items()}
        if columns["x"] is None:
            raise UsageError(f"A sample has {', '.join(map(str, sample))}, but no {' or '.join(KEYS['x'])}.")
        return {column: sample[key] for column, key in columns.items() if key is not None}
    if isinstance(sample, tuple | list):
        if not 1 <= len(sample) <= 2 or (len(sample) == 2 and not _is_label(sample[1], batched)):
            raise UsageError(
                f"A sample is a tuple of {len(sample)}, not (image, label). Name its parts: "
                '{"x": ..., "label": ..., "text": ..., "source": ..., "mask": ..., "attributes": ...}.'
            )
        return dict(zip(("x", "label"), sample, strict=False))
    return {"x": sample}


def _is_label(value: Any, batched: bool) -> bool:
    """Whether this is a label, a list of labels, or a batch of these."""
    if _is_image(value):
        return False
    axes = len(value.shape) if hasattr(value, "shape") else 0
    first = value[0] if isinstance(value, list | tuple) and value else None
    return axes <= 1 + batched and not _is_image(first) and len(getattr(first, "shape", ())) <= batched


def _check_count(source: Any, what: str, count: int, read: int) -> None:
    batched = _is_loader(source) and source.batch_size is not None  # its length counts batches
    if read != count and not batched:
        raise UsageError(f"{what} has a length of {count}, but yielded {read} samples. Fix its __len__.")


def _check_order(source: Any, what: str, count: int) -> None:
    first, second = (_digest(islice(_samples(source, what, count), COMPARED)) for _ in range(2))
    if first != second:
        raise UsageError(
            f"{what} yields other samples on a second reading: it shuffles or augments. Pass it with shuffle=False and "
            'without random transforms; training shuffles by itself, and augments with augment="flip,translate".'
        )


def _digest(samples: Iterator[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for name, value in sample.items():
            array = _array(value)
            digest.update(name.encode() + (repr(value).encode() if array.dtype == object else array.tobytes()))
    return digest.hexdigest()


def _collect(
    samples: Iterator[dict[str, Any]], what: str, count: int, progress: Progress | None
) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for row, sample in enumerate(samples):
        if row and sample.keys() != columns.keys():
            raise UsageError(f"{what}: sample {row} has {', '.join(sample)}, the others {', '.join(columns)}.")
        for name, value in sample.items():
            columns.setdefault(name, []).append(value)
        if progress and row % 256 == 255:
            progress(row + 1, max(count, row + 1), "reading")
    return columns


def _column(name: str, values: list[Any], what: str, options: OpenOptions, problems: list[Problem]) -> Any:
    if name == "label":
        return _labels(values)
    if name == "text":
        return values
    fitted = name in ("x", "source")
    arrays = [_loaded(value) if fitted and _is_image(value) else _array(value) for value in values]
    if name != "attributes":
        _check_kinds(name, arrays, what)
    if fitted and _is_image(arrays[0]):
        return _images(arrays, options, problems)
    if len(shapes := {array.shape for array in arrays}) > 1:
        first = ", ".join(map(str, sorted(shapes)[:3]))
        remedy = ", or pass PIL images" if fitted else ""
        raise UsageError(f"{what} has several shapes of {name} ({first}). Bring them to one shape{remedy}.")
    return np.stack(arrays)


def _check_kinds(name: str, values: list[Any], what: str) -> None:
    """Check that all rows have one type: 8-bit rows stacked with floats in [0, 1] would make the latter black.

    Raises:
        UsageError: lists the rows of another type than the first.
    """
    kinds = ["a PIL image" if _is_image(v) else "floats" if v.dtype.kind == "f" else v.dtype.name for v in values]
    if others := [row for row, kind in enumerate(kinds) if kind != kinds[0]]:
        raise UsageError(
            f"{what}: {name} of {name_rows(others)} is {kinds[others[0]]}, of row 0 {kinds[0]}. Convert all to one "
            "type and range."
        )


def _images(values: list[Any], options: OpenOptions, problems: list[Problem]) -> np.ndarray | Rows:
    """PIL images of any modes and sizes to uint8 (N, H, W, C), resized if their sizes differ; deep ones as ``Rows``."""
    counts: list[dict[str, Any]] = [{"ok": True, "tally": {"images": decode.tally_of(image)}} for image in values]
    decisions = ranges.decide(counts, "images")
    chosen = ranges.ranges_of(decisions)
    deep = any(record["tally"]["images"].kind != "uint8" for record in counts)
    if options.low is not None and options.high is not None:
        chosen = {kind: (options.low, options.high) for kind in decisions if kind != "uint8"}
    else:
        problems += ranges.problems([str(row) for row in range(len(values))], counts, "images", decisions)
    flat, clear = [], options.channels == 4
    for row, image in enumerate(values):
        notes: list[decode.Note] = []
        flat.append(decode.from_pillow(image, options.background, notes, chosen, clear))
        problems += [Problem(str(row), kind, action) for kind, action in notes]
    sizes = {image.size[::-1] for image in flat}
    channels = {"RGBA": 4, "RGB": 3, "L": 1}[max((image.mode for image in flat), key=len)]
    mixed = len(sizes) > 1
    shape = options.image_shape(None) if mixed else min(sizes)
    form = decode.Form(shape, channels, options.fit, options.background)
    if mixed:
        problems.append(Problem("*", "mixed-sizes", "converted: all resized to one size"))
    rows = np.stack([decode.fit(image, form) for image in flat])
    return Rows(rows, Spec("image", form.shape, channels)) if deep else rows
