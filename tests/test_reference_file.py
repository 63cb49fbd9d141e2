"""Statistics from a file in place of real images: scores are those of the images, or refused with the reason."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reverie as rv
from reverie.core.errors import ReverieError, UsageError
from reverie.evaluation import features as seeing
from reverie.evaluation.features import BACKBONES, Kind, backbone
from reverie.evaluation.statistics_file import read_reference

D = 12  # features of the network in Inception's place


class Projection(torch.nn.Module):
    """D features of an 8x8 image: cheap, and as correlated as those of a network."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.nn.Parameter(torch.randn(D, 192, generator=generator) / 8, requires_grad=False)

    def forward(self, x):
        return (x.flatten(1) @ self.weight.T).relu() + 0.1 * x.flatten(1)[:, :D]


@pytest.fixture(autouse=True)
def inception(monkeypatch):
    """A small network in Inception's place."""
    monkeypatch.setitem(
        BACKBONES, "inception", Kind(D, 8, "tf1-bilinear", lambda x: x / 128 - 1, lambda *_: Projection())
    )
    real = seeing.weights.load
    weights = {"weight": torch.ones(1)}
    monkeypatch.setattr(seeing.weights, "load", lambda name, *rest: weights if name == "inception" else real(name))
    return weights


def noise(count: int, seed: int, low: int = 0, size: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, 256, (count, size, size, 3), dtype=np.uint8)


FAKE, REAL = noise(80, 1, low=20), noise(100, 2)


def features_of(images: np.ndarray) -> np.ndarray:
    return backbone("inception", device="cpu")(images).numpy()


def statistics(images: np.ndarray = REAL) -> dict[str, np.ndarray]:
    """What pytorch-fid saves."""
    values = features_of(images).astype(np.float64)
    return {"mu": values.mean(0), "sigma": np.cov(values, rowvar=False)}


@pytest.fixture
def stats(tmp_path) -> Path:
    np.savez_compressed(tmp_path / "stats.npz", **statistics())
    return tmp_path / "stats.npz"


def against(path, metrics="fid", **options):
    return rv.evaluate(fake=FAKE, reference=path, metrics=metrics, device="cpu", **options)


# Scores


def test_a_file_gives_the_distance_of_pytorch_fids_formula(stats):
    a, b = statistics(FAKE), statistics()
    root = scipy.linalg.sqrtm(a["sigma"] @ b["sigma"]).real
    gap = a["mu"] - b["mu"]
    expected = gap @ gap + np.trace(a["sigma"]) + np.trace(b["sigma"]) - 2 * np.trace(root)
    score = against(stats)["fid"]
    assert score.value == pytest.approx(expected, rel=1e-6) and score.low < score.value < score.high
    assert score.floor is None and score.passport["floor"].startswith("none")


@pytest.mark.parametrize("name, count", [("inception", 100), ("small", 140)])
def test_our_own_file_gives_the_scores_and_the_passport_of_the_images(name, count, tmp_path):
    fake, real, path = noise(count, 3, low=20), noise(count, 4), tmp_path / "own.npz"
    options = {"metrics": ["frechet", "frechet-infinity"], "backbone": name, "device": "cpu"}
    images = rv.evaluate(fake=fake, real=real, save_stats=path, **options)
    again = rv.evaluate(fake=fake, reference=path, **options | {"backbone": None})
    for one, two in zip(images.scores, again.scores, strict=True):
        assert two.metric == one.metric and two.value == pytest.approx(one.value, rel=1e-6)
        entry = dict(two.passport["reference"])
        stated = entry.pop("statistics")
        assert entry == one.passport["reference"] and stated["backbone"] == one.passport["backbone"]
        assert stated["format"] == "reverie" and len(stated["sha256"]) == 64
    assert not again.remarks or name == "small"  # nothing is left open


def test_what_is_saved_is_read_by_others(tmp_path):
    scores = rv.evaluate(real=REAL, save_stats=tmp_path / "own.npz", device="cpu")
    assert not scores.scores and "100 images" in scores.remarks[0]
    with np.load(tmp_path / "own.npz", allow_pickle=False) as file:
        for name, expected in statistics().items():
            assert file[name].dtype == np.float64 and np.allclose(file[name], expected, rtol=1e-6, atol=1e-9)
        assert json.loads(str(file["reverie"]))["statistics"]["reference"]["n"] == 100


def test_what_a_file_leaves_open_is_in_the_passport_and_beside_the_score(stats):
    scores = against(stats, resize="bilinear")
    reference = scores["fid-bilinear"].passport["reference"]
    assert reference["data"] == str(stats) and reference["n"] is reference["size"] is reference["fingerprint"] is None
    assert set(reference["statistics"]["backbone"].values()) == {None}
    assert "does not state its network, resizing, number of images, size of images" in scores.remarks[0]
    assert "resized by bilinear" in scores.remarks[0]
    json.dumps(scores.summary(), allow_nan=False)


def test_a_reference_batch_of_adm_has_statistics_for_fid_and_images_for_kid(tmp_path):
    path = tmp_path / "VIRTUAL_reference.npz"
    np.savez(path, **statistics(), mu_s=np.zeros(7), sigma_s=np.eye(7), arr_0=REAL[:60])
    scores = against(path, ["fid", "kid", "prdc"])
    assert scores["fid"].value == pytest.approx(rv.evaluate(fake=FAKE, real=REAL, metrics="fid")["fid"].value, rel=1e-6)
    images = rv.evaluate(fake=FAKE, real=REAL[:60], metrics="kid")["kid"]
    assert scores["kid"].value == pytest.approx(images.value, rel=1e-6)
    assert scores["kid"].passport["reference"]["images"]["n"] == 60
    assert scores["fid"].passport["reference"]["statistics"]["backbone"]["resize"] == "tf1-bilinear"
    assert "does not state its number of images." in scores.remarks[0]
    with pytest.raises(UsageError, match="16x16, the generated ones 8x8"):
        np.savez(path, **statistics(), arr_0=noise(60, 3, size=16))
        against(path, "kid")
    assert any("8 pixels a side, those of the reference 16" in line for line in against(path).remarks)


def test_a_file_of_features_gives_every_score_of_the_images(tmp_path):
    np.savez(tmp_path / "real_clean_custom_na_kid.npz", feats=features_of(REAL))
    torch.save(torch.from_numpy(features_of(REAL)), tmp_path / "real-inception-v3-compat-features-2048.pt")
    metrics = ["fid", "kid", "prdc"]
    fake = noise(100, 6, low=20)  # as many as real ones: prdc takes as many of both
    images = rv.evaluate(fake=fake, real=REAL, metrics=metrics, device="cpu")
    for path in tmp_path.iterdir():
        for score in rv.evaluate(fake=fake, reference=path, metrics=metrics, device="cpu").scores:
            assert score.value == pytest.approx(images[score.metric].value, rel=1e-5), path.name
            assert score.floor is not None and score.passport["reference"]["n"] == 100


def test_a_name_of_clean_fid_suggests_its_resize_and_size(tmp_path):
    path = tmp_path / "cats_clean_train_32.npz"
    np.savez(path, **statistics())
    remarks = against(path).remarks
    assert "resize='bicubic-antialias'" in remarks[1] and "those of the reference 32" in remarks[2]
    assert not any("by its name" in line for line in against(path, resize="bicubic-antialias").remarks[1:])


def test_a_cache_of_torch_fidelity_is_read_without_running_code(tmp_path, stats):
    mean = statistics() | {"mu": statistics()["mu"].astype(np.float32)}
    torch.save(mean, tmp_path / "cifar10-train-inception-v3-compat-stat-fid-2048.pt")
    score = against(tmp_path / "cifar10-train-inception-v3-compat-stat-fid-2048.pt")["fid"]
    assert score.value == pytest.approx(against(stats)["fid"].value, rel=1e-5)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["npz", "pkl", "pt"])
def test_a_pickle_is_refused_and_never_opened(ending, tmp_path):
    path, trap = tmp_path / f"stats.{ending}", {"mu": np.zeros(D), "sigma": Trap(tmp_path / "sprung")}
    if ending == "pt":
        torch.save(trap, path)
    elif ending == "npz":
        np.savez(path, mu=np.zeros(D), sigma=np.array([Trap(tmp_path / "sprung")], object))
    else:
        path.write_bytes(pickle.dumps(trap))
    with pytest.raises(ReverieError, match=r"run code|only arrays"):
        read_reference(path)
    assert not (tmp_path / "sprung").exists()


# Refusals


@pytest.mark.parametrize("metric", ["is", "is-inception", "kid", "memorisation", "modes", "nll", "prdc"])
def test_scores_that_need_images_or_features_are_refused(metric, stats):
    scores = against(stats, metric)
    assert not scores.scores and "mean and a covariance" in scores.refused[0].reason
    assert "Use fid" in scores.refused[0].instead


def test_other_networks_weights_and_resizes_are_refused(stats, tmp_path, inception):
    assert "taken as of inception, not of small" in against(stats, "frechet", backbone="small").refused[0].reason
    rv.evaluate(real=REAL, save_stats=tmp_path / "own.npz")
    resize = against(tmp_path / "own.npz", resize="bilinear").refused[0]
    assert "distance would include" in resize.reason and "tf1-bilinear" in resize.instead
    inception["weight"] += 1
    assert "other weights" in against(tmp_path / "own.npz").refused[0].reason
    big = noise(200, 5)
    rv.evaluate(real=big, save_stats=tmp_path / "small.npz", backbone="small")
    assert "of small, not of inception" in against(tmp_path / "small.npz").refused[0].reason
    assert "per class" in against(stats, per_class=True).refused[0].metric


@pytest.mark.parametrize(
    "dimension, what", [(64, "--dims 64"), (768, "auxiliary"), (2023, "sFID"), (1024, "DINOv2"), (7, "another network")]
)
def test_features_of_other_networks_are_refused_by_name(dimension, what, tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.zeros(dimension), sigma=np.eye(dimension))
    with pytest.raises(UsageError, match=f"{dimension} features: .*{what}"):
        read_reference(tmp_path / "s.npz")


def test_a_covariance_of_few_images_is_known_by_its_rank(tmp_path):
    np.savez(tmp_path / "few.npz", **statistics(REAL[:6]))
    assert "rank 5 of 12, as if of 6 images" in against(tmp_path / "few.npz").remarks[1]


ASYMMETRIC, NEGATIVE = np.eye(D), np.eye(D)
ASYMMETRIC[0, 1], NEGATIVE[0, 0] = 0.1, -0.1


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"mu": np.full(D, np.nan), "sigma": np.eye(D)}, "mu has 12 values not finite"),
        ({"mu": np.r_[np.inf, np.zeros(D - 1)], "sigma": np.eye(D)}, "mu has 1 value not finite"),
        ({"mu": np.full(D, 1e200), "sigma": np.eye(D)}, r"mu has 12 values of 1e\+100 and more"),
        ({"mu": np.zeros(D), "sigma": np.zeros((D, D))}, "no images that differ"),
        ({"mu": np.zeros(D), "sigma": np.full((D, D), np.inf)}, "sigma has 144 values"),
        ({"mu": np.zeros(D), "sigma": 1e300 * np.eye(D)}, "sigma has 12 values"),
        ({"mu": np.zeros(D), "sigma": ASYMMETRIC}, "not symmetric"),
        ({"mu": np.zeros(D), "sigma": NEGATIVE}, "negative eigenvalues"),
        ({"mu": np.zeros(D), "sigma": np.eye(D)[0]}, r"sigma has the shape \(12,\)"),
        ({"mu": np.zeros(D), "sigma": np.ones((D, D, 1))}, "must be"),
        ({"mu": np.zeros((1, D)), "sigma": np.eye(D)}, "mu has the shape"),
        ({"mu": np.zeros(D, complex), "sigma": np.eye(D)}, "complex128"),
        ({"mu": np.zeros(D, "S3"), "sigma": np.eye(D)}, r"\|S3"),
        ({"mu": np.zeros(()), "sigma": np.eye(D)}, "mu has the shape"),
        ({"mu": np.zeros(D)}, "has no statistics"),
        ({"images": REAL}, "has no statistics"),
        ({"feats": np.zeros((1, D), np.float32)}, "of 1 images"),
        ({"feats": np.full((3, D), np.nan, np.float32)}, "not finite"),
        ({"mu": np.zeros(D), "sigma": np.eye(D), "reverie": np.asarray("{}")}, "Write it again"),
        ({"mu": np.zeros(D), "sigma": np.eye(D), "reverie": np.asarray("[" * 9999)}, "Write it again"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused_with_the_reason(arrays, message, tmp_path):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ReverieError, match=message):
        read_reference(tmp_path / "s.npz")


def npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize("mu", [npy((1 << 50,)), npy((-12,)), npy((D, 1 << 60)), b"", b"\x93NUMPY\x02\x00"])
def test_a_header_that_claims_what_the_file_does_not_hold_is_refused_before_memory_is_taken(mu, tmp_path):
    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", mu)
        archive.writestr("sigma.npy", npy((D, D), bytes(8 * D * D)))
    tracemalloc.start()
    with pytest.raises(ReverieError, match=r"mu|features"):
        read_reference(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_compressed_bomb_is_refused(tmp_path):
    path = tmp_path / "s.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("feats.npy", "w") as stream:
        stream.write(npy((1 << 20, D)))
        for _ in range(D):
            stream.write(bytes(1 << 23))
    with pytest.raises(ReverieError, match="compressed as no features are"):
        read_reference(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["npz", "pt"]), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1)
)
def test_a_damaged_file_is_a_clear_error_or_still_statistics(kind, changes, tmp_path):
    path, stream = tmp_path / f"damaged.{kind}", io.BytesIO()
    arrays = {"mu": np.zeros(D), "sigma": np.eye(D)}
    np.savez(stream, **arrays) if kind == "npz" else torch.save(arrays, stream)
    data = bytearray(stream.getvalue())
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    path.write_bytes(bytes(data))
    try:
        assert read_reference(path).gaussian.mean.isfinite().all()
    except ReverieError as error:
        assert str(path) in str(error)


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory, home):
    folder = tmp_path_factory.mktemp("reference")
    np.savez(folder / "data.npz", images=noise(900, 7))
    options = {"steps": 2, "batch_size": 16, "net": "dense", "hidden": (8,), "latent": 2, "quiet": True}
    return rv.train("vae", folder / "data.npz", out=folder / "run", **options).path


def test_a_run_is_scored_against_a_file_and_its_held_out_images_are_the_floor(run, stats, tmp_path, call):
    code, out, err = call("evaluate", run, "--reference", stats, "-n", 60, "--out", tmp_path / "e")
    assert code == 0, err
    assert "fid" in out and f"against {stats} (mean and covariance, as of pytorch-fid)" in out.replace("\n", " ")
    assert "does not state its network" in out
    kept = json.loads((tmp_path / "e" / "scores.json").read_text())["scores"]
    assert [score["metric"] for score in kept] == ["fid"] and (tmp_path / "e" / "scores.png").is_file()
    passport = kept[0]["passport"]
    assert kept[0]["floor"] > 0 and "held-out images of the run's data" in passport["floor"]
    assert passport["reference"]["floor_of"]["data"].endswith("data.npz")


def test_statistics_of_a_run_are_written_beside_its_scores_and_score_it_again(run, tmp_path, call):
    path = tmp_path / "own.npz"
    first = ("evaluate", run, "--metrics", "fid", "-n", 60, "--out", tmp_path / "e", "--json")
    code, one, err = call(*first, "--save-stats", path)
    assert code == 0, err
    code, two, err = call(*first, "--reference", path)
    assert code == 0, err
    scores = [json.loads(text)["scores"][0] for text in (one, two)]
    assert scores[1]["value"] == pytest.approx(scores[0]["value"], rel=1e-6)
    assert scores[1]["floor"] == pytest.approx(scores[0]["floor"], rel=1e-6)
    assert scores[1]["passport"]["reference"]["fingerprint"] == scores[0]["passport"]["reference"]["fingerprint"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--fake", "f.npz", "--real", "f.npz", "--reference", "s.npz"), "two references"),
        (("--fake", "f.npz", "--reference", "s.npz", "--save-stats", "o.npz"), "statistics already"),
        (("--fake", "f.npz", "--reference", "none.npz"), "no file none.npz"),
        (("--fake", "f.npz", "--reference", "."), "is a folder"),
        (("--fake", "f.npz", "--reference", "f.npz"), "has no statistics"),
        (("--fake", "f.npz", "--real", "s.npz"), "--reference s.npz"),
        (("--real", "f.npz"), "Name a RUN"),
        (("--real", "f.npz", "--save-stats", "o.npz", "--metrics", "fid"), "Scores need a RUN"),
        (("--real", "few.npz", "--save-stats", "o.npz"), "10 images are too few"),
        (("--real", "f.npz", "--save-stats", "o.png"), "is an .npz"),
        (("--real", "f.npz", "--save-stats", "."), "is an .npz, and . is a folder. Write statistics.npz"),
        (("--real", "f.npz", "--save-stats", "s.npz"), "did not write it"),
        (("--real", "f.npz", "--save-stats", "f.npz"), "is an input"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(flags, message, stats, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stats.rename(tmp_path / "s.npz")
    np.savez("f.npz", images=FAKE)
    np.savez("few.npz", images=FAKE[:10])
    code, _, err = call("evaluate", *flags)
    assert code == 2 and message in err and "Traceback" not in err
    assert not Path("o.npz").exists() and not Path("evaluation").exists()
