"""Sets of the hub: conditions on all of their columns, and their masks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hub_stand_in import stand_in
from PIL import Image
from small_pictures import pixels

import reverie.data
from reverie.core.errors import UsageError

N = 24


class Rows:
    """A split as the datasets package gives it: rows by number, columns by name, features by type name."""

    def __init__(self, first: int, masks: str):
        self.seeds, self.masks = range(first, first + N), masks
        kinds = {
            "image": "Image",
            masks: "Image",
            "breed": "ClassLabel",
            "tags": "List",
            "age": "Value",
            "box": "Array2D",
        }
        inner = type("ClassLabel", (), {"names": ["old", "new"]})()
        more = {"breed": {"names": ["pug", "cat"]}, "tags": {"feature": inner}}
        self.features = {name: type(kind, (), more.get(name, {}))() for name, kind in kinds.items()}

    def __len__(self) -> int:
        return N

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            assert key not in ("image", self.masks), "conditions decode no images"
            return [self.values(seed)[key] for seed in self.seeds]
        seed = self.seeds[key]
        square = np.zeros((24, 24), np.uint8)
        square[4:12, 4 : 12 + key % 8] = 255
        mask = None if key == 3 else Image.fromarray(square)
        return {"image": Image.fromarray(pixels(seed)), self.masks: mask}

    def values(self, seed: int) -> dict[str, Any]:
        return {"breed": seed % 2, "tags": [seed % 2] * (seed % 3), "age": None if seed == 5 else seed}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(masks: str) -> None:
        stand_in(monkeypatch, lambda name: {"train": Rows(0, masks), "test": Rows(100, masks)})

    return load


def test_conditions_see_all_columns_of_the_hub(hub: Any) -> None:
    hub("depth")
    chosen = {"age >= 10": N - 10 + N, "age != 7": 2 * N - 2, "breed == pug": N, "tags == new": 16, "label == cat": N}
    for condition, n in chosen.items():
        data = reverie.data("hf:a/b", where=condition)
        assert len(data.train) + len(data.held_out) == n, condition
        again = reverie.data.reopen(json.loads(json.dumps(data.provenance)))
        assert again.fingerprint == data.fingerprint and again.classes == data.classes
    assert reverie.data("hf:a/b:test", where="age < 112").report.usable == 12
    with pytest.raises(UsageError, match=r"has a column 'ages'. Did you mean .age.\? Columns: age, breed, file_name"):
        reverie.data("hf:a/b", where="ages > 3")
    with pytest.raises(UsageError, match="has a column 'box'"):
        reverie.data("hf:a/b", where="box == 3")


def test_a_column_of_masks_is_read_as_such(hub: Any) -> None:
    hub("mask")
    data = reverie.data("hf:a/b")
    assert data.report.read_as.endswith("image = image, label = breed, mask = mask")
    assert {*np.unique(data.train["mask"])} == {0, 255} and data.report.counts()["no-mask"] == 2
    row = data.train.names.index("train/7")
    assert (data.train["mask"][row] > 0).sum() == 8 * 15
    assert reverie.data.reopen(json.loads(json.dumps(data.provenance))).fingerprint == data.fingerprint
    plain = reverie.data("hf:a/b", masks="no")
    assert plain.train.get("mask") is None
    older = {name: value for name, value in plain.provenance.items() if name != "masks"}
    assert reverie.data.reopen(older).fingerprint == plain.fingerprint, "runs from before masks were read"


@pytest.mark.parametrize("name", ["annotation", "segmentation", "label"])
def test_a_column_that_may_be_masks_is_named_and_read_if_asked(hub: Any, name: str) -> None:
    hub(name)
    data = reverie.data("hf:a/b")
    assert data.train.get("mask") is None
    lines = [problem.action for problem in data.report.problems if problem.kind == "columns"]
    assert lines == [
        f"used: image as the image; so might be {name}: columns='image={name}', as its mask: columns='mask={name}'"
    ]
    for options in ({"masks": "yes"}, {"columns": f"mask={name}"}):
        masked = reverie.data("hf:a/b", **options)
        assert masked.train["mask"].any() and "columns" not in masked.report.counts()
        assert reverie.data.reopen(json.loads(json.dumps(masked.provenance))).fingerprint == masked.fingerprint
    with pytest.raises(UsageError, match="'age' has no images"):
        reverie.data("hf:a/b", columns="mask=age")
    with pytest.raises(UsageError, match="names the masks, and masks='no' reads none"):
        reverie.data("hf:a/b", columns=f"mask={name}", masks="no")
