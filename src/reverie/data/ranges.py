"""The range of the values of a set of files: decided over all of its images, and the same for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reverie.core.terminal import count
from reverie.data.types import Problem
from reverie.media import decode, values
from reverie.media.values import Decision, Range, Tally

_NOUNS = {"uint8": "8-bit", "colour16": "16-bit colour", "uint16": "16-bit", "int": "32-bit", "float": "float"}
_EIGHT = ("uint8", "colour16")  # kinds that are 8 bits once they are read: unchanged unless they are stretched

Records = Sequence[dict[str, Any]]  # of the store: "ok", and "tally", "ends" and "notes" of each array


def decide(records: Records, array: str) -> dict[str, Decision]:
    """The range of each kind of values among the images of one array ("images", "sources")."""
    tallies: dict[str, list[Tally]] = {}
    for tally in (Tally(*record["tally"][array]) for record in records if record["ok"]):
        tallies.setdefault(tally.kind, []).append(tally)
    return {kind: values.range_of(counts) for kind, counts in tallies.items()}


def ranges_of(decisions: dict[str, Decision]) -> decode.Ranges:
    """For ``decode_of_set``: all but those of 8-bit values that stay as they are."""
    return {kind: d.range for kind, d in decisions.items() if kind not in _EIGHT or not d.usual}


def to_repeat(records: Records, array: str, ranges: decode.Ranges) -> list[int]:
    """The rows that were decoded by another range than that of the set."""
    return [
        i for i, record in enumerate(records) if record["ok"] and _ends(record, array) != _range(record, array, ranges)
    ]


def changed(records: Records, array: str, ranges: decode.Ranges) -> list[str]:
    """The conversions whose pixels differ from those of version 1 of the store, for the fingerprint."""
    names = set()
    for record in (record for record in records if record["ok"]):
        tally, ends = Tally(*record["tally"][array]), _range(record, array, ranges)
        before = None if tally.kind in _EIGHT else values.of_one(tally)
        if ends != before and ends is not None:
            names.add(f"{array} {tally.kind} {ends[0]:g}..{ends[1]:g}")
        converted = {kind for kind, action in record["notes"] if action.startswith("converted")}
        names |= converted & {"colour-profile", "tones"}
    return sorted(names)


def problems(names: list[str], records: Records, array: str, decisions: dict[str, Decision]) -> list[Problem]:
    """A line for each kind of values whose range is not the full one, and for each image in another range."""
    lines = []
    for kind, decision in decisions.items():
        rows = [i for i, record in enumerate(records) if record["ok"] and record["tally"][array][0] == kind]
        if not decision.usual:
            keep = "low and high choose another range"
            if kind != "float":
                keep = f"low and high of 0 and {values.FULL[kind][1]:g} keep them"
            side = " of the sources" if array == "sources" else ""
            lost = ", of which only the upper 8 bits are read" if kind == "colour16" else ""
            images = count(len(rows), f"{_NOUNS[kind]} image")
            action = f"converted: {decision.words} to 0..255 in {images}{side}{lost}; {keep}"
            lines.append(Problem("*", "range", action))
        dark = [i for i in rows if 0 < records[i]["tally"][array][2] <= values.LABELS]
        if decision.usual and kind == "uint8" and 2 * len(dark) > len(rows):
            some = f"used: {len(dark)} of {len(rows)} images, such as {names[dark[0]]}"
            action = f"{some}, have no value above {values.LABELS} and are nearly black: convert or remove some"
            lines.append(Problem("*", "range", action))
        beyond = f"used: most of its values are beyond {decision.range[0]:g}..{decision.range[1]:g} and clipped"
        lines += [Problem(names[rows[n]], "range", beyond) for n in decision.others]
    return lines


def _range(record: dict[str, Any], array: str, ranges: decode.Ranges) -> Range | None:
    return ranges.get(record["tally"][array][0])


def _ends(record: dict[str, Any], array: str) -> Range | None:
    ends = record["ends"][array]
    return None if ends is None else (ends[0], ends[1])
