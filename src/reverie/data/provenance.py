"""The same data again: from what a run recorded of it, checked by its fingerprint."""

from __future__ import annotations

from typing import Any

from reverie.core.errors import ReverieError, UsageError
from reverie.data.options import WHITE
from reverie.data.sources import open_data
from reverie.data.types import Dataset
from reverie.home import Progress
from reverie.media import Spec


def upgraded(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a run of any age. Format 1 recorded spec, fit, size, channels, fingerprint, counts and classes."""
    if "medium" in provenance:
        return provenance
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
    """The provenance of a model whose data is not known, such as an imported one."""
    options = {"fit": "crop", "background": list(WHITE), "held_out": 0.1, "requested": {}}
    rest = {"fingerprint": "", "classes": classes, "attributes": [], "counts": {"train": 0, "held_out": 0}}
    return {"source": "", "reopenable": False, **spec.as_dict(), **options, **rest}


def reopen(provenance: dict[str, Any], data: Any = None, progress: Progress | None = None) -> Dataset:
    """The data that a run was trained on, opened as it was then.

    Args:
        provenance: ``Dataset.provenance``, as run.json keeps it.
        data: the same data, where it cannot be opened by its recorded source: a ``Dataset``, an object that
            ``open_data`` takes, or another path to it.

    Raises:
        UsageError: it came from Python, and ``data`` is not given.
        ReverieError: it is not there, or it has changed since.
    """
    record = upgraded(provenance)
    if data is None and not record["reopenable"]:
        if not record["source"]:
            raise UsageError("This run was imported without its data. Import it again and name it: --data SOURCE.")
        raise UsageError(
            f"This run was trained on data that was passed from Python ({record['source']} of {Spec.of(record)}). Pass "
            "the same data again: data=rv.open_data(...), with its labels and texts as they were."
        )
    if isinstance(data, Dataset):
        return _same(data, record)
    source = record["source"] if data is None else data
    requests = [record["requested"]]
    if record is not provenance:  # format 1 recorded the channels that there were, not those asked for
        requests.append({"size": record["requested"]["size"]})
    for request in requests:
        try:
            dataset = _opened(source, record, request, progress)
        except UsageError as error:
            raise ReverieError(f"The data of this run, {source}, cannot be opened again: {error} {REMEDY}") from error
        if dataset.fingerprint == record["fingerprint"]:
            return dataset
    return _same(dataset, record)


REMEDY = "Nothing was changed. Put the old data back, or pass the same data with data= (--data on the command line)."


def open_like(source: Any, provenance: dict[str, Any], progress: Progress | None = None) -> Dataset:
    """Other data, in the form of a run's own: its medium, shape, channels, fit and background."""
    if isinstance(source, Dataset):
        return source
    record = upgraded(provenance)
    request = {"size": record["shape"], "channels": record["channels"]}
    if record["medium"] == "sequence":
        request |= {"low": record["low"], "high": record["high"]}
    return _opened(source, record, request, progress)


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


def _same(dataset: Dataset, record: dict[str, Any]) -> Dataset:
    if dataset.fingerprint == record["fingerprint"]:
        return dataset
    counts, total = record["counts"], len(dataset.train) + len(dataset.held_out)
    raise ReverieError(
        f"The data of this run, {record['source']}, is not what it was trained on: then "
        f"{counts['train'] + counts['held_out']} samples of {Spec.of(record)} with fingerprint "
        f"{record['fingerprint'][:12]}, now {total} of {dataset.spec} with {dataset.fingerprint[:12]} "
        f"({dataset.source}). {REMEDY}"
    )
