"""The examples of layouts are read as they say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import reverie.data


def _maker():
    path = Path(__file__).parents[2] / "scripts" / "make_layouts.py"
    spec = importlib.util.spec_from_file_location("make_layouts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TWO_FILES = ("cityscapes", "masks", "names", "pairs", "restoration")  # a row


@pytest.mark.parametrize("name", list(_maker().LAYOUTS))
def test_the_example_of_a_layout_is_read_as_it_says_and_again_from_its_provenance(tmp_path: Path, name: str) -> None:
    maker = _maker()
    pytest.importorskip(maker.LIBRARIES.get(name, "numpy"))
    make, title = maker.LAYOUTS[name]
    make(tmp_path / name)
    dataset = reverie.data(tmp_path / name, medium=maker.MEDIA.get(name))
    assert dataset.report.read_as.startswith(title)
    assert reverie.data.reopen(json.loads(json.dumps(dataset.provenance))).fingerprint == dataset.fingerprint
    files = [path for path in (tmp_path / name).rglob("*") if path.suffix in (".png", ".jpg")]
    usable = dataset.report.usable * (2 if name in TWO_FILES else 1.5 if name == "voc" else 1)
    assert name in maker.MEDIA or not files or usable + dataset.report.counts().get("duplicate", 0) == len(files)
