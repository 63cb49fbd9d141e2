"""Codes: maps, scores and files; classifiers that begin with an encoder."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import reverie as rv
from reverie.codes import scores
from reverie.codes.accuracies import over_seeds
from reverie.codes.classifier import Classifier, check_trainable, linear_probe, model_parameters, rebuilt
from reverie.codes.comparison import PCA_OF_INPUTS, codes
from reverie.codes.encoders import encoders
from reverie.codes.pretraining import draw_labelled, pretrain
from reverie.core import registry
from reverie.core.card import Card, Output, Space, card_of
from reverie.core.errors import ReverieError, Stopped, UsageError
from reverie.core.noise import Noise
from reverie.core.verbs import verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Dataset, Report, Split
from reverie.media.origin import origin_of
from reverie.probability.pca import PCA
from reverie.views.latent_map import Plane
from test_contract import TEACHERS, make


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Principal components


@pytest.mark.parametrize("shape", [(40, 7), (6, 30)])
def test_principal_components_are_those_of_the_singular_value_decomposition(shape):
    x = normal(*shape) @ torch.diag(torch.arange(1.0, shape[1] + 1, dtype=torch.float64)) + 3
    pca = PCA.fit(x, 3)
    u, s, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close((pca.axes.T @ v[:3].T).abs(), torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(pca(x).abs(), (u[:, :3] * s[:3]).abs())
    torch.testing.assert_close(pca.share, s[:3] ** 2 / (s**2).sum())
    assert (pca.axes.gather(0, pca.axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_components_of_very_many_columns_come_from_fewer_rows_evenly_spaced(monkeypatch):
    monkeypatch.setattr("reverie.probability.pca._MOST", 16)
    x = normal(61, 20)
    fitted, expected = PCA.fit(x, 2), PCA.fit(x[::4], 2)  # 16 of 61 rows
    assert torch.equal(fitted.mean, expected.mean) and torch.equal(fitted.axes, expected.axes)
    assert not torch.allclose(fitted.mean, x.mean(0))


def test_the_plane_shows_two_numbers_as_they_are_and_more_by_their_principal_components():
    for width in (1, 2):
        codes_ = normal(20, width).float()
        points = Plane.of(codes_)(codes_)
        assert points.shape == (20, 2) and np.array_equal(points[:, :width], codes_.numpy())
    codes_ = normal(20, 5).float()
    plane = Plane.of(codes_)
    np.testing.assert_allclose(plane(codes_), (codes_ @ PCA.fit(codes_, 2).axes.float()).numpy(), rtol=1e-5)
    assert plane.note.startswith("first two principal components, ")


# Scores


def test_k_nearest_neighbours_vote_as_by_brute_force():
    base, queries = normal(60, 3).float(), normal(40, 3, seed=1).float()
    labels = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(2))
    for k in (1, 4, 7):
        expected = []
        for query in queries:
            order = (base - query).square().sum(1).argsort()[:k]
            votes = [int(label) for label in labels[order]]
            expected.append(max(votes, key=lambda c: (votes.count(c), -votes.index(c))))
        assert scores.knn_predict(queries, base, labels, k).tolist() == expected


def test_the_scatter_ratio_is_the_one_computed_by_hand_and_ignores_scale_and_rotation():
    labels = torch.tensor([0, 0, 1, 1])
    line = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
    assert scores.scatter_ratio(line, labels) == 100 / 4  # means 1 and 11 around 6; each row 1 from its mean
    assert scores.scatter_ratio(torch.tensor([[1.0], [3.0], [1.0], [3.0]]), labels) == 0
    assert scores.scatter_ratio(torch.tensor([[1.0], [1.0], [3.0], [3.0]]), labels) == np.inf
    x, classes = normal(50, 3) + 2, torch.arange(50) % 3
    rotation = torch.linalg.qr(normal(3, 3, seed=3))[0]
    assert scores.scatter_ratio(5 * x @ rotation, classes) == pytest.approx(scores.scatter_ratio(x, classes), rel=1e-12)


def test_the_interval_of_the_scatter_ratio_covers_the_truth():
    covered = 0
    for seed in range(60):  # means at -1 and 1, deviation 1, halves: tr S_B / tr S_W = 1
        labels = torch.arange(200) % 2
        estimate = scores.scatter(normal(200, 1, seed=seed) + 2 * labels[:, None] - 1, labels)
        covered += estimate.low <= 1 <= estimate.high
    assert covered >= 52


# Comparison


class Measures(nn.Module):
    """Codes that are the labels of bars: variance of the means of rows less that of columns. Told a label, it tells."""

    def __init__(self, latent=1, kind="real"):
        super().__init__()
        self.latent, self.kind, self.scale = latent, kind, nn.Parameter(torch.ones(()))

    @property
    def card(self):
        space = Space((self.latent,), encode="exact", kind=self.kind)
        return Card(output=Output("image", (8, 8), 1), conditions={"label": 2}, latents={"z": space})

    def encode(self, image, label=None, **condition):
        code = self.scale * (image.mean(3).var(2) - image.mean(2).var(2))
        return (code if label is None else code * 0 + label[:, None]).repeat(1, self.latent)


def test_codes_that_are_the_label_score_one_and_no_encoder_is_told_the_label(tiny):
    result = codes([Measures(3), Measures(1)], tiny, n=1000, pca=True, k=3)
    names = ["Measures", "Measures (2)", PCA_OF_INPUTS]
    assert list(result.values) == list(result.panels) == list(result.scores) == names
    assert [values.shape for values in result.values.values()] == [(32, 3), (32, 1), (32, 3)]
    for name in names[:2]:
        measured = result.scores[name]
        assert measured["knn"].value == measured["knn_in_map"].value == measured["probe"].value == 1
        assert measured["knn"].low < 1 and measured["scatter"].low > 1
        assert not set(np.unique(result.values[name])) <= {0, 1}
    assert result.scores[PCA_OF_INPUTS]["scatter"].value < result.scores["Measures"]["scatter"].value
    assert "32 held-out images of tiny: all that there are, of 1,000 that were asked for." in result.notes[0]
    assert [cell for row in result.table() for cell in row[:2]] == ["Measures", "3", "Measures (2)", "1", names[2], "3"]
    assert result._repr_png_().startswith(b"\x89PNG") and "linear probe" in repr(result)


def test_the_pixels_principal_components_are_fitted_to_training_images(tiny):
    result = codes(Measures(4), tiny, pca=True)
    sides = (tiny.train, tiny.held_out)
    train, test = (torch.from_numpy(split["x"].astype(np.float64)).flatten(1) / 127.5 - 1 for split in sides)
    np.testing.assert_allclose(result.values[PCA_OF_INPUTS], PCA.fit(train, 4)(test).numpy(), atol=1e-4)


def test_codes_are_written_with_labels_and_references_to_their_images(tiny, tmp_path):
    result = codes(Measures(2), tiny, n=20, split="train")
    archive = np.load(result.save(tmp_path / "c.npz"))
    assert np.array_equal(archive["codes:Measures"], result.values["Measures"]) and archive["map:Measures"].shape == (
        20,
        2,
    )
    rows = [int(row.removeprefix("train:")) for row in archive["row"]]
    assert np.array_equal(archive["label"], tiny.train.labels[rows]) and archive["classes"].tolist() == tiny.classes
    image = torch.from_numpy(tiny.train["x"][rows].astype(np.float32)).permute(0, 3, 1, 2) / 127.5 - 1
    np.testing.assert_allclose(archive["codes:Measures"], Measures(2).encode(image).detach().numpy(), atol=1e-6)
    assert origin_of(tmp_path / "c.npz")["verb"] == "codes"
    with result.save(tmp_path / "c.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [row["row"] for row in table] == list(archive["row"]) and table[0].keys() >= {"name", "label", "class"}
    values = np.array([[row["Measures:0"], row["Measures:1"]] for row in table]).astype(np.float32)
    assert np.array_equal(values, result.values["Measures"])
    assert {(row["label"], row["class"]) for row in table} == {("0", "lying"), ("1", "standing")}
    with pytest.raises(UsageError, match="Cannot write"):
        result.save(tmp_path / "c.xyz")
    if importlib.util.find_spec("pyarrow"):
        from pyarrow import parquet

        stored = parquet.read_table(result.save(tmp_path / "c.parquet"))
        assert np.array_equal(stored["Measures:1"].to_numpy(), values[:, 1])
        assert origin_of(tmp_path / "c.parquet") == origin_of(tmp_path / "c.npz")
    else:
        with pytest.raises(UsageError, match=r"reverie\[parquet\]"):
            result.save(tmp_path / "c.parquet")


def test_data_without_labels_has_maps_and_no_scores(tiny):
    bare = [Split({"x": split["x"]}) for split in (tiny.train, tiny.held_out)]
    result = codes(Measures(2), replace(tiny, train=bare[0], held_out=bare[1], classes=[]))
    assert not result.scores and result.panels["Measures"].points.shape == (32, 2)
    assert "need labels of at least two classes" in result.notes[-1]


def of_data(model, data):
    model.run = {"data": data.provenance}
    return model


def test_runs_of_different_data_or_form_are_refused_with_the_fix(tiny):
    rng = np.random.default_rng(0)
    one, two = (rv.open_data(rng.integers(0, 256, (40, 8, 8, 1), np.uint8), labels=np.arange(40) % 2) for _ in range(2))
    a, b = of_data(Measures(), one), of_data(Measures(), two)
    assert codes(a).labels.shape == (len(one.held_out),)
    with pytest.raises(UsageError, match=r"trained on different data .* data="):
        codes([a, b])
    assert list(codes([a, b], tiny).values) == ["Measures", "Measures (2)"]
    large = rv.open_data(rng.integers(0, 256, (40, 9, 9, 1), np.uint8))
    with pytest.raises(UsageError, match="encodes images of 8x8x1, but these are images of 9x9x1"):
        codes([a], large)


def test_codes_are_of_the_latent_space_that_is_named_and_by_default_of_the_first(tiny):
    model = TwoSpaces()
    image = next(in_order(tiny.held_out, len(tiny.held_out)))["x"]
    for space, width, priors in ((None, 2, 1000), ("z", 2, 1000), ("w", 3, 0)):
        result = codes(model, tiny, space=space)
        expected = model.encode(image, space=space).detach().numpy()
        np.testing.assert_allclose(result.values["TwoSpaces"], expected, atol=1e-6)
        assert expected.shape[1] == width and len(result.panels["TwoSpaces"].prior) == priors
        assert result.origin["space"] == space
    assert list(codes([model, Measures()], tiny, space="z").values) == ["TwoSpaces", "Measures"]
    for models, space, message in (
        (model, "u", "space must be one of z, w, v, not 'u' \\(latent spaces of TwoSpaces\\)"),
        ([model, Measures()], "w", "space must be one of z, not 'w' \\(latent spaces of Measures\\)"),
        (model, "v", "TwoSpaces does not encode to space='v'"),
    ):
        with pytest.raises(UsageError, match=message):
            codes(models, tiny, space=space)


def test_what_cannot_be_compared_is_refused(tiny):
    with pytest.raises(UsageError, match="at least one run"):
        codes([])
    with pytest.raises(UsageError, match="cannot encode"):
        codes(nn.Linear(2, 2), tiny)
    with pytest.raises(UsageError, match="are tokens"):
        codes(Measures(kind="tokens"), tiny)
    with pytest.raises(UsageError, match="k must be at most 128"):
        codes(Measures(), tiny, k=129)
    with pytest.raises(UsageError, match="split must be"):
        codes(Measures(), tiny, split="test")


# Pre-training


class Planted(nn.Module):
    """A linear encoder; its trained weights are the ones that the labels were made with."""

    def __init__(self, width: int = 1):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, width, bias=False), nn.Linear(width, 64)

    @property
    def card(self):
        space = Space((self.encoder.out_features,), encode="exact")
        return Card(output=Output("image", (8, 8), 1), latents={"z": space})

    def encode(self, image, **condition):
        return self.encoder(image.flatten(1))

    def decode(self, latent, **condition):
        return self.decoder(latent).view(-1, 1, 8, 8)


class TwoSpaces(Planted):
    """A second space, whose codes are a multiple of the first's and have no prior."""

    def __init__(self):
        super().__init__(2)
        self.linear = nn.Linear(2, 3)

    @property
    def card(self):
        spaces = {"z": Space((2,), "normal", "exact"), "w": Space((3,), encode="exact"), "v": Space((3,), "model")}
        return Card(output=Output("image", (8, 8), 1), latents=spaces)

    def encode(self, image, space=None, **condition):
        z = self.encoder(image.flatten(1))
        return self.linear(z) if space == "w" else z


@pytest.fixture(scope="module")
def planted():
    """A model whose code is the label, and data of noise whose labels no other code of one number tells."""
    rv.register("planted")(Planted)
    rv.register("rounds")(Rounds)
    rv.register("two-spaces")(TwoSpaces)
    model = rv.build("planted")
    weight = torch.where(Noise.of_seeds([5])(64) > 0, 1.0, -1.0) / 8
    with torch.no_grad():
        model.encoder.weight.copy_(weight)
    x = (Noise.of_seeds(range(2000))(8, 8, 1).mul(40).add(127.5).clamp(0, 255)).byte().numpy()
    score = (torch.from_numpy(x).float().flatten(1) / 127.5 - 1) @ weight[0]
    clear = (score.abs() > 0.1).numpy()
    x, labels = x[clear], (score > 0).long().numpy()[clear]
    splits = [Split({"x": x[a:b], "label": labels[a:b]}) for a, b in ((0, 900), (900, None))]
    yield model, Dataset("noise", splits[0].spec, ["minus", "plus"], *splits, "1" * 64, Report(len(x)))
    for name in ("planted", "rounds", "two-spaces"):
        del registry.MODELS[name]


def test_codes_that_are_the_label_need_few_labels_and_a_random_encoder_needs_many(planted):
    model, data = planted
    before = [parameter.clone() for parameter in model.parameters()]
    result = pretrain(model, [8], seeds=3, data=data, steps=30)
    assert result["planted", "frozen", 8].estimate.value > 0.99
    assert result["planted", "pretrained", 8].estimate.value > 0.97
    assert result["planted", "random", 8].estimate.value < 0.75
    gain = result.gain(result["planted", "pretrained", 8])
    assert gain.low > 0.1 and all(map(torch.equal, before, model.parameters()))
    assert not torch.is_grad_enabled() or model.encoder.weight.grad is None
    again = pretrain(model, [8], seeds=3, seed=3, data=data, steps=30)  # other labels, weights and batches
    for first, second in zip(result.accuracies, again.accuracies, strict=True):
        margin = np.hypot(first.estimate.half_width, second.estimate.half_width)
        assert abs(first.estimate.value - second.estimate.value) <= margin + 1e-9
        assert first.values != second.values or first.method == "frozen"
    same = pretrain(model, [8], seeds=2, seed=1, data=data, steps=30)
    assert [a.values for a in same.accuracies] == [a.values[1:] for a in result.accuracies]


def test_the_classifier_trains_the_encoder_and_nothing_else(planted):
    model, _ = planted
    image = torch.zeros(1, 1, 8, 8)
    assert [id(p) for p in model_parameters(model, image)] == [id(model.encoder.weight)]
    codes_ = torch.tensor([[0.0], [4.0]])
    probe = linear_probe(codes_, torch.tensor([0, 1]), torch.tensor([[1.0], [5.0]]), 2)
    assert probe.mean == 3 and probe.predict(codes_).tolist() == [0, 1]
    classifier = Classifier(model, probe, model_parameters(model, image))
    optimizer = classifier.stages()[0].phases[0].optimizer
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(model.encoder.weight), id(classifier.linear.weight), id(classifier.linear.bias)}
    x = Noise.of_seeds(range(5))(1, 8, 8)
    torch.testing.assert_close(classifier(x).softmax(1), probe.probabilities(model.encode(x)))  # before training


def test_labels_are_drawn_equally_from_all_classes_and_a_smaller_budget_is_part_of_a_larger_one():
    labels = np.random.default_rng(0).choice([-1, 0, 1, 2], 300, p=[0.2, 0.5, 0.2, 0.1])
    for seed in range(3):
        draws = {budget: draw_labelled(labels, budget, seed) for budget in (3, 7, 30, 60)}
        for budget, rows in draws.items():
            counts = np.bincount(labels[rows], minlength=3)
            assert len(set(rows)) == budget and (labels[rows] >= 0).all() and counts.max() - counts.min() <= 1
        for small, large in itertools.pairwise(draws.values()):
            assert set(small) < set(large)
    assert set(draw_labelled(labels, 30, 0)) != set(draw_labelled(labels, 30, 1))


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_intervals_over_seeds_cover_the_mean_in_95_of_100(count):
    draws = normal(4000, count, seed=count)
    inside = sum(e.low <= 0 <= e.high for e in map(over_seeds, draws.tolist()))
    assert 0.94 < inside / 4000 < 0.96


def test_stopped_after_two_seeds_it_keeps_their_result(planted):
    model, data = planted

    def stop_at(seeds):
        def progress(done, total, what):
            if done == 3 * seeds + 1:
                raise KeyboardInterrupt

        return progress

    options = {"labels": [4], "seeds": 5, "data": data, "steps": 2}
    with pytest.raises(Stopped) as stopped:
        pretrain(model, **options, progress=stop_at(2))
    assert [len(a.values) for a in stopped.value.result.accuracies] == [2, 2, 2]
    assert stopped.value.result.origin["stopped"] == "seed 2 of 5"
    with pytest.raises(KeyboardInterrupt) as ended:
        pretrain(model, **options, progress=stop_at(1))
    assert ended.type is KeyboardInterrupt


ENCODERS = [
    name for name in sorted(registry.BUILT_IN) if "encode" in registry.entry(name).verbs and name not in TEACHERS
]


@pytest.mark.parametrize("name", ENCODERS)
def test_every_model_that_encodes_can_begin_a_classifier_or_is_refused(name, tiny):
    model = make(name, {}, tiny).requires_grad_(False)  # as it is loaded
    image = next(in_order(tiny.train, 4))["x"]
    if card_of(model).space.encode == "invert":
        with pytest.raises(UsageError, match="iterative search"):
            check_trainable(name, model, image)
        return
    if card_of(model).space.kind == "tokens":
        with pytest.raises(UsageError, match="are tokens: names, without distances"):
            encoders(model)
        return
    check_trainable(name, model, image)
    again, random = rebuilt(model), rebuilt(model, seed=1)
    torch.testing.assert_close(again.eval().encode(image), model.encode(image))
    assert not torch.allclose(random.eval().encode(image), model.encode(image))
    names = {id(parameter): key for key, parameter in again.named_parameters()}
    reached = {names[id(parameter)] for parameter in model_parameters(again, image)}
    assert reached and not any("decoder" in key for key in reached)
    invertible = card_of(model).space.encode == "exact" and "log_prob" in verbs_of(model)
    assert (reached == set(names.values())) if invertible else (reached < set(names.values()))


def test_the_classifier_of_another_latent_space_is_trained_through_that_space(planted):
    model, data = registry.build("two-spaces"), planted[1]
    image = next(in_order(data.train.take(slice(4)), 4))["x"]
    for space, parts in ((None, {"encoder"}), ("w", {"encoder", "linear"})):
        reached = {id(parameter) for parameter in model_parameters(model, image, space)}
        names = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) in reached}
        assert names == parts
    codes_ = model.encode(image, space="w").detach()
    probe = linear_probe(codes_, torch.tensor([0, 1, 0, 1]), codes_, 2)
    classifier = Classifier(model, probe, model_parameters(model, image, "w"), "w")
    torch.testing.assert_close(classifier(image).softmax(1), probe.probabilities(codes_))
    result = pretrain(model, [4], seeds=2, data=data, steps=2, space="w")
    assert result.origin["space"] == "w"
    with pytest.raises(UsageError, match="space must be one of z, w, v, not 'u'"):
        pretrain(model, [4], data=data, space="u")


class Searches(Planted):
    @property
    def card(self):
        return Card(output=Output("image", (8, 8), 1), latents={"z": Space((1,), encode="invert")})


class Rounds(Planted):
    def encode(self, image, **condition):
        return (self.encoder(image.flatten(1)) > 0).float()


def test_what_cannot_be_pretrained_is_refused_with_the_fix(planted):
    model, data = planted
    fewest = int(np.bincount(data.train.labels).min())
    for labels, message in (
        ([1], "1 labels do not cover the 2 classes of noise. Take at least 2"),
        ([4, 2000], f"of each of 2 classes, and noise has {fewest} training images of .*Take at most {2 * fewest}"),
        ([], "whole numbers above 0"),
        ("10", "whole numbers above 0"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrain(model, labels, data=data)
    bare = [Split({"x": split["x"]}) for split in (data.train, data.held_out)]
    with pytest.raises(UsageError, match="needs labels of at least two classes, and noise has none"):
        pretrain(model, [4], data=replace(data, train=bare[0], held_out=bare[1], classes=[]))
    for kind, message in ((Searches, "iterative search"), (Rounds, "no gradient"), (Planted, "not built by rv.build")):
        odd = kind()
        odd.config = {"name": "rounds" if kind is Rounds else "planted", "kwargs": {}} if kind is not Planted else None
        with pytest.raises(UsageError, match=message):
            pretrain(odd, [4], data=data)
    with pytest.raises(UsageError, match="seeds must be at least 2"):
        pretrain(model, [4], seeds=1, data=data)


# The command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    path, labels = tmp_path_factory.mktemp("runs"), np.arange(160) % 2
    images = np.random.default_rng(0).integers(0, 128, (160, 8, 8, 1)) + 60 * labels[:, None, None, None]
    np.savez(path / "noise.npz", images=images.astype(np.uint8), labels=labels)
    for name, options in (("autoencoder", {}), ("vae", {"conditional": "label"})):
        options |= {"net": "dense", "hidden": (8,), "latent": 3, "batch_size": 8}
        rv.train(name, path / "noise.npz", out=path / name, steps=1, quiet=True, **options)
    return path


def test_the_verbs_write_maps_files_and_plots(runs, call, tmp_path, real_plots):
    both = (runs / "autoencoder", runs / "vae")
    code, out, err = call("codes", *both, "--with", "pca", "-n", 10, "-k", 3, "--json")
    result = json.loads(out)
    assert code == 0 and result["out"] == "codes.png" and origin_of("codes.png")["verb"] == "codes", err
    assert result["dimensions"] == {"autoencoder": 3, "vae": 3, PCA_OF_INPUTS: 3}
    assert set(result["scores"]["vae"]) == {"knn", "knn_in_map", "probe", "scatter"}
    code, out, err = call("codes", runs / "vae", "--out", "c.csv")
    assert code == 0 and "linear probe" in out and "k = 10" in out and (tmp_path / "c.csv").exists(), err
    code, out, err = call("pretrain", *both, "--labels", "2,4", "--seeds", 2, "--steps", 2, "--json")
    result = json.loads(out)
    assert code == 0 and origin_of("pretrain.png")["labels"] == [2, 4], err
    assert len(result["accuracies"]) == 2 * 2 * 3 and all(len(a["values"]) == 2 for a in result["accuracies"])
    assert {a["over_random"]["value"] for a in result["accuracies"] if a["method"] == "random"} == {0}
    code, out, err = call("pretrain", runs / "vae", "--labels", "4", "--seeds", 2, "--steps", 2, "--out", "p.pdf")
    assert code == 0 and "over random" in out and (tmp_path / "p.pdf").exists(), err


def test_the_verbs_name_the_flag_that_is_wrong(runs, call, tmp_path):
    for words, message in (
        (("codes",), "at least one run"),
        (("codes", runs / "vae", "--out", "c.xyz"), "Cannot write c.xyz"),
        (("codes", runs / "vae", "-n", 0), "-n must be at least 1"),
        (("pretrain", runs / "vae", "--labels", "ten"), "--labels takes whole numbers with commas between"),
        (
            ("pretrain", runs / "vae", "--labels", "4000"),
            "--labels: 4,000 labels are 2,000 images of each of 2 classes",
        ),
        (("codes", runs / "vae", "--space", "w"), "--space must be one of z, not 'w' (latent spaces of vae)"),
        (("pretrain", runs / "vae", "--space", "w"), "--space must be one of z, not 'w' (latent spaces of vae)"),
        (("pretrain", runs / "vae", "--out", "p.npz"), "Cannot write p.npz"),
    ):
        code, _, err = call(*words)
        assert code == 2 and message in err, (words, err)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ReverieError):
        rv.codes(runs / "missing")
