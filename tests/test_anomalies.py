"""Anomalies: areas under curves, thresholds, scores of images, and what a run keeps of them."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import reverie as rv
from reverie.codes import detection
from reverie.codes.detector import Detector, available, error_map
from reverie.core.card import Card, Output, Space
from reverie.core.errors import ReverieError, UsageError
from reverie.media.origin import origin_of

RNG = np.random.default_rng(7)
PHI = NormalDist().cdf


# Curves


@pytest.mark.parametrize("d", [0.3, 1.0, 2.0])
def test_the_auc_of_two_gaussians_is_that_of_the_closed_form(d):
    estimate = detection.auc(RNG.normal(0, 1, 4000), RNG.normal(d, 1, 3000))
    assert abs(estimate.value - PHI(d / math.sqrt(2))) < 1.5 * estimate.half_width and estimate.half_width < 0.02


def test_the_auc_equals_counted_pairs_with_ties():
    normal, anomalous = RNG.integers(0, 6, 40), RNG.integers(2, 9, 30)
    pairs = [(a > b) + (a == b) / 2 for a in anomalous for b in normal]
    assert detection.auc(normal, anomalous).value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_delongs_interval_covers_the_true_area():
    truth, hits = PHI(1 / math.sqrt(2)), 0
    for _ in range(2000):
        estimate = detection.auc(RNG.normal(0, 1, 150), RNG.normal(1, 1, 120))
        hits += estimate.low <= truth <= estimate.high
    assert 0.93 <= hits / 2000 <= 0.97


def test_a_perfect_separation_has_an_interval_of_positive_width():
    estimate = detection.auc(np.arange(20.0), np.arange(30.0, 40.0))
    assert estimate.value == 1 and estimate.high == 1 and 0.6 < estimate.low < 0.8
    assert detection.auc(np.arange(30.0, 40.0), np.arange(20.0)).value == 0


def test_equal_scores_have_no_interval():
    for estimate, value in (
        (detection.auc(np.full(30, 2.0), np.full(10, 2.0)), 0.5),
        (detection.average_precision(np.full(30, 2.0), np.full(10, 2.0)), 0.25),
    ):
        assert estimate.value == value and math.isnan(estimate.low) and math.isnan(estimate.high)
        assert detection.interval_text(estimate) == f"{value:.3f} [no interval]"
    nearly = detection.auc(np.full(30, 2.0), np.append(np.full(9, 2.0), 3.0))
    assert nearly.low < nearly.value < nearly.high


def test_average_precision_is_the_sum_of_precision_times_gain_in_recall():
    normal, anomalous = RNG.integers(0, 8, 50), RNG.integers(3, 11, 20)
    area, recall = 0.0, 0.0
    for level in sorted({*normal, *anomalous}, reverse=True):
        hits, alarms = (anomalous >= level).sum(), (normal >= level).sum()
        area, recall = area + (hits / 20 - recall) * hits / (hits + alarms), hits / 20
    estimate = detection.average_precision(normal, anomalous)
    assert estimate.value == pytest.approx(area, abs=1e-12) and estimate.low < area < estimate.high
    assert detection.average_precision(np.zeros(30), np.zeros(10)).value == pytest.approx(0.25)  # the base rate


def test_curves_begin_at_the_highest_score_and_end_with_all_rows():
    rates = detection.curves(np.array([1.0, 2, 2, 5]), np.array([2.0, 6]))
    assert rates.false_alarms.tolist() == [0, 0.25, 0.75, 1] and rates.detected.tolist() == [0.5, 0.5, 1, 1]
    assert rates.precision.tolist() == [1, 0.5, 0.4, 2 / 6]


def test_a_new_normal_row_is_above_the_threshold_at_the_stated_rate():
    for rate, exact in ((0.05, 2 / 40), (0.3, 12 / 40)):  # ceil(40 (1 - rate)) of 39 rows are at or below it
        alarms = [1 - detection.threshold(RNG.random(39), rate) for _ in range(4000)]
        assert np.mean(alarms) == pytest.approx(exact, abs=4 * np.std(alarms) / math.sqrt(4000))
    with pytest.raises(UsageError, match=r"needs at least 99 normal rows.* there are 98"):
        detection.threshold(np.arange(98.0), 0.01)
    assert detection.threshold(np.arange(99.0), 0.01) == 98


# Scores


class Mean(nn.Module):
    """The code of an image is its mean; every pixel of a reconstruction is that."""

    def __init__(self, shape=(8, 8)):
        super().__init__()
        self.card = Card(output=Output("image", shape, 1), latents={"z": Space((1,), encode="exact")})
        self.shape = shape

    def encode(self, image):
        return image.flatten(1).mean(1, keepdim=True)

    def decode(self, latent):
        return latent.view(-1, 1, 1, 1).expand(-1, 1, *self.shape)


def shifted(z, seed):
    """Images whose mean is 128 + 16 z, all different."""
    rng = np.random.default_rng(seed)
    pattern = np.stack([rng.permutation(np.repeat([-1, 1], 32)) for _ in z]).reshape(-1, 8, 8)
    return (128 + np.round(16 * z)[:, None, None] + pattern).clip(0, 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def means():
    """A model of means, and the data that it was trained on."""
    data = rv.open_data(shifted(RNG.normal(0, 1, 2000), 1), held_out=0.5)
    model = Mean()
    model.run, model.data = {"data": data.provenance}, data
    return model


def test_planted_anomalies_are_found_with_the_auc_of_the_closed_form(means):
    for d in (1.0, 2.0):
        data = rv.open_data(shifted(RNG.normal(d, 1, 1000), 2))
        result = rv.anomalies(means, data, score="latent", n=3)
        above = PHI(d / math.sqrt(2))  # |x| > |y| where (x - y)(x + y) > 0: two independent normal factors
        estimate = result.detection["latent"]["auc"]
        assert abs(estimate.value - (above**2 + (1 - above) ** 2)) < 1.5 * estimate.half_width
        assert (result.normal["latent"] > result.threshold).mean() == pytest.approx(0.05, abs=0.002)
        order = np.argsort(-result.scores["latent"], kind="stable")
        assert result.images.array.shape == (3, 24, 8, 3) and result.images.labels[0].startswith(
            f"{result.scores['latent'][order[0]]:.3g}"
        )


def test_the_latent_score_is_the_mahalanobis_distance():
    mean, axes = torch.randn(3).double(), torch.randn(3, 3).double()
    codes = mean + torch.randn(5, 3).double() @ axes.T
    detector = Detector(None, ("latent",), 0, mean, torch.linalg.cholesky(axes @ axes.T))
    truth = [((c - mean) @ torch.linalg.inv(axes @ axes.T) @ (c - mean)).sqrt() for c in codes]
    assert torch.allclose(detector.distance(codes), torch.stack(truth))


def test_the_error_map_keeps_a_constant_and_the_sum_of_a_point():
    image = torch.zeros(2, 3, 56, 56)
    output = image.clone()
    output[0] += 0.5
    output[1, :, 20, 30] = 1
    maps = error_map(image, output)
    assert torch.allclose(maps[0], torch.full((56, 56), 0.25).double())
    assert maps[1].sum() == pytest.approx(1) and maps[1].argmax() == 20 * 56 + 30
    step = torch.exp(torch.tensor(-1 / 8))  # a standard deviation of two pixels
    assert maps[1, 21, 30] / maps[1, 20, 30] == pytest.approx(float(step), rel=1e-5)


@pytest.fixture(scope="module")
def run(noisy_bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("anomalies") / "vae"
    rv.train("vae", noisy_bars, out=out, steps=4, batch_size=16, quiet=True, latent=3, net="dense", hidden=(16,))
    return out


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """An .npz of noise: no bars."""
    path = tmp_path_factory.mktemp("noise") / "noise.npz"
    np.savez(path, images=RNG.integers(0, 256, (40, 8, 8, 1), np.uint8))
    return str(path)


def test_a_score_depends_on_no_other_image(run, noise):
    model = rv.load(run)
    detector = Detector.of(model, available(model))
    assert detector.names == ("reconstruction", "peak", "likelihood", "latent")
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    together = detector(x)
    for i in range(5):
        for name, values in detector(x[i : i + 1]).items():
            assert values[0] == pytest.approx(float(together[name][i]), rel=1e-5), name


def test_curves_thresholds_and_verdicts_from_the_command_line(run, noise, call, tmp_path):
    code, out, _ = call("anomalies", run, noise, "--false-alarms", 0.1, "--json")
    result = json.loads(out)
    assert code == 0 and result["number"] == 40 and len(result["images"]) == 40
    assert set(result["detection"]) == {"reconstruction", "peak", "likelihood", "latent"}
    assert origin_of(tmp_path / "anomalies.png")["verb"] == "anomalies"
    kept = json.loads((run / "anomalies.json").read_text())
    assert kept["thresholds"] == result["thresholds"] and kept["false_alarms"] == 0.1
    code, out, _ = call("anomalies", run, "held-out:0", "held-out:1", "--json", "--out", "two.png")
    single = json.loads(out)
    assert code == 0 and single["thresholds"] == kept["thresholds"] and not single["detection"]
    alone = rv.anomalies(run, "held-out:1")
    assert alone.scores["reconstruction"][0] == pytest.approx(single["images"][1]["reconstruction"], rel=1e-5)
    code, out, _ = call("anomalies", run, noise, "--false-alarms", 0.1, "--out", "x.npz")
    assert code == 0 and "AUC" in out and "40 images are anomalies" in out
    with np.load(tmp_path / "x.npz") as arrays:
        assert len(arrays["verdicts"]) == 40 and len(arrays["normal-latent"]) == kept["normal"]["rows"]
        pairs = arrays["latent"][:, None] > arrays["normal-latent"]
        assert result["detection"]["latent"]["auc"]["value"] == pytest.approx(pairs.mean(), abs=1e-3)


def test_the_thresholds_of_other_weights_are_refused_and_calibrated_anew(run, noisy_bars, tmp_path, call):
    other = tmp_path / "other"
    rv.train("vae", noisy_bars, out=other, steps=3, batch_size=16, quiet=True, latent=3, net="dense", hidden=(16,))
    rv.anomalies(other, false_alarms=0.1)
    rv.resume(other, steps=5, quiet=True)
    code, _, err = call("anomalies", other, "held-out:0")
    assert code == 2 and "calibrated for checkpoint 3" in err and "calibrates anew" in err
    code, out, _ = call("anomalies", other, "--false-alarms", 0.1)
    normal = rv.anomalies(other, false_alarms=0.1, keep=False).normal
    rows = len(normal["peak"])
    above = rows - math.ceil((rows + 1) * 0.9)
    assert all((values > np.sort(values)[-above - 1]).sum() == above for values in normal.values())
    lines = re.findall(r"^(\S+): threshold \S+: (\d+) of (\d+) normal images of .*, for a rate .* of 0\.1$", out, re.M)
    assert code == 0 and lines == [(name, str(above), str(rows)) for name in normal], out
    assert call("anomalies", other, "held-out:0")[0] == 0
    (other / "anomalies.json").write_text('{"verb": "anomalies"}')
    with pytest.raises(ReverieError, match=r"anomalies.json is no calibration of reverie, or damaged"):
        rv.anomalies(other, "held-out:0")


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"false_alarms": 5.0}, "false_alarms cannot be 5"),
        ({"normal": {}}, "it lacks normal.data"),
        ({"thresholds": {"peak": math.nan}}, "thresholds.peak cannot be nan"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_damaged_thresholds_are_refused_from_the_command_line(run, tmp_path, call, entry, why):
    shutil.copytree(run, tmp_path / "copy")
    rv.anomalies(tmp_path / "copy", false_alarms=0.1)
    file = tmp_path / "copy" / "anomalies.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    code, _, err = call("anomalies", "copy", "held-out:0")
    assert code == 1 and "anomalies.json is no calibration of reverie, or damaged" in err and why in err, err


def test_data_is_not_compared_with_itself(run, noisy_bars):
    result = rv.anomalies(run, noisy_bars, false_alarms=0.1, keep=False)
    assert len(result) == 240 and not result.detection and result.normal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "held-out:0", "score": "entropy"}, "score must be one of reconstruction, peak"),
        ({"data": "held-out:0", "false_alarms": 0.001, "keep": False}, "needs at least 999 normal rows"),
        ({"data": "held-out:0", "false_alarms": 2}, "false_alarms must be"),
        ({"data": []}, "data holds no images"),
        ({"data": "held-out:0", "n": 0}, "n must be"),
        ({"data": "nowhere"}, 'There is no data called "nowhere"'),
    ],
)
def test_wrong_use_of_anomalies_is_refused_with_the_fix(run, arguments, message):
    with pytest.raises(UsageError, match=message):
        rv.anomalies(run, **{"false_alarms": 0.1} | arguments)


def test_a_folder_without_images_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReverieError, match="empty"):
        rv.anomalies(run, tmp_path / "empty", false_alarms=0.1)


def test_a_folder_of_few_images_is_scored_one_by_one(run, tmp_path):
    (tmp_path / "few").mkdir()
    for shade in (10, 200):
        Image.new("L", (8, 8), shade).save(tmp_path / "few" / f"{shade}.png")
    result = rv.anomalies(run, tmp_path / "few", false_alarms=0.1)
    assert [Path(name).name for name in result.names] == ["10.png", "200.png"] and not result.detection


def test_a_model_that_only_samples_scores_no_anomalies():
    with pytest.raises(UsageError, match="cannot score anomalies"):
        rv.anomalies(rv.build("gan", shape=8, channels=1), "held-out:0")
