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
