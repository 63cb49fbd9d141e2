"""Scores, from images to passport: planted faults are caught, invalid numbers refused, batches do not matter."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import reverie as rv
from processes import reverie_on_ranks
from random_networks import random_inception
from reverie.core.card import Card, Likelihood
from reverie.core.errors import UsageError
from reverie.data.types import Split
from reverie.evaluation import features as seeing
from reverie.evaluation.base import Evaluation, Sets
from reverie.evaluation.features import BACKBONES, Features, backbone, features
from reverie.evaluation.metrics import METRICS, measure
from reverie.evaluation.passport import Refusal, Score, Scores
from reverie.evaluation.resize import RESIZES, resize
from reverie.evaluation.statistics import Moments
from reverie.inference.rows import spread
from reverie.nets.inception import BLOCKS, Inception


def some(split: Split, rows) -> Split:
    numbers = np.arange(len(split))[rows]
    return split.take(np.array(numbers))


@pytest.fixture(scope="module")
def fashion(home):
    """Real images in four disjoint parts: training, held out, and what an honest and perfect generator would draw."""
    data = rv.data("fashion")
    return {
        "train": some(data.train, slice(0, 1500)),
        "held_out": some(data.held_out, slice(0, 500)),
        "perfect": some(data.held_out, slice(500, 1000)),
        "classes": data.classes,
    }


def scores_of(fashion, fake: Split, metrics: list[str], **changes) -> tuple[dict[str, Score], Evaluation]:
    sets = Sets(
        fake=fake,
        reference=fashion["train"],
        train=fashion["train"],
        held_out=fashion["held_out"],
        classes=fashion["classes"],
        of_fake={"n": len(fake)},
        of_reference={"data": "fashion", "n": len(fashion["train"])},
    )
    evaluation = Evaluation(replace(sets, **changes), device="cpu")
    result = measure(evaluation, metrics)
    assert not result.refused, result.refused
    return {score.metric: score for score in result.scores}, evaluation


ALL = ["frechet", "kernel", "prdc", "modes", "memorisation"]


@pytest.fixture(scope="module")
def honest(fashion):
    return scores_of(fashion, fashion["perfect"], ALL)


def blurred(split: Split) -> Split:
    x = torch.from_numpy(np.array(split["x"])).permute(0, 3, 1, 2).float()
    x = F.avg_pool2d(x, 3, 1, 1).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return Split({"x": x, "label": split.labels}, split.names)


def test_unseen_real_images_raise_no_alarm(honest):
    scores, evaluation = honest
    assert scores["frechet-small"].value < 2 * scores["frechet-small"].floor
    assert scores["kernel-small"].low < 0.01 and abs(scores["kernel-small"].floor) < 0.01
    for metric in ("precision", "recall", "density", "coverage"):
        assert scores[f"{metric}-small"].value > 0.9 * scores[f"{metric}-small"].floor
    assert scores["class-coverage"].value == 1
    assert any(remark.startswith("No evidence of copying") for remark in evaluation.remarks)


def test_a_generator_that_misses_two_classes_is_caught(fashion, honest):
    kept = ~np.isin(fashion["perfect"].labels, [1, 8])
    scores, evaluation = scores_of(fashion, some(fashion["perfect"], kept), ALL)
    good, _ = honest
    assert scores["class-coverage"].value == 0.8
    assert "Missing classes: Trouser, Bag." in evaluation.remarks
    assert scores["class-kl"].value > 5 * good["class-kl"].value
    assert scores["frechet-small"].value > 2 * good["frechet-small"].value
    assert scores["kernel-small"].low > good["kernel-small"].high
    assert scores["recall-small"].value < good["recall-small"].value - 0.05
    assert scores["coverage-small"].value < good["coverage-small"].value - 0.05
    assert scores["precision-small"].value > good["precision-small"].value - 0.05  # what it draws looks real


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_generator_that_copies_training_images_is_caught_though_its_distances_are_good(fashion, honest, share):
    copied = int(share * 500)
    images = np.concatenate([fashion["train"]["x"][:copied], fashion["perfect"]["x"][copied:500]])
    fake = Split({"x": images})
    scores, evaluation = scores_of(fashion, fake, ["frechet", "memorisation"])
    good, _ = honest
    assert scores["frechet-small"].value < 1.1 * good["frechet-small"].value
    assert any(remark.startswith("Evidence of copying") for remark in evaluation.remarks)
    assert scores["copying-share"].low > scores["copying-share"].floor
    assert scores["authenticity"].value < scores["authenticity"].floor
    pair = evaluation.images["pairs"][0]
    assert pair.distance == 0 and (fake["x"][pair.fake] == fashion["train"]["x"][pair.train]).all()


def test_blur_is_caught(fashion, honest):
    scores, _ = scores_of(fashion, blurred(fashion["perfect"]), ALL[:3])
    good, _ = honest
    assert scores["frechet-small"].value > 3 * good["frechet-small"].value
    assert scores["kernel-small"].low > good["kernel-small"].high
    assert scores["precision-small"].value < good["precision-small"].value - 0.1
    assert scores["density-small"].value < good["density-small"].value - 0.1


def test_a_shift_of_colour_is_caught(home):
    data = rv.data("emoji", size=32)
    real, others = some(data.train, slice(0, None, 2)), some(data.train, slice(1, None, 2))
    shifted = np.clip(others["x"].astype(int) + [30, 0, -30], 0, 255).astype(np.uint8)
    result = []
    for fake in (others, others | {"x": shifted}):
        sets = Sets(fake, real, real, data.held_out, data.classes, {}, {"data": "emoji"})
        result.append({score.metric: score for score in measure(Evaluation(sets, device="cpu"), ALL[:3]).scores})
    plain, off = result
    assert off["frechet-small"].value > 2 * plain["frechet-small"].value
    assert off["kernel-small"].low > plain["kernel-small"].high
    assert off["precision-small"].value < plain["precision-small"].value


def test_every_score_has_interval_floor_and_a_whole_passport(honest):
    scores, _ = honest
    for score in scores.values():
        assert {"metric", "better", "fake", "reference", "backbone", "interval", "floor", "seed", "reverie"} <= set(
            score.passport
        )
        assert score.floor is not None and score.passport["metric"] == score.metric
        assert set(score.passport["backbone"]) == {"name", "sha256", "dimension", "resize", "precision"}
        if score.low is not None:
            assert score.low <= score.value <= score.high
    json.dumps([vars(score) for score in scores.values()], allow_nan=False)


# Refusals


@pytest.mark.parametrize(
    "fake, metric, reason, instead",
    [
        (lambda f: f["perfect"], "fid", "500 generated images are too few for FID", "kid"),
        (lambda f: some(f["perfect"], slice(0, 100)), "frechet", "100 generated images are too few", "kernel-small"),
        (lambda f: some(f["perfect"], slice(0, 20)), "kernel", "20 generated", "sample more"),
        (lambda f: some(f["perfect"], slice(0, 20)), "prdc", "20 generated", "sample more"),
        (lambda f: f["perfect"], "is", "grey", "is-probe"),
        (lambda f: f["perfect"], "nll", "needs the model", "Evaluate a RUN"),
        (lambda f: f["perfect"], "reconstruction", "needs the model", "Evaluate a RUN"),
        (lambda f: f["perfect"], "stacked-modes", "not stacked-mnist", "modes"),
        (lambda f: some(f["perfect"], slice(0, 90)), "modes", "90 images of 10 classes", "at least 100"),
    ],
)
def test_a_number_whose_protocol_is_not_met_is_refused_with_reason_and_alternative(
    fashion, fake, metric, reason, instead, monkeypatch
):
    monkeypatch.setattr(
        seeing.weights, "load", lambda *_: pytest.fail("fetched weights for a number that cannot be")
    ) if (metric in ("fid", "is")) else None
    split = fake(fashion)
    sets = Sets(
        split, fashion["train"], fashion["train"], fashion["held_out"], fashion["classes"], {}, {"data": "fashion"}
    )
    result = measure(Evaluation(sets, device="cpu"), [metric])
    assert not result.scores and len(result.refused) == 1
    assert reason in result.refused[0].reason and instead in result.refused[0].instead
    with pytest.raises(KeyError, match="refused"):
        result[metric]


def test_grey_against_colour_is_refused(fashion):
    coloured = Split({"x": fashion["perfect"]["x"].repeat(3, 3)})
    sets = Sets(coloured, fashion["train"], fashion["train"], fashion["held_out"], fashion["classes"], {}, {"data": ""})
    result = measure(Evaluation(sets, device="cpu"), ["frechet", "kernel", "prdc", "memorisation"])
    assert not result.scores and all("grey" in refusal.reason for refusal in result.refused)


def test_a_class_with_too_few_images_is_refused_and_one_with_enough_is_scored(fashion):
    labels = np.where(np.arange(500) < 260, 0, 1)
    fake = fashion["perfect"] | {"label": labels}
    many = fashion["train"] | {"label": np.arange(1500) % 5}
    sets = Sets(fake, many, many, fashion["held_out"], ["a", "b", "c", "d", "e"], {"n": 500}, {"data": "", "n": 1500})
    result = measure(Evaluation(sets, device="cpu"), ["kernel"], per_class=True)
    named = {score.metric: score for score in result.scores}
    assert set(named) == {"kernel-small", "kernel-small[a]", "kernel-small[b]"}
    assert named["kernel-small[a]"].passport["fake"] == {"n": 260, "class": "a"}
    assert [refusal.metric for refusal in result.refused] == ["kernel[c]", "kernel[d]", "kernel[e]"]
    unlabelled = measure(Evaluation(replace(sets, fake=fake | {"label": np.full(500, -1)})), ["kernel"], per_class=True)
    assert "no labels" in unlabelled.refused[0].reason and "modes" in unlabelled.refused[0].instead


def test_the_score_of_one_class_is_that_of_its_images_alone(fashion):
    labels = np.where(np.arange(500) < 260, 0, 1)
    fake = fashion["perfect"] | {"label": labels}
    real = fashion["train"] | {"label": np.arange(1500) % 2}
    sets = Sets(fake, real, real, fashion["held_out"], ["a", "b"], {}, {"data": ""})
    together = measure(Evaluation(sets, device="cpu"), ["frechet"], per_class=True)
    alone = Sets(some(fake, labels == 0), some(real, real.labels == 0), real, fashion["held_out"], [], {}, {"data": ""})
    assert together["frechet-small[a]"].value == pytest.approx(
        measure(Evaluation(alone, device="cpu"), ["frechet"])["frechet-small"].value, rel=1e-9
    )


# Likelihood


class EvenDice(torch.nn.Module):
    """Every image of 8-bit pixels is as likely as any other."""

    card = Card(likelihoods=(Likelihood("log_prob", "exact", "8-bit"),))

    def log_prob(self, batch):
        return torch.full((len(batch["x"]),), -batch["x"][0].numel() * math.log(256))


def test_even_dice_cost_8_bits_a_dimension_and_an_exact_likelihood_is_not_called_a_bound(fashion):
    sets = Sets(
        *(fashion[k] for k in ("perfect", "train", "train", "held_out", "classes")), {}, {"data": ""}, EvenDice()
    )
    result = measure(Evaluation(sets, device="cpu"), ["nll"])
    assert [score.metric for score in result.scores] == ["nll", "bits-per-dim"] and not result.refused
    assert result["bits-per-dim"].value == pytest.approx(8, abs=1e-6)
    assert result["nll"].value == pytest.approx(784 * math.log(256), rel=1e-6)
    assert result["nll"].passport["exact"] and result["nll"].passport["dequantisation"] == "none"
    refused = measure(
        Evaluation(replace(sets, of_reference={"data": "", "held_out_trained_on": True}), device="cpu"), ["nll"]
    ).refused
    assert "trained on" in refused[0].reason


# Features


def test_features_do_not_depend_on_chunks_batches_or_the_cache(fashion, monkeypatch):
    eye, images = backbone("small", device="cpu"), fashion["perfect"]["x"][:70]
    complete = features(images, eye, keep=False)[:]
    monkeypatch.setattr(seeing, "CHUNK", 32)
    kept = features(images, eye)
    assert [len(chunk) for chunk in kept.chunks] == [32, 32, 6]
    assert torch.allclose(kept[:], complete, atol=1e-5)
    monkeypatch.setattr(type(eye), "__call__", lambda *_: pytest.fail("computed again"))
    again = features(images, eye)
    assert torch.equal(again[:], kept[:])
    assert torch.equal(again[torch.tensor([3, 69, 33])], kept[:][[3, 69, 33]])
    together = Moments.of(complete)
    assert torch.allclose(again.moments.mean, together.mean, atol=1e-5)
    assert torch.allclose(again.moments.covariance, together.covariance, atol=1e-5)


def test_a_torn_cache_file_is_computed_again(fashion, home):
    eye, images = backbone("small", device="cpu"), fashion["perfect"]["x"][100:140]
    before = features(images, eye)[:].clone()
    newest = max((home / "features").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:500])
    assert torch.equal(features(images, eye)[:], before)


def test_cache_keys_differ_by_images_network_resize_and_precision(fashion):
    images, eye = fashion["perfect"]["x"][:8], backbone("small", device="cpu")
    keys = {
        seeing._key(images, eye),
        seeing._key(fashion["perfect"]["x"][8:16], eye),
        seeing._key(images, replace(eye, resize="bilinear")),
        seeing._key(images, replace(eye, precision="bf16")),
        seeing._key(images, replace(eye, sha256="0")),
    }
    assert len(keys) == 5


def test_grey_images_have_the_features_of_three_equal_channels(fashion):
    eye, grey = backbone("small", device="cpu"), fashion["perfect"]["x"][:16]
    assert torch.allclose(eye(grey), eye(grey.repeat(3, 3)), atol=1e-5)


def test_two_ranks_find_the_scores_of_one(run, call):
    """Drawing and features are shared; every rank's numbers are rank 0's."""
    arguments = [
        "evaluate",
        run,
        "-n",
        600,
        "--metrics",
        "frechet,kernel,prdc",
        "--json",
        "--out",
        "scores",
        "--precision",
        "fp32",
    ]
    code, single, err = call(*arguments)
    two, other = reverie_on_ranks(2, *arguments)
    assert code == two.returncode == other.returncode == 0 and not other.stdout, err + two.stderr + other.stderr
    values = [{s["metric"]: s["value"] for s in json.loads(text)["scores"]} for text in (single, two.stdout)]
    assert values[0] and values[1] == pytest.approx(values[0], rel=1e-4)


# Resizing


def test_each_way_of_resizing_agrees_with_who_defined_it():
    x = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)) * 255
    for size in (64, 13):
        for way, options in (("bilinear", {}), ("bilinear-antialias", {"antialias": True})):
            theirs = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, **options)
            assert torch.allclose(resize(x, size, way), theirs, atol=1e-2)
        for way, kernel in (("bilinear-antialias", Image.BILINEAR), ("bicubic-antialias", Image.BICUBIC)):
            pillow = Image.fromarray(x[0, 0].numpy()).resize((size, size), kernel)
            assert np.allclose(resize(x, size, way)[0, 0], np.asarray(pillow).clip(0, 255), atol=1e-2)


def test_the_original_resize_takes_its_source_at_target_times_in_over_out():
    x = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    output = resize(x, 10, "tf1-bilinear")[0, 0]
    for i in range(10):
        for j in range(10):
            y, z = i * 6 / 10, j * 6 / 10
            a, b = int(y), int(z)
            c, d = min(a + 1, 5), min(b + 1, 5)
            top = x[0, 0, a, b] * (1 - (z - b)) + x[0, 0, a, d] * (z - b)
            low = x[0, 0, c, b] * (1 - (z - b)) + x[0, 0, c, d] * (z - b)
            assert output[i, j] == pytest.approx(float(top * (1 - (y - a)) + low * (y - a)), abs=1e-5)


def test_resizing_keeps_a_constant_image_constant():
    for way in RESIZES:
        assert torch.allclose(resize(torch.full((1, 1, 9, 17), 77.0), 30, way), torch.tensor(77.0), atol=1e-3)


# Inception, against a plain reading of the graph


def plain_inception(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Convolution, normalisation, rectifier, one after the other, in the graph's order; nothing merged or moved."""

    def conv(x, name, stride=1, padding=0):
        w, beta, mean, var = (weights[f"{name}.{part}"] for part in ("weight", "beta", "mean", "var"))
        return F.batch_norm(F.conv2d(x, w, None, stride, padding), mean, var, None, beta, eps=1e-3).relu()

    def chain(x, block, *steps):
        for step in steps:
            x = conv(x, f"{block}.{step[0]}", *step[1:])
        return x

    x = conv(x, "Conv2d_1a_3x3", 2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1), 3, 2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    h, v = (0, 3), (3, 0)
    for b in BLOCKS:
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        if b.startswith("Mixed_5"):
            deep = chain(x, b, ["branch3x3dbl_1"], ["branch3x3dbl_2", 1, 1], ["branch3x3dbl_3", 1, 1])
            five = chain(x, b, ["branch5x5_1"], ["branch5x5_2", 1, 2])
            parts = [chain(x, b, ["branch1x1"]), five, deep, chain(pooled, b, ["branch_pool"])]
        elif b == "Mixed_6a":
            deep = chain(x, b, ["branch3x3dbl_1"], ["branch3x3dbl_2", 1, 1], ["branch3x3dbl_3", 2])
            parts = [chain(x, b, ["branch3x3", 2]), deep, F.max_pool2d(x, 3, 2)]
        elif b.startswith("Mixed_6"):
            seven = chain(x, b, ["branch7x7_1"], ["branch7x7_2", 1, h], ["branch7x7_3", 1, v])
            names = [f"branch7x7dbl_{i}" for i in range(1, 6)]
            deep = chain(x, b, [names[0]], [names[1], 1, v], [names[2], 1, h], [names[3], 1, v], [names[4], 1, h])
            parts = [chain(x, b, ["branch1x1"]), seven, deep, chain(pooled, b, ["branch_pool"])]
        elif b == "Mixed_7a":
            three = chain(x, b, ["branch3x3_1"], ["branch3x3_2", 2])
            names = [f"branch7x7x3_{i}" for i in range(1, 5)]
            seven = chain(x, b, [names[0]], [names[1], 1, h], [names[2], 1, v], [names[3], 2])
            parts = [three, seven, F.max_pool2d(x, 3, 2)]
        else:
            short = chain(x, b, ["branch3x3_1"])
            deep = chain(x, b, ["branch3x3dbl_1"], ["branch3x3dbl_2", 1, 1])
            last = pooled if b == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
            fans = [(short, "branch3x3_2"), (deep, "branch3x3dbl_3")]
            spread = [chain(y, b, [f"{n}{s}", 1, p]) for y, n in fans for s, p in (("a", (0, 1)), ("b", (1, 0)))]
            parts = [chain(x, b, ["branch1x1"]), *spread, chain(last, b, ["branch_pool"])]
        x = torch.cat(parts, 1)
    return x.mean((2, 3))


def test_inception_rewritten_for_speed_equals_a_plain_reading_of_the_graph():
    weights, generator = random_inception(), torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 107, 107, generator=generator) * 2 - 1
    with torch.inference_mode():
        truth = plain_inception({name: value.double() for name, value in weights.items()}, x.double())
        ours = Inception(weights)(x)
    assert truth.shape == (1, BACKBONES["inception"].dimension)
    assert torch.allclose(ours.double(), truth, rtol=1e-4, atol=1e-4 * float(truth.abs().max()))


# The verb


@pytest.fixture(scope="module")
def run(bars, tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate") / "run"
    options = {"steps": 30, "batch_size": 16, "width": 8, "latent": 4, "conditional": "label", "quiet": True}
    return rv.train("vae", bars, likelihood="gaussian", out=path, **options).path


def test_evaluating_a_run_leaves_json_a_table_and_images(run, call, capsys):
    code, out, err = call(
        "evaluate", run, "-n", 200, "--metrics", "kernel,prdc,nll,reconstruction,fid", "--backbone", "small", "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert set(result) == {"scores", "refused", "weights"} and result["weights"]["status"] == "finished"
    assert all(set(single) == {"metric", "value", "low", "high", "floor", "passport"} for single in result["scores"])
    assert all(set(single) == {"metric", "reason", "instead"} for single in result["refused"])
    ssim, fid = result["refused"]  # SSIM's window is larger than these images
    assert fid["metric"] == "fid" and "kid" in fid["instead"] and "SSIM" in ssim["reason"]
    metrics = [single["metric"] for single in result["scores"]]
    assert {
        "kernel-small",
        "coverage-small",
        "nll-bound",
        "nll-bound-iw32",
        "bits-per-dim-bound",
        "mse",
        "psnr",
    } <= set(metrics)
    passport = result["scores"][0]["passport"]
    assert passport["fake"]["seeds"] == [0, 199] and passport["reference"]["fingerprint"]
    for name in ("scores.json", "scores.png"):
        assert (run / "evaluation" / name).is_file()
    kept = json.loads((run / "evaluation" / "scores.json").read_text())
    assert all(single in kept["scores"] for single in result["scores"]) and result["refused"][0] in kept["refused"]
    code, out, _ = call("evaluate", run, "-n", 210, "--metrics", "kernel", "--backbone", "small")
    assert code == 0 and "kernel-small" in out and "95 % interval" in out
    later = {
        single["metric"]: single for single in json.loads((run / "evaluation" / "scores.json").read_text())["scores"]
    }
    assert set(metrics) <= set(later) and later["kernel-small"]["passport"]["fake"]["n"] == 210


def test_the_same_run_and_seed_give_the_same_scores(run):
    single, two = (rv.evaluate(run, metrics=["frechet", "prdc"], n=300, seed=7) for _ in range(2))
    assert single.summary() == two.summary()


def test_two_folders_are_compared_and_copies_among_the_generated_count(bars, draw_bars, tmp_path, call):
    images, labels = draw_bars(300, seed=5)
    np.savez(tmp_path / "fake.npz", images=np.concatenate([images[:1]] * 200), labels=np.repeat(labels[:1], 200))
    code, out, err = call("evaluate", "--fake", "fake.npz", "--real", bars, "--metrics", "kernel", "--json")
    assert code == 0, err
    score = json.loads(out)["scores"][0]
    assert score["passport"]["fake"]["n"] == 200 and score["passport"]["reference"]["n"] > 100
    assert score["low"] > score["floor"]


def test_a_folder_with_copies_in_it_is_at_a_distance_of_zero_from_itself(home, draw_bars, tmp_path, call):
    (tmp_path / "d").mkdir()
    for row, image in enumerate(draw_bars(160, channels=3, seed=8)[0]):
        for copy in range(1 + 20 * (row == 0)):
            Image.fromarray(image).save(tmp_path / "d" / f"{row}-{copy}.png")
    code, out, err = call("evaluate", "--fake", "d", "--real", "d", "--metrics", "frechet,prdc", "--json")
    assert code == 0, err
    scores = {score["metric"]: score for score in json.loads(out)["scores"]}
    sides = scores["frechet-small"]["passport"]
    assert abs(scores["frechet-small"]["value"]) < 1e-6
    assert sides["fake"]["n"] == sides["reference"]["n"] == 180
    assert scores["precision-small"]["value"] == 1 and scores["coverage-small"]["value"] > 0.9


def test_published_statistics_are_refused_by_name_and_images_beside_them_are_taken(bars, tmp_path, call):
    moments = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    np.savez(tmp_path / "fid_stats.npz", **moments)
    code, out, err = call("evaluate", "--fake", bars, "--real", "fid_stats.npz", "--metrics", "frechet")
    assert code == 2 and out == "" and "fid_stats.npz holds precomputed statistics" in err and "--reference" in err
    with np.load(bars) as archive:
        np.savez(tmp_path / "both.npz", arr_0=archive["images"], **moments)
    assert len(rv.open_data(tmp_path / "both.npz").train) > 100


def test_a_run_whose_training_and_test_folders_were_exchanged_is_not_scored(home, tmp_path, call):
    for row in range(24):
        file = tmp_path / "d" / ("train" if row < 12 else "test") / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    small = ("--net", "dense", "--hidden", 8, "--latent", 2, "--batch-size", 4, "--steps", 1)
    assert call("train", "vae", "--data", "d", *small, "--out", "run")[0] == 0
    (tmp_path / "d" / "train").rename(tmp_path / "x")
    (tmp_path / "d" / "test").rename(tmp_path / "d" / "train")
    (tmp_path / "x").rename(tmp_path / "d" / "test")
    for metrics in ("reconstruction", "frechet"):
        code, out, err = call("evaluate", "run", "--metrics", metrics, "--json")
        assert code == 1 and out == "" and "is not what it was trained on" in err


def test_a_model_that_does_not_sample_is_judged_by_what_it_can(run, monkeypatch, tmp_path):
    from reverie.evaluation import run as evaluation

    able = evaluation.verbs_of
    monkeypatch.setattr(evaluation, "verbs_of", lambda model: [verb for verb in able(model) if verb != "sample"])
    result = rv.evaluate(run, out=tmp_path)
    assert {"nll-bound", "mse", "psnr"} <= {score.metric for score in result.scores}
    assert [refusal.metric for refusal in result.refused] == ["ssim"] and "SSIM" in result.refused[0].reason
    assert all(score.passport["fake"]["n"] == 0 for score in result.scores)
    arguments = rv.evaluate(run, metrics=["kernel"], out=tmp_path)
    assert "cannot be sampled" in arguments.refused[0].reason and "reconstruction" in arguments.refused[0].instead


def test_arrays_are_images_too(bars, draw_bars):
    images, _ = draw_bars(200, seed=6)
    result = rv.evaluate(fake=images, real=bars, metrics=["kernel"])
    assert result["kernel-small"].passport["fake"]["n"] == 200
    floats = rv.evaluate(fake=images.astype(np.float32) / 255, real=bars, metrics=["kernel"])
    assert floats["kernel-small"].value == result["kernel-small"].value


def test_other_data_is_what_a_run_is_compared_with_but_copies_are_sought_where_it_learned(home, tmp_path):
    for seed, (name, count) in enumerate({"learned": 700, "other": 250}.items()):
        np.savez(
            tmp_path / f"{name}.npz", images=np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)
        )
    learned, other = (rv.data(tmp_path / f"{name}.npz") for name in ("learned", "other"))
    small = {"net": "dense", "hidden": (8,), "latent": 2, "steps": 2, "batch_size": 16, "quiet": True}
    run = rv.train("vae", tmp_path / "learned.npz", out=tmp_path / "run", **small)
    result = rv.evaluate(run, metrics=["kernel", "memorisation"], n=60, data=tmp_path / "other.npz")
    reference, copies = result["kernel-small"].passport["reference"], result["authenticity"].passport
    assert reference["data"] == other.source and reference["n"] == len(other.train) < 250
    assert copies["training"] == len(learned.train) and copies["floor"] == f"{len(learned.held_out)} held-out images"
    assert 50 <= len(learned.held_out) < len(learned.train) < 700


def test_images_that_were_trained_on_give_no_likelihood(run, bars):
    result = rv.evaluate(run, metrics=["nll", "reconstruction"], n=50, data=f"{bars}:train")
    assert [refusal.metric for refusal in result.refused] == ["nll", "reconstruction"]
    assert "trained on" in result.refused[0].reason


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "Name a RUN"),
        (("--fake", "a"), "--fake and --real"),
        (("runs/none",), "runs/none"),
        (("RUN", "--metrics", "fidd"), 'Did you mean "fid"'),
        (("RUN", "-n", 0), "at least 1"),
        (("RUN", "--size", 32), "its own size"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(run, call, flags, message):
    code, _, err = call("evaluate", *(run if flag == "RUN" else flag for flag in flags))
    assert code == 2 and message in err and "Traceback" not in err


@pytest.mark.parametrize(
    "options, message",
    [({"metrics": [3]}, "no metric 3"), ({"n": "5"}, "number of images"), ({"seed": 1.5}, "seed must be a whole")],
)
def test_values_of_other_types_are_refused_by_name(run, options, message):
    with pytest.raises(UsageError, match=message):
        rv.evaluate(run, **options)


def test_every_metric_is_named_in_the_help(call):
    _, out, _ = call("evaluate", "--help")
    assert all(name in out for name in METRICS)


def test_features_in_chunks_are_those_of_one_array():
    arrays = [np.random.default_rng(i).normal(size=(n, 3)).astype(np.float32) for i, n in enumerate((4, 1, 5))]
    chunked, complete = Features(arrays), torch.from_numpy(np.concatenate(arrays))
    rows = torch.tensor([9, 0, 4, 4, 7])
    assert (
        torch.equal(chunked[rows], complete[rows]) and torch.equal(chunked[2:8], complete[2:8]) and len(chunked) == 10
    )


# Stacked MNIST


def test_a_stacked_image_holds_three_digits_and_its_class_names_them():
    from reverie.data.arrays import of_images
    from reverie.data.public import stack

    labels = np.arange(60) % 10
    images = np.broadcast_to(labels[:, None, None, None] * 20, (60, 4, 4, 1)).astype(np.uint8)  # a digit is its shade
    output = stack(of_images(images, labels, [str(i) for i in range(10)], 50))
    digits = output.rows["x"][:, 0, 0] // 20
    assert output.rows["x"].shape == (60, 4, 4, 3) and output.cut == 50
    assert [output.classes[code] for code in output.rows.labels] == ["".join(map(str, three)) for three in digits]
    for part in (slice(0, 50), slice(50, 60)):  # every image once in each channel of its own split
        assert all((np.sort(digits[part, c]) == np.sort(labels[part])).all() for c in range(3))
    assert len(np.unique(output.rows.labels)) > 30


def test_the_reader_reads_each_channel_as_if_it_were_alone():
    from reverie.evaluation.digits import DigitClassifier, predict_digits

    torch.manual_seed(0)
    classifier, images = (
        DigitClassifier().eval(),
        np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), dtype=np.uint8),
    )
    alone = torch.cat([predict_digits(classifier, images[..., [c]]) for c in range(3)], 1)
    assert torch.equal(predict_digits(classifier, images), alone)


@pytest.mark.parametrize(("rows", "n"), [(12000, 2000), (12000, 100), (10, 10), (10, 25), (7, 3)])
def test_a_spread_of_rows_is_even_in_order_and_hits_classes_that_take_turns_in_their_shares(rows, n):
    index = np.array(spread(rows, n))
    assert len(index) == n and (np.diff(index) >= (n <= rows)).all() and index[0] >= 0 and index[-1] < rows
    assert (np.abs(index - np.arange(n) * rows / n) <= max(1, rows / n)).all()
    if n >= 100:
        assert np.bincount(index % 10, minlength=10).min() > 0.4 * n / 10


def test_a_score_is_found_by_the_beginning_of_its_name_and_a_refusal_gives_its_reason():
    score = Score("frechet-small", 1.0, None, None, None, {"better": "lower"})
    scores = Scores([score], [Refusal("kernel", "Too few images.", "Use more.")])
    assert scores["frechet"] is scores["frechet-small"] is score
    with pytest.raises(KeyError, match="Too few images"):
        scores["kernel-small"]
    with pytest.raises(KeyError, match="not computed"):
        scores["fr"]
