"""The card: plain data, the only thing beside verbs that shared code reads of a model."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from reverie.core import registry
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space, card_of, networks_of
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import VERBS, verbs_of
from reverie.data.types import Dataset
from reverie.evaluation.base import Evaluation, Sets
from reverie.evaluation.metrics import measure
from reverie.inference.rows import Unsliced, chunk_of, draw, evaluating
from reverie.workflow.artifacts import held_out_scores
from reverie.workflow.needs import check_needs

ROOT = Path(rv.__file__).parent


def read_by_name(tree: ast.AST):
    """(line, attribute or None) of every getattr and hasattr; None where the name is computed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            target, name = node.args[0], node.args[1]
            constant = name.value if isinstance(name, ast.Constant) else None
            yield node.lineno, ast.unparse(target), constant


def attributes_of_models() -> set[str]:
    """Verbs, and everything that a model in ``models/`` has or sets on itself."""
    names = {*VERBS, "card", "config", "run", "checkpoint"}
    for path in (ROOT / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
            if isinstance(node, ast.ClassDef):
                names |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return names - set(dir(nn.Module)) - set(dir(object))


def test_shared_code_reads_verbs_and_the_card_of_a_model_and_nothing_by_name():
    models = ("model", "kind", "codec", "teacher", "student", "weaker", "classifier", "built", "net", "self.model")
    attributes, odd = attributes_of_models(), []
    assert {"classes", "texts", "codec", "likelihoods"} & attributes == {"classes", "codec"}
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] == "core":
            continue
        for line, target, name in read_by_name(ast.parse(path.read_text())):
            if target in models or (name in attributes and path.parts[-2:] not in ALLOWED):
                odd.append(f"{path.relative_to(ROOT)}:{line}: {target}, {name}")
    assert odd == []


ALLOWED = {("data", "hub.py"), ("data", "memory.py")}  # what data sets of others say of themselves


def test_a_card_is_plain_json_both_ways():
    card = Card(
        output=Output("volume", (8, 9, 10), 2),
        conditions={"label": 3},
        columns={"label": "", "tokens": "Tokenise."},
        latents={"z": Space((4,), "normal", "mean"), "codes": Space((2, 3), kind="tokens")},
        likelihoods=(Likelihood("elbo", "bound", "8-bit", True, "iw32", 32, {"samples": 32}),),
        monitors=("gan",),
        origin={"teacher": "runs/a"},
    )
    again = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert again == card and again.latents["codes"].shape == (2, 3) and again.space == card.latents["z"]
    assert Card.from_json(card.to_json() | {"later": 1}) == card and Card.from_json({}) == Card()
    assert Card(columns={"text", "label"}).remedies == {"label": "", "text": ""}


class Plain(nn.Module):
    """A module that knows nothing of cards: rows of its weight, and a density."""

    def __init__(self, size=2):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, size, size))

    def sample(self, noise, spread: float = 1.0):
        return (self.shift + spread * noise(*self.shift.shape)).clamp(-1, 1)

    def log_prob(self, batch):
        return torch.distributions.Normal(self.shift, 1.0).log_prob(batch["x"]).flatten(1).sum(1)


def test_a_module_without_a_card_has_one_of_its_verbs():
    model = Plain()
    assert card_of(model) == Card(likelihoods=(Likelihood("log_prob", "exact", "density"),))
    assert verbs_of(model) == ["sample", "log_prob"] and networks_of(model) == []
    samples = rv.sample(model, 5, seed=3, spread=0.1)
    assert samples.shape == (5, 2, 2, 1) and np.array_equal(samples[2], rv.sample(model, 1, seed=5, spread=0.1)[0])
    with pytest.raises(UsageError, match=r"no option spred.*spread"):
        rv.sample(model, 1, spred=1)
    with pytest.raises(UsageError, match="without classes"):
        rv.sample(model, 1, label=0)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"conditions": ["label"]}, "conditions"),
        ({"conditions": {"label": 2.5}}, "conditions: label"),
        ({"columns": "text"}, "columns"),
        ({"monitors": "gan"}, "monitors"),
        ({"networks": (3,)}, "networks"),
        ({"output": (8, 8)}, "output"),
        ({"latents": {"z": None}}, "latents"),
        ({"likelihoods": ("elbo",)}, "likelihoods"),
        ({"evaluations": 2.5}, "evaluations"),
        ({"at_once": 0}, "at_once"),
        ({"caution": torch.zeros(1)}, "caution"),
        ({"origin": {"teacher": 3}}, "origin"),
    ],
)
def test_a_field_that_holds_something_else_is_named(fields, message):
    with pytest.raises(UsageError, match=f"Card: {message}"):
        Card(**fields)


def test_numbers_of_numpy_on_a_card_are_plain():
    two = np.int64(2)
    card = Card(Output("image", (two, two), two), {"label": two}, latents={"z": Space((two,))}, evaluations=two)
    assert json.loads(json.dumps(card.to_json()))["latents"]["z"]["shape"] == [2]


@pytest.mark.parametrize(
    "card, message",
    [
        (Card(conditions={"label": 3}), "conditions has label"),
        (Card(likelihoods=(Likelihood("elbo", "bound", "8-bit"),)), "likelihoods names elbo"),
        (Card(networks=("body",)), "networks names body"),
        ({"conditions": {}}, "is a dict"),
    ],
)
def test_a_card_that_speaks_of_what_its_model_has_not_is_refused(card, message):
    model = Plain()
    model.card = card
    with pytest.raises(UsageError, match=f"The card of Plain.*{message}"):
        card_of(model)


def test_an_error_within_a_card_is_seen():
    class Broken(Plain):
        @property
        def card(self):
            return Card(evaluations=self.evaluations)

    with pytest.raises(AttributeError, match="evaluations"):
        card_of(Broken())


# Likelihoods


class Tokens(Plain):
    """Even dice of 256 values, as a discrete model states it."""

    kind, of = "exact", "8-bit"

    @property
    def card(self):
        return Card(likelihoods=(Likelihood("log_prob", self.kind, self.of),))

    def log_prob(self, batch):
        return torch.full((len(batch["x"]),), -batch["x"][0].numel() * math.log(256))


def scores(model, tiny):
    splits = (tiny.train, tiny.train, tiny.train, tiny.held_out)
    return measure(Evaluation(Sets(*splits, tiny.classes, {}, {"data": "tiny"}, model), device="cpu"), ["nll"])


def test_a_discrete_likelihood_is_not_called_dequantised_and_has_bits_of_8_bit_values_alone(tiny):
    names = scores(Tokens(8), tiny)
    assert [score.metric for score in names.scores] == ["nll", "bits-per-dim"]
    passport = names["nll"].passport
    assert (passport["dequantisation"], passport["kind"], passport["of"]) == ("none", "exact", "8-bit")
    assert names["bits-per-dim"].value == pytest.approx(8)
    assert held_out_scores(Tokens(8), tiny)["bits-per-dim"] == pytest.approx(8)

    class Bound(Tokens):
        kind, of = "bound", "tokens"

    names = scores(Bound(8), tiny)
    assert [score.metric for score in names.scores] == ["nll-bound-tokens"]
    assert names["nll-bound-tokens"].passport["exact"] is False
    assert "is of tokens" in names.remarks[0] and not names.refused
    assert set(held_out_scores(Bound(8), tiny)) == {"nll-bound-tokens"}


def test_a_density_of_floats_is_no_probability_of_8_bit_values(tiny):
    names = scores(Plain(8), tiny)
    assert [score.metric for score in names.scores] == ["nll-density"] and "a density" in names.remarks[0]


# Chunks


def test_the_chunker_cuts_rows_and_passes_nothing_on_that_it_does_not_know():
    noise = Noise.of_seeds(range(5))
    batch = Batch({"x": torch.arange(5)}, noise)
    rows = {"label": torch.arange(5), "text": list("abcde"), "noise": noise, "batch": batch}
    part = chunk_of(
        rows | {"scale": 2.0, "way": "up", "off": None, "zero": torch.ones(()), "guide": Unsliced({1: 2})}, 1, 3
    )
    assert part["label"].tolist() == [1, 2] and part["text"] == ["b", "c"] and len(part["noise"]) == 2
    assert part["batch"]["x"].tolist() == [1, 2] and part["batch"].row.tolist() == [1, 2]
    assert (part["scale"], part["way"], part["off"], part["zero"], part["guide"]) == (2.0, "up", None, 1, {1: 2})
    for odd in ({1: 2}, (1, 2), Plain()):
        with pytest.raises(TypeError, match="Unsliced"):
            chunk_of({"odd": odd}, 0, 1)


def test_drawing_leaves_every_module_in_the_mode_that_it_was_in():
    model = nn.Sequential(Plain(), nn.Dropout()).train()
    model[1].eval()
    with evaluating(model):
        assert not model[0].training and not torch.is_grad_enabled()
    assert model.training and model[0].training and not model[1].training
    plain = Plain().train()
    draw(plain, Noise.of_seeds([0]))
    assert plain.training


# Needs


def without_labels(tiny: Dataset) -> Dataset:
    return replace(tiny, classes=[])


@pytest.mark.parametrize(
    "card, message",
    [
        (Card(columns={"source"}), "pairs.*A/x.png"),
        (Card(columns={"text"}), "captions.*NAME.txt"),
        (Card(columns={"label"}), "classes.*sub-folder"),
        (Card(columns={"tokens": "Tokenise it first."}), "tokens.*Tokenise it first"),
    ],
)
def test_what_a_model_cannot_do_without_is_asked_for_with_the_remedy(tiny, card, message):
    with pytest.raises(UsageError, match=message):
        check_needs(card, without_labels(tiny))
    check_needs(Card(columns={"label", "x"}), tiny)


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("pix2pix", {}, "reverie train cyclegan.*--task colour"),
        ("flow-matching", {"conditional": "text"}, "captions"),
    ],
)
def test_a_model_that_lacks_something_leaves_nothing_behind(bars, tmp_path, model, options, message):
    with pytest.raises(UsageError, match=message):
        rv.train(model, bars, out=tmp_path / "run", steps=2, batch_size=8, width=8, quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_cyclegan_learns_from_two_classes_or_from_pairs(tiny):
    for classes, column in ((2, "label"), (3, "source"), (0, "source")):
        model = registry.build("cyclegan", shape=8, channels=1, classes=classes, width=8)
        assert set(model.card.columns) == {column}


def test_a_run_has_the_card_of_its_model(bars, tmp_path):
    run = rv.train("vae", bars, out=tmp_path / "run", steps=1, batch_size=8, width=8, latent=3, quiet=True)
    info = json.loads((run.path / "run.json").read_text())
    assert Card.from_json(info["card"]) == card_of(rv.load(run)) and info["card"]["latents"]["z"]["shape"] == [3]
