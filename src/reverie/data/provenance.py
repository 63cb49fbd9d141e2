"""Reopen the data of a run from its provenance, checked by its fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reverie.core.cache import Progress
from reverie.core.errors import ReverieError, UsageError, argument
from reverie.data.listing import explain, path_exists, split_name
from reverie.data.naming import FOUND, columns_of
from reverie.data.options import CHOICES, HELD_OUT, WHITE
from reverie.data.sources import IN_MEMORY, anchored, open_data
from reverie.data.types import Dataset
from reverie.media import Spec

_RENAMED = r"^binary-mnist(?!:static|:seeded)", "binary-mnist:seeded"  # recorded when there was no other
_BOTH = r":(test|val|valid|validation)$", ":held_out"  # older runs took both for either
_KEYS = ("source", "reopenable", "fingerprint", "counts")
_REQUESTED = {"size", "channels", "low", "high", "copies", "keep_classes", *CHOICES}
_REOPENED = ("fit", "background", "held_out", "requested")  # more of data that can be opened again


def upgraded(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance in the current format.

    Raises:
        ReverieError: it is damaged.
    """
    try:
        record = provenance if "medium" in provenance else _of_format_1(provenance)
        Spec.of(record)
        keys = _KEYS + _REOPENED * bool(record.get("reopenable"))
        if missing := [key for key in keys if key not in record]:
            raise ValueError(f"no {', '.join(missing)}")
        if odd := record.get("requested", {}).keys() - _REQUESTED:
            raise ValueError(f"requested has no {min(odd)!r:.60}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReverieError(f"The run's run.json is damaged: its data ({error}). Restore that file.") from error
    return record


def _of_format_1(provenance: dict[str, Any]) -> dict[str, Any]:
    """Format 1 has spec, fit, size, channels, fingerprint, counts and classes."""
    side, channels = provenance["size"], provenance["channels"]
    return {
        "source": provenance["spec"],
        "reopenable": bool(provenance["spec"]),
        **Spec("image", (side, side), channels).as_dict(),
        "fit": provenance["fit"],
        "background": list(WHITE),
        "held_out": 0.1,
        "requested": {"size": [side], "channels": channels},
        "fingerprint": provenance["fingerprint"],
        "classes": provenance.get("classes", []),
        "attributes": [],
        "counts": {"train": provenance.get("train", 0), "held_out": provenance.get("held_out", 0)},
    }


def unknown(spec: Spec, classes: list[str]) -> dict[str, Any]:
    """The provenance of a model with unknown data, such as an imported one."""
    options = {"fit": "crop", "background": list(WHITE), "held_out": 0.1, "requested": {}}
    rest = {"fingerprint": "", "classes": classes, "attributes": [], "counts": {"train": 0, "held_out": 0}}
    return {"source": "", "reopenable": False, **spec.as_dict(), **options, **rest}


def reopen(provenance: dict[str, Any], data: Any = None, progress: Progress | None = None) -> Dataset:
    """The training data of a run, opened with the same options.

    Args:
        provenance: ``Dataset.provenance``, as in run.json.
        data: the same data, if its recorded source cannot be opened: a ``Dataset``, an object for ``open_data``, or
            another path.

    Raises:
        UsageError: the data came from Python, and ``data`` is None.
        ReverieError: the data is missing or has changed.
    """
    record = upgraded(provenance)
    if data is None and (data := IN_MEMORY.get(record["fingerprint"])) is None and not record["reopenable"]:
        if not record["source"]:
            again = argument("data", "SOURCE")
            raise UsageError(f"This run was imported without its data. Import it again with {again}.")
        raise UsageError(
            f"This run was trained on data passed from Python ({record['source']} of {Spec.of(record)}). Open the same "
            "data in this process, with the same labels and texts: data = rv.open_data(...). It is recognised by its "
            "content; the command line needs image files instead."
        )
    if isinstance(data, Dataset):
        return _checked(data, record)
    source = re.sub(*_RENAMED, record["source"]) if data is None else data
    if not record.get("exact") and isinstance(source, str) and path_exists(split_name(source)[0]):
        source = re.sub(*_BOTH, source) if not path_exists(source) else source
    # Recorded where they apply: runs of older versions have neither masks nor classes that keep an image, and read
    # tables by other rules.
    older = {"keep_classes": False} | ({} if record.get("masks") else {"masks": "no"})
    requests = [older | record["requested"] | {"columns": columns_of(record)}]
    if record is not provenance:  # format 1 has the resulting channels, not the requested ones
        requests.append(older | {"size": record["requested"]["size"], "columns": columns_of(record)})
    opened: list[Dataset] = []
    for request in _with_classes(requests, source, record):
        try:
            opened.append(_opened(source, record, request, progress))
        except ReverieError as error:
            which = record["source"] if data is None else f"{record['source']}, passed as {source}"
            raise ReverieError(f"The data of this run, {which}, cannot be opened: {error} {_remedy()}") from error
        if opened[-1].fingerprint == record["fingerprint"]:
            return opened[-1]
    return _checked(opened[0], record)


def _with_classes(requests: list[dict[str, Any]], source: Any, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The requests, and then the same with class folders, as which older versions read more folders than now."""
    yield from requests
    if (path := _read_otherwise(source, record)) and any(
        name == "classes" and fits != "no" for name, fits, _ in explain(path)
    ):
        yield from ({**request, "layout": "classes"} for request in requests)


def _read_otherwise(source: Any, record: dict[str, Any]) -> Path | None:
    """A folder or zip of images whose layout an older version recognised; layouts changed with the rules of tables."""
    from reverie.data.containers import loader_of

    current = not record["reopenable"] or "layout" in record["requested"] or columns_of(record).rules == FOUND.rules
    if current or record["medium"] != "image" or not isinstance(source, str | os.PathLike):
        return None
    path = Path(split_name(os.fspath(source))[0]).expanduser()
    folder = path_exists(os.fspath(path)) and (path.is_dir() or path.suffix.lower() == ".zip")
    return path if folder and loader_of(str(path)) is None else None


def _remedy() -> str:
    return f"Nothing was changed. Put the old data back, or name where it is now: {argument('data', 'NEW')}."


def open_like(source: Any, provenance: dict[str, Any], progress: Progress | None = None) -> Dataset:
    """Other data with the run's medium, shape, channels, fit and background; of its source, also layout and columns."""
    if isinstance(source, Dataset):
        return source
    record = upgraded(provenance)
    request = {"size": record["shape"], "channels": record["channels"], "keep_classes": False}
    same = _base(source) == _base(record["source"])
    kept = ("max_pixels", "keep_classes") + ("layout",) * same
    request |= {name: value for name, value in record["requested"].items() if name in kept}
    request |= {"columns": columns_of(record)} if same else {}
    if record["medium"] == "sequence":
        request |= {"low": record["low"], "high": record["high"]}
    if record["medium"] == "video":
        request |= {"stride": record["requested"].get("stride")}
    if record["medium"] == "volume" and "intensities" in record:
        request |= dict(zip(("low", "high"), record["intensities"], strict=True))
    record = record | {"held_out": record["held_out"] or HELD_OUT}  # a run that held nothing out has seen none of it
    return _opened(source, record, request, progress)


def _base(source: Any) -> str:
    """A source without the name of a split; "" for an object."""
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    return ":".join(text.split(":")[:2]) if text.startswith("hf:") else split_name(anchored(text))[0] if text else ""


def _opened(source: Any, record: dict[str, Any], request: dict[str, Any], progress: Progress | None) -> Dataset:
    return open_data(
        source,
        fit=record["fit"],
        background=record["background"],
        held_out=record["held_out"],
        medium=record["medium"],
        progress=progress,
        **request,
    )


def _checked(dataset: Dataset, record: dict[str, Any]) -> Dataset:
    if dataset.fingerprint == record["fingerprint"]:
        return dataset
    counts, total, reading = record["counts"], len(dataset.train) + len(dataset.held_out), ""
    if _read_otherwise(dataset.source, record):
        reading = (
            f'The run is of an older version, and this version reads its folders as "{dataset.report.read_as}": if the '
            "data is still the same, that is why, and the run needs the older version, or training anew. "
        )
    raise ReverieError(
        f"The data of this run, {record['source']}, is not what it was trained on: then "
        f"{counts['train'] + counts['held_out']} samples of {Spec.of(record)} with fingerprint "
        f"{record['fingerprint'][:12]}, now {total} of {dataset.spec} with {dataset.fingerprint[:12]} "
        f"({dataset.source}). {reading}{_remedy()}"
    )
