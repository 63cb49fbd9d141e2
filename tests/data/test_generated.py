"""Random data sets in every layout are read as they were written; junk among them is accounted for.

The suite takes a small sample, the same always. ``python tests/data/test_generated.py 300`` opens 300 random data sets
with junk, others at each call, and prints what became of them.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from container_cases import FILES, FOLDERS, MEDIA, cases, hdf5, npz
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from junk import ODD, Files, junk, unaccounted, write_junk
from layout_cases import ENDINGS, Case, check

import reverie.data
from reverie.core.errors import ReverieError

IMAGES = tuple(ending.lower() for ending in ENDINGS)
HOW = settings(deadline=None, database=None, suppress_health_check=[*HealthCheck])

Mixed = tuple[Case, Files, list[str]]


@pytest.mark.parametrize("kind", [*FOLDERS, *FILES, *MEDIA], ids=lambda kind: kind.__name__)
def test_a_random_data_set_has_the_columns_that_were_written_and_reopens(kind) -> None:
    @settings(HOW, max_examples=3, derandomize=True)
    @given(case=cases((kind,)))
    def run(case: Case) -> None:
        with tempfile.TemporaryDirectory() as folder:
            dataset = reverie.data(case.write(Path(folder)), **case.options)
            check(dataset, case)
            assert reverie.data.reopen(json.loads(json.dumps(dataset.provenance))).fingerprint == dataset.fingerprint

    run()


@st.composite
def mixed(draw: st.DrawFn) -> Mixed:
    """A data set, junk for it, and odd entries."""
    case = draw(cases((*FOLDERS, *FOLDERS, *MEDIA, *(kind for kind in FILES if kind not in (npz, hdf5)))))
    files: Files = {}
    for _ in range(draw(st.integers(1, 12))):
        files |= junk(draw, [name for name in case.files if name.lower().endswith(IMAGES)])
    clash = {name.lower() for name in case.files}
    odd = draw(st.lists(st.sampled_from(ODD), unique=True))
    return case, {name: data for name, data in files.items() if name.lower() not in clash}, odd


def opened(case: Case, files: Files, odd: list[str]) -> str:
    """What became of a data set with junk; raises AssertionError if a file is missing in the report, or a row wrong."""
    with tempfile.TemporaryDirectory() as folder:
        source = case.write(Path(folder))
        write_junk(source, case, files, odd)
        try:
            dataset = reverie.data(source, **case.options)
        except ReverieError as error:
            return f"refused: {str(error).removeprefix(str(source))[:100]}"
        left = unaccounted(source, case, dataset)
        assert not left, left
        if not same_layout(dataset, case):
            return f"opened in another layout than {case.name}"
        check(dataset, case, files)
        return f"opened as {case.name}"


def same_layout(dataset, case: Case) -> bool:
    """Whether junk, such as an image in a new folder beside the others, leaves the data in its layout."""
    labels = {sample.label for sample in case.samples.values()} - {None}
    return dataset.report.read_as.partition(",")[0] == case.title.partition(",")[0] and labels <= {*dataset.classes}


@settings(HOW, max_examples=25, derandomize=True)
@given(mixed())
def test_junk_ends_in_no_traceback_and_every_file_is_accounted_for(data: Mixed) -> None:
    opened(*data)


def main(count: int, chunk: int = 10) -> None:
    """Open ``count`` random data sets with junk, in chunks with a seed each; print what became of them."""
    outcomes: Counter[str] = Counter()
    failed: Counter[str] = Counter()

    def run(data: Mixed) -> None:
        try:
            outcomes[opened(*data)] += 1
        except Exception as error:
            failed[f"{type(error).__name__}: {str(error)[:200]} {data[0]} {[*data[1]]} {data[2]}"] += 1

    while (done := outcomes.total() + failed.total()) < count:
        how = settings(HOW, max_examples=min(chunk, count - done), phases=[Phase.generate])
        seed(random.getrandbits(64))(how(given(mixed())(run)))()
    for name, n in sorted(outcomes.items()):
        print(f"{n:6} {name}")
    for name, n in failed.items():
        print(f"{n:6} FAILED {name}")
    print(f"{outcomes.total()} opened or refused with a reason, {failed.total()} failed")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["REVERIE_HOME"] = home
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
