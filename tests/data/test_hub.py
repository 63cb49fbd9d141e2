"""Sets of the Hugging Face hub, by a stand-in for the datasets package."""

from __future__ import annotations

import json
import sys

import pytest
from hub_stand_in import stand_in
from PIL import Image
from reports import rows
from small_pictures import pixels

import reverie.data
from reverie.core.errors import ReverieError, UsageError


class Split(list):
    """A split as the datasets package gives it: rows by number, columns by name, features by type name."""

    def __init__(self, seeds: range):
        super().__init__(seeds)
        self.features = {
            "id": type("Value", (), {})(),
            "img": type("Image", (), {})(),
            "kind": type("ClassLabel", (), {"names": ["ant", "bee"]})(),
            "text": type("Value", (), {})(),
        }

    def __getitem__(self, key):
        if isinstance(key, str):
            return [{"id": s, "kind": s % 2, "text": f"t{s}"}[key] for s in self]
        return {"img": Image.fromarray(pixels(super().__getitem__(key)))}


def test_the_hub_gives_images_labels_texts_and_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, lambda name: {"train": Split(range(20)), "test": Split(range(50, 58))})
    dataset = reverie.data("hf:someone/insects")
    assert (len(dataset.train), len(dataset.held_out), dataset.classes) == (20, 8, ["ant", "bee"])
    image, label, text, _ = rows(dataset)["test/3"]
    assert (image == pixels(53)).all() and (label, text) == ("bee", "t53")


def test_a_hub_without_package_or_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ReverieError, match=r"pip install 'reverie\[hf\]'"):
        reverie.data("hf:someone/insects")

    def fail(name: str) -> None:
        raise ConnectionError("no route to host")

    stand_in(monkeypatch, fail)
    with pytest.raises(ReverieError, match="no route to host"):
        reverie.data("hf:someone/insects")


class Wide(Split):
    """Two columns of images, two of classes, a list of captions and a column that is no text."""

    def __init__(self, seeds: range):
        super().__init__(seeds)
        kinds = {"mask": "Image", "coarse": "ClassLabel", "alt_text": "Sequence", "maker": "Value"}
        self.features |= {name: type(kind, (), {"names": ["few", "many"]})() for name, kind in kinds.items()}

    def __getitem__(self, key):
        if key == "maker":
            return [f"maker {s % 4}" for s in self]
        if key in ("coarse", "alt_text"):
            return [s % 3 % 2 if key == "coarse" else [f"a{s}", f"b{s}"] for s in self]
        if isinstance(key, str):
            return super().__getitem__(key)
        seed = list.__getitem__(self, key)
        return super().__getitem__(key) | {"mask": Image.fromarray(pixels(seed, channels=1)[..., 0])}


def hub_columns(monkeypatch: pytest.MonkeyPatch, **splits: range) -> None:
    stand_in(monkeypatch, lambda name, config="": {name: Wide(seeds) for name, seeds in splits.items()})


def test_columns_of_the_hub_are_chosen_and_what_else_might_be_meant_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_columns(monkeypatch, train=range(20), test=range(50, 58))
    plain = reverie.data("hf:someone/insects")
    lines = [problem.action for problem in plain.report.problems if problem.kind == "columns"]
    assert lines == [
        "used: kind as the label; so might be coarse: columns='label=coarse'",
    ]
    assert plain.report.read_as.endswith("splits train, test; image = img, label = kind, text = text, mask = mask")
    chosen = "image=mask, label=maker, text=alt_text"
    data = reverie.data("hf:someone/insects", columns=chosen)
    assert data.classes == [f"maker {k}" for k in range(4)] and data.spec.channels == 1
    assert rows(data)["test/3"][2] == "a53" and ["a53", "b53"] in data.held_out["captions"]
    assert "columns" not in data.report.counts() and data.fingerprint != plain.fingerprint
    assert data.provenance["requested"]["columns"] == {"image": "mask", "label": "maker", "text": "alt_text"}
    assert reverie.data.reopen(json.loads(json.dumps(data.provenance))).fingerprint == data.fingerprint
    test = reverie.data.open_like("hf:someone/insects:test", data.provenance)
    assert test.classes == data.classes and test.report.usable == 8, "a split of the same set has the same columns"
    with pytest.raises(UsageError, match=r"no column 'kin' \(label\). Did you mean .kind.\? Columns: id, img"):
        reverie.data("hf:someone/insects", columns="label=kin")
    with pytest.raises(UsageError, match="column 'id' has no images"):
        reverie.data("hf:someone/insects", columns="image=id")
    with pytest.raises(
        UsageError, match=r"names columns, as columns='image=img,label=.*not 'imag'. Did you mean .image."
    ):
        reverie.data("hf:someone/insects", columns="imag=img")


def test_several_labels_of_the_hub_are_attributes_and_lists_of_one_are_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = {"many": lambda s: [s % 2] * (s % 3 > 0), "one": lambda s: [s % 2]}

    class Listed(Split):
        def __init__(self, seeds: range):
            super().__init__(seeds)
            inner = self.features["kind"]
            self.features |= {name: type("List", (), {"feature": inner})() for name in lists}

        def __getitem__(self, key):
            return [lists[key](s) for s in self] if key in lists else super().__getitem__(key)

    stand_in(monkeypatch, lambda name: {"train": Listed(range(20)), "test": Listed(range(50, 58))})
    data = reverie.data("hf:someone/insects", columns="label=many")
    assert data.attributes == ["ant", "bee"] and data.classes == []
    bees = [s % 2 and s % 3 > 0 for s in range(50, 58)]
    assert sorted(data.held_out["attributes"][:, 1]) == sorted(map(float, bees))
    assert data.report.counts()["several-labels"] == 1
    single = reverie.data("hf:someone/insects", columns="label=one")
    assert single.classes == ["ant", "bee"] and not single.attributes


def test_a_split_of_the_hub_is_the_hubs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_columns(monkeypatch, train=range(20), validation=range(50, 62), test=range(70, 79), extra=range(90, 110))
    counts = {"train": 20, "validation": 12, "test": 9, "extra": 20, "held_out": 21}
    for split, count in counts.items():
        data = reverie.data(f"hf:someone/insects:{split}")
        assert data.report.usable == count and len(data.held_out) > 0, split
        assert reverie.data.reopen(data.provenance).fingerprint == data.fingerprint
    with pytest.raises(UsageError, match=r"no split 'trian'. Did you mean .train.\? Its splits: train, validation"):
        reverie.data("hf:someone/insects:trian")
    hub_columns(monkeypatch, train=range(20))
    alone = reverie.data("hf:someone/insects")
    assert reverie.data("hf:someone/insects:train").fingerprint == alone.fingerprint
    ours = reverie.data("hf:someone/insects", held_out=0.4).held_out.names
    again = reverie.data("hf:someone/insects:held_out", held_out=0.4)
    assert {*again.train.names, *again.held_out.names} == {*ours}
    with pytest.raises(UsageError, match="no split 'test'"):
        reverie.data("hf:someone/insects:test")


def test_a_configuration_of_the_hub_is_chosen_by_an_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(*names: str) -> dict[str, Split]:
        if len(names) < 2:
            raise ValueError("Config name is missing. Please pick one among the available configs: ['small', 'large']")
        asked.append(names)
        return {"train": Split(range(20)), "test": Split(range(50, 60))}

    stand_in(monkeypatch, load)
    data = reverie.data("hf:someone/insects@small:test")
    assert asked == [("someone/insects", "small")] and data.report.usable == 10
    with pytest.raises(ReverieError, match=r"\['small', 'large'\] A configuration is chosen by hf:someone/insects@CON"):
        reverie.data("hf:someone/insects")
