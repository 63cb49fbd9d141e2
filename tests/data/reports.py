"""What a data set holds, and what its report says."""

from __future__ import annotations

import numpy as np

from reverie.data import Dataset


def actions(data: Dataset, kind: str) -> list[str]:
    """What was done with every problem of a kind."""
    return [problem.action for problem in data.report.problems if problem.kind == kind]


def by_kind(data: Dataset) -> dict[str, str]:
    """What was done, by kind; the last of each."""
    return {problem.kind: problem.action for problem in data.report.problems}


def kinds(data: Dataset) -> set[tuple[str, str]]:
    """Files and the kinds of their problems."""
    return {(problem.file, problem.kind) for problem in data.report.problems}


def by_name(data: Dataset) -> dict[str, np.ndarray]:
    """The samples of both splits."""
    both = (data.train, data.held_out)
    return {name: row for split in both for name, row in zip(split.names, split["x"], strict=True)}


def counts(data: Dataset) -> tuple[int, int]:
    """How many are trained on and held out."""
    return len(data.train), len(data.held_out)


def rows(data: Dataset) -> dict[str, tuple]:
    """name -> (image, label name, text, source)."""
    result = {}
    for side in (data.train, data.held_out):
        for i, name in enumerate(side.names):
            label = data.classes[side.labels[i]] if side.labels[i] >= 0 else None
            text = side.get("text")[i] if side.get("text") is not None else None
            result[name] = (side["x"][i], label, text, None if side.get("source") is None else side.get("source")[i])
    return result


def everything(data: Dataset) -> list:
    """The columns of both splits, to be compared."""
    return [
        (side.names, side["x"].tobytes(), side.labels.tolist(), side.get("text"))
        for side in (data.train, data.held_out)
    ]
