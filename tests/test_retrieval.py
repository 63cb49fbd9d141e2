"""Retrieval by codes: exact neighbours, hashes, and the index that is kept."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import reverie as rv
from reverie.codes import hashing, index, retrieval
from reverie.core.errors import ReverieError, UsageError
from reverie.probability.pca import PCA

TINY = {"steps": 3, "batch_size": 16, "quiet": True, "latent": 4, "net": "dense", "hidden": (16,)}


@pytest.fixture(scope="module")
def run(noisy_bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("retrieval") / "ae"
    rv.train("autoencoder", noisy_bars, out=out, **TINY)
    return out


@pytest.fixture(scope="module")
def codes(run, noisy_bars):
    """The codes of all bars, training rows first, in float64."""
    model, data = rv.load(run), rv.open_data(noisy_bars)
    rows = np.concatenate([data.train["x"], data.held_out["x"]])
    return rv.encode(model, rows).double().numpy(), len(data.train)


# Hashing


@pytest.mark.parametrize("bits", [3, 12, 70])
def test_hamming_ranks_equal_brute_force(bits):
    generator = torch.Generator().manual_seed(bits)
    base, queries = (torch.randn(n, bits, generator=generator) > 0 for n in (200, 9))
    packed = [np.packbits(x.numpy(), axis=1) for x in (queries, base)]
    distances, rows = hashing.hamming(*packed, bits, 20)
    truth = (queries[:, None] != base).sum(2)
    order = truth.sort(dim=1, stable=True)  # equal distances in the order of the rows
    assert np.array_equal(distances, order.values[:, :20]) and np.array_equal(rows, order.indices[:, :20])


def test_bits_against_medians_are_balanced_and_those_of_probabilities_are_above_a_half():
    codes = torch.randn(400, 6) * torch.arange(1, 7) + 3
    bits = np.unpackbits(hashing.fit(codes, 4, "median")(codes), axis=1, count=4)
    assert np.abs(bits.mean(0) - 0.5).max() <= 1 / 400
    probabilities = torch.tensor([[0.2, 0.51, 0.5], [0.9, 0.1, 1.0]])
    assert np.unpackbits(hashing.halves(3)(probabilities), axis=1, count=3).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_every_iteration_of_itq_lowers_its_error_and_the_rotation_stays_one():
    components = torch.randn(300, 5).double() * torch.tensor([5.0, 4, 3, 2, 1])
    start = torch.linalg.qr(torch.randn(5, 5).double()).Q

    def error(turn):
        turned = components @ turn
        return float((torch.where(turned > 0, 1.0, -1.0) - turned).square().sum())

    turns = [hashing.rotation(components, start, n) for n in range(12)]
    errors = [error(turn) for turn in turns]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(errors)) and errors[-1] < errors[0]
    assert torch.allclose(turns[-1].T @ turns[-1], torch.eye(5).double())


def test_itq_keeps_the_distances_of_principal_components():
    codes = torch.randn(100, 6)
    hash = hashing.fit(codes, 3, seed=2)
    components = (codes.double() - hash.mean) @ hash.axes
    pca = PCA.fit(codes.double(), 3)
    distances = lambda x: (x[:, None] - x).norm(dim=2)  # noqa: E731
    assert torch.allclose(distances(components), distances(pca(codes.double())))


def test_a_set_of_eight_images_is_searched_and_measured(run, tmp_path):
    images = np.random.default_rng(4).integers(0, 256, (8, 8, 8, 1), np.uint8)
    report = rv.search(run, "held-out:0", rv.open_data(images), n=3, bits=4).report
    assert report["codes"] == report["queries"] == 8 and report["recall"]["low"] <= report["recall"]["value"]


def test_more_bits_than_numbers_are_refused():
    with pytest.raises(UsageError, match="bits is at most the size of a code, here 4, "):
        hashing.fit(torch.randn(9, 4), 5)
    with pytest.raises(UsageError, match="number of images, here 3"):
        hashing.fit(torch.randn(3, 8), 5)


# Search


def test_neighbours_equal_brute_force_and_a_query_is_not_its_neighbour(run, codes):
    z, cut = codes
    result = rv.search(run, ["held-out:0", "train:3"], n=5)
    for query, row in enumerate((cut, 3)):
        distance = np.linalg.norm(z - z[row], axis=1)
        distance[row] = np.inf
        assert result.rows[query].tolist() == np.argsort(distance, kind="stable")[:5].tolist()
        assert result.distances[query] == pytest.approx(np.sort(distance)[:5], rel=1e-4)
    assert result.images.array.shape == (12, 8, 8, 1) and result.images.columns == 6
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosine = 1 - unit @ unit[cut]
    result = rv.search(run, "held-out:0", n=5, metric="cosine")
    assert result.rows[0].tolist() == np.argsort(cosine, kind="stable")[1:6].tolist()
    assert result.distances[0] == pytest.approx(np.sort(cosine)[1:6], abs=1e-6)


def test_recall_and_precision_are_those_of_counted_neighbours(run, codes, noisy_bars):
    (z, cut), data = codes, rv.open_data(noisy_bars)
    labels = np.concatenate([data.train.labels, data.held_out.labels])
    result = rv.search(run, "held-out:0", n=4, bits=3, hash="median")
    bits = np.unpackbits(hashing.fit(torch.from_numpy(z).float(), 3, "median")(torch.from_numpy(z).float()), axis=1)
    shares, hits = [], []
    for row in range(cut, len(z)):
        others = np.delete(np.arange(len(z)), row)
        near, hashed = (
            others[np.argsort(distance[others], kind="stable")[:4]]
            for distance in (np.linalg.norm(z - z[row], axis=1), (bits != bits[row]).sum(1))
        )
        shares.append(len({*near} & {*hashed}) / 4)
        hits.append((labels[hashed] == labels[row]).mean())
    assert result.report["recall"]["value"] == pytest.approx(np.mean(shares), abs=0.02)
    assert result.report["precision"]["value"] == pytest.approx(np.mean(hits), abs=0.02)
    assert result.report["queries"] == len(z) - cut and result.report["metric"] == "hamming"
    exact = rv.search(run, "held-out:0", n=4, recall=True).report
    assert exact["recall"]["value"] == 1 and exact["precision"] == exact["precision-exact"]


def test_an_image_file_of_another_size_is_a_query(run, tmp_path, call):
    from PIL import Image

    Image.fromarray(np.full((24, 24, 4), 90, np.uint8), "RGBA").save(tmp_path / "a.png")
    code, out, _ = call("search", run, "a.png", "-n", 3, "--json", "--out", "n.png")
    result = json.loads(out)
    assert code == 0 and len(result["results"]) == 1 and len(result["results"][0]) == 3
    code, out, _ = call("search", run, "a.png", "-n", 3, "--bits", 2, "--out", "n.npz")
    assert code == 0 and "recall@3" in out and "codes of 2 bits by hamming distance" in out
    with np.load(tmp_path / "n.npz") as arrays:
        assert arrays["rows"].shape == (1, 3)


def test_binary_codes_have_hamming_distances(run, noisy_bars, monkeypatch):
    model = rv.load(run)
    space = model.card.latents["z"]
    binary = replace(model.card, latents={"z": replace(space, kind="binary")})
    monkeypatch.setattr(type(model), "card", binary)
    model.loaded_from = None
    result = rv.search(model, "held-out:0", noisy_bars, n=3)
    assert result.report["metric"] == "hamming" and result.report["bits"] == 4
    for options in ({"bits": 3}, {"metric": "cosine"}, {"hash": "itq", "bits": 4}):
        with pytest.raises(UsageError, match=r"leave out|binary already"):
            rv.search(model, "held-out:0", noisy_bars, n=3, **options)


# The index


def test_an_index_is_built_once_and_refused_for_another_model_or_other_data(
    run, noisy_bars, tmp_path, monkeypatch, draw_bars
):
    file = tmp_path / "i.npz"
    first = rv.search(run, "held-out:0", n=3, index=file)
    with monkeypatch.context() as patch:
        patch.setattr(index, "encoded", None)  # nothing is encoded again
        assert rv.search(run, "held-out:0", n=3, index=file).rows.tolist() == first.rows.tolist()
    rv.train("autoencoder", noisy_bars, out=tmp_path / "b", **TINY | {"steps": 2})
    with pytest.raises(UsageError, match=r"was built by .*, checkpoint 3 .* not by these weights .*remove the file"):
        rv.search(tmp_path / "b", "held-out:0", n=3, index=file)
    images, _ = draw_bars(40, seed=5)
    np.savez(tmp_path / "other.npz", images=images)
    with pytest.raises(UsageError, match=r"is of the data .* and not of .*other.npz"):
        rv.search(run, "held-out:0", tmp_path / "other.npz", n=3, index=file)
    with pytest.raises(UsageError, match="no index of reverie"):
        rv.search(run, "held-out:0", n=3, index=tmp_path / "other.npz")
    columns = dict(np.load(file))
    for codes in (columns["codes"][1:], columns["codes"][:, 1:]):  # of other rows, and of another size
        np.savez(file, **columns | {"codes": codes})
        with pytest.raises(ReverieError, match="is damaged: codes are"):
            rv.search(run, "held-out:0", n=3, index=file)


def test_the_command_names_what_is_wrong_with_an_index_and_touches_nothing(run, noisy_bars, tmp_path, call):
    rv.train("autoencoder", noisy_bars, out=tmp_path / "b", **TINY | {"steps": 2})
    rv.search(run, "held-out:0", n=3, index=tmp_path / "i.npz")
    (tmp_path / "notes.npz").write_text("mine")
    kept = {name: (tmp_path / name).read_bytes() for name in ("i.npz", "notes.npz")}
    for source, index_file, message in (
        (tmp_path / "b", "i.npz", "--index i.npz was built by"),
        (run, "notes.npz", "--index notes.npz is no index of reverie. Nothing was touched. Name another file."),
        (run, "i.txt", "--index i.txt must end in .npz."),
        (run, "folder", "--index folder must end in .npz."),
    ):
        code, _, err = call("search", source, "held-out:0", "-n", 3, "--index", index_file)
        assert code == 2 and message in err, err
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())


def test_intervals_of_shares_stay_within_0_and_1():
    entry = retrieval._entry(torch.tensor([1.0] * 30 + [0.9]))
    assert entry["high"] == 1 and 0.9 < entry["low"] < entry["value"] < 1
    assert retrieval._entry(torch.tensor([0.0] * 30 + [0.1]))["low"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 240}, r"has 240 images; n=240 must be below"),
        ({"n": 0}, "n must be at least 1"),
        ({"metric": "manhattan"}, "metric must be euclidean or cosine"),
        ({"metric": "cosine", "bits": 2}, "leave out metric"),
        ({"hash": "itq"}, "needs bits"),
        ({"bits": 9}, "bits is at most the size of a code"),
        ({"bits": 0}, "bits must be at least 1"),
        ({"images": []}, "images holds no images"),
    ],
)
def test_wrong_use_of_search_is_refused_with_the_fix(run, arguments, message):
    with pytest.raises(UsageError, match=message):
        rv.search(run, **{"images": "held-out:0", "n": 3} | arguments)


def test_many_codes_need_faiss_or_exact(run, monkeypatch):
    monkeypatch.setattr(retrieval, "EXACT", 100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ReverieError, match=r"pip install 'reverie\[search\]'. Or take exact"):
        rv.search(run, "held-out:0", n=3)
    assert rv.search(run, "held-out:0", n=3, exact=True).report["exact"]


def test_the_graph_of_neighbours_finds_nearly_all_exact_ones(run, monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    exact = rv.search(run, "held-out:0", n=3)
    monkeypatch.setattr(retrieval, "EXACT", 100)
    for _ in range(2):  # built, and from its file
        result = rv.search(run, "held-out:0", n=3, index=tmp_path / "g.npz")
        assert result.report["recall"]["value"] > 0.95 and not result.report["exact"]
        assert result.rows.tolist() == exact.rows.tolist()
