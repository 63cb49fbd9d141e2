"""Random data sets in every layout are read as they were written; junk among them is accounted for."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from container_cases import FILES, FOLDERS, MEDIA, cases, cifar, idx, parquet, shards
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from junk import ODD, Files, junk, unaccounted, write_junk
from layout_cases import ENDINGS, Case, check

import reverie.data
from reverie.core.errors import ReverieError

IMAGES = tuple(ending.lower() for ending in ENDINGS)

COUNT = int(os.environ.get("REVERIE_GENERATED", "6"))  # examples of each layout
HOW = settings(max_examples=COUNT, deadline=None, derandomize=COUNT < 50, suppress_health_check=[*HealthCheck])


@pytest.mark.parametrize("kind", [*FOLDERS, *FILES, *MEDIA], ids=lambda kind: kind.__name__)
def test_a_random_data_set_has_the_columns_that_were_written_and_reopens(kind) -> None:
    @HOW
    @given(case=cases((kind,)))
    def run(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            dataset = reverie.data(case.write(Path(folder)), **case.options)
            check(dataset, case)
            assert reverie.data.reopen(json.loads(json.dumps(dataset.provenance))).fingerprint == dataset.fingerprint

    run()


def same_layout(dataset, case: Case) -> bool:
    """Whether junk, such as an image in a new folder beside the others, leaves the data in its layout."""
    labels = {sample.label for sample in case.samples.values()} - {None}
    return dataset.report.read_as.partition(",")[0] == case.title.partition(",")[0] and labels <= {*dataset.classes}


@st.composite
def mixed(draw: st.DrawFn) -> tuple[Case, Files, list[str]]:
    """A data set, junk for it, and odd entries."""
    case = draw(cases((*FOLDERS, *FOLDERS, *MEDIA, shards, idx, cifar, parquet)))
    files: Files = {}
    for _ in range(draw(st.integers(1, 6))):
        files |= junk(draw, [name for name in case.files if name.lower().endswith(IMAGES)])
    clash = {name.lower() for name in case.files}
    return (
        case,
        {n: d for n, d in files.items() if n.lower() not in clash},
        draw(st.lists(st.sampled_from(ODD), unique=True)),
    )


def test_junk_ends_in_no_traceback_and_every_file_is_accounted_for() -> None:
    @settings(HOW, max_examples=4 * COUNT)
    @given(mixed())
    def run(data: tuple[Case, Files, list[str]]) -> None:
        case, files, odd = data
        with tempfile.TemporaryDirectory() as folder:
            source = case.write(Path(folder))
            write_junk(source, case, files, odd)
            try:
                dataset = reverie.data(source, **case.options)
            except ReverieError as error:
                assert str(error)
                event("refused: " + type(error).__name__)
                return
            assert unaccounted(source, case, dataset) == []
            if same_layout(dataset, case):
                event("as without junk")
                check(dataset, case, files)

    run()
