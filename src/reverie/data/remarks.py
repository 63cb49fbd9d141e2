"""What the report says of an opened data set: skewed classes, classes that a split lacks, long captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reverie.core.errors import argument
from reverie.data.types import Dataset, Problem

SKEWED = 10  # times that the largest class has the images of the smallest
LISTED = 8  # classes that are named


def with_remarks(dataset: Dataset) -> Dataset:
    """The data set with a line in its report for each remark."""
    remarks = [*_of_classes(dataset.counts_of_classes(), bool(len(dataset.held_out)))]
    if dataset.opened.get("held_out") == 0 and len(dataset.held_out):
        alone = f"{dataset.source}:train with {argument('held_out', 0)} is its training images alone"
        remarks.append(Problem("*", "own-split", f"kept: the source has its own split; {alone}"))
    report = dataset.report
    return replace(dataset, report=replace(report, problems=report.problems + remarks))


def with_long_captions(dataset: Dataset, words_of: Callable[[str], Sequence[str]], longest: int) -> Dataset:
    """The data set with a line in its report on captions of more than ``longest`` words."""
    captions = [*dataset.train.every_text, *dataset.held_out.every_text]
    beyond = [count for caption in captions if (count := len(words_of(caption))) > longest]
    if not beyond:
        return dataset
    some = f"{len(beyond):,} of {len(captions):,} captions are longer than the {longest} words"
    reads = argument("text_length", max(beyond))
    action = f"cut in training: {some} that the small text encoder reads; {reads} reads all"
    report = dataset.report
    return replace(dataset, report=replace(report, problems=[*report.problems, Problem("*", "long-caption", action)]))


def _of_classes(counts: dict[str, tuple[int, int]], held_out: bool) -> list[Problem]:
    totals = {name: sum(both) for name, both in counts.items() if any(both)}
    if len(totals) < 2:
        return []
    remarks = []
    largest, smallest = (pick(totals, key=lambda name: totals[name]) for pick in (max, min))
    most, least = totals[largest], totals[smallest]
    if most >= SKEWED * least:
        action = f"used: {largest} has {most:,} images, {smallest} has {least:,}: {most / least:,.0f} times as many"
        remarks.append(Problem("*", "skewed", action))
    unseen = [name for name, (train, out) in counts.items() if train and not out]
    if unseen and held_out:
        remarks.append(Problem("*", "no-held-out", f"used: no held-out image in {_some(unseen, counts)}"))
    if untrained := [name for name, (train, out) in counts.items() if out and not train]:
        remarks.append(Problem("*", "no-training", f"used: no image to train on in {_some(untrained, counts)}"))
    return remarks


def _some(names: Sequence[str], counts: dict[str, tuple[int, int]]) -> str:
    listed = ", ".join(names[:LISTED]) + " ..." * (len(names) > LISTED)
    return f"{len(names):,} of {len(counts):,} classes ({listed})"
