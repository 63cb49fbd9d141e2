"""Rate and distortion: the length of quantised codes, the bytes of files, PSNR."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import reverie as rv
from reverie.codes import compression
from reverie.codes.compression import payload, quantise
from reverie.core.errors import UsageError

TINY = {"steps": 3, "batch_size": 16, "quiet": True, "latent": 4, "net": "dense", "hidden": (16,)}


@pytest.fixture(scope="module")
def run(noisy_bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("rates") / "ae"
    rv.train("autoencoder", noisy_bars, out=out, **TINY)
    return out


def test_the_rate_of_a_known_distribution_is_its_entropy():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    rng = np.random.default_rng(0)
    training, codes = (rng.choice(4, (n, 3), p=p) * 0.5 for n in (200_000, 20_000))
    levels, bits = quantise(training, codes, 0.5)
    entropy = 3 * -(p * np.log2(p)).sum()  # 5.25 bits
    assert bits.mean() == pytest.approx(entropy, abs=4 * bits.std() / math.sqrt(len(bits)))
    assert np.array_equal(levels * 0.5, codes)


def test_the_rate_of_a_gaussian_is_its_differential_entropy_less_the_logarithm_of_the_step():
    rng = np.random.default_rng(1)
    training, codes = (rng.normal(0, 2, (n, 1)) for n in (400_000, 50_000))
    bits = quantise(training, codes, 0.25)[1]
    exact = 0.5 * math.log2(2 * math.pi * math.e * 4) - math.log2(0.25)
    assert bits.mean() == pytest.approx(exact, abs=0.02)


def test_every_level_has_a_probability_and_codes_beyond_the_training_levels_get_the_outermost():
    levels, bits = quantise(np.zeros((7, 1)), np.array([[0.0], [1.0], [90.0], [-90.0]]), 1.0)
    assert levels[:, 0].tolist() == [0, 1, 1, -1]  # those of training, and one more at each end
    total = 7 + 3 / 2
    assert bits == pytest.approx([-math.log2(7.5 / total)] + 3 * [-math.log2(0.5 / total)])


def test_psnr_is_that_of_the_mean_squared_error():
    images = np.full((3, 12, 12, 1), 100, np.uint8)
    for difference in (1, 10):
        psnr, ssim = compression._quality(images, images + np.uint8(difference))
        assert psnr == pytest.approx(20 * math.log10(255 / difference), abs=1e-4) and 0.9 < ssim <= 1
    assert compression._quality(images, images) == (math.inf, pytest.approx(1))
    assert math.isnan(compression._quality(images[:, :8], images[:, :8])[1])


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_left_of_a_file_without_its_payload_is_the_same_for_every_image(kind, channels):
    rng = np.random.default_rng(2)
    files = [compression._file(kind, rng.integers(0, 256, (16, 24, channels), np.uint8), 50) for _ in range(4)]
    heads = {len(file) - payload(file, kind) for file in files}
    assert len(heads) == 1
    if kind == "JPEG":
        (head,) = heads
        assert len({file[: head - 2] for file in files}) == 1 and len({file[-2:] for file in files}) == 1


def test_a_mosaic_is_cut_into_the_same_images():
    images = np.random.default_rng(3).integers(0, 256, (11, 8, 10, 1), np.uint8)
    mosaic, tiles = compression._mosaic(images)
    assert mosaic.shape == (24, 30, 1) and tiles == 9
    assert np.array_equal(mosaic[8:16, 10:20], images[4])
    points = {p.counted: p for p in compression._of_files("JPEG", (100,), images)}
    assert points["mosaic"].psnr > 30 and points["files"].bits_per_pixel > points["without headers"].bits_per_pixel


def test_a_small_step_gives_the_plain_reconstruction_and_a_larger_one_fewer_bits(run, noisy_bars):
    result = rv.rates(run, steps=(1.0, 0.1, 0.001))
    (ceiling,), points = result.ceilings.values(), result.curves["ae", "codes"]
    assert [p.setting for p in points] == [1.0, 0.1, 0.001]
    assert points[0].bits_per_pixel < points[1].bits_per_pixel < points[2].bits_per_pixel
    assert points[2].psnr == pytest.approx(ceiling.psnr, abs=0.01) and points[0].psnr <= ceiling.psnr + 0.5
    sheet = rv.reconstruct(run, n=1000)
    error = (sheet["image"].array.astype(float) - sheet["reconstruction"].array) ** 2
    assert ceiling.psnr == pytest.approx(10 * math.log10(255**2 / error.mean()), abs=1e-4)
    assert {counted for codec, counted in result.curves if codec == "WebP"} == {"files", "without headers", "mosaic"}


def test_rates_from_the_command_line(run, call, tmp_path):
    code, out, err = call("rates", run)
    assert code == 0 and "WebP" in out and "in rates.png" in out and "held-out images, not 1,024" in err
    code, out, _ = call("rates", run, "--json", "-n", 4, "--out", "r.npz")
    result = json.loads(out)
    assert code == 0 and result["number"] == 4 and result["points"][0]["bits_per_pixel"] is None
    with np.load(tmp_path / "r.npz") as arrays:
        assert len(arrays["psnr"]) == len(result["points"])


def test_wrong_use_of_rates_is_refused_with_the_fix(run, tmp_path):
    for steps in ((), (0,), ("a",), 5):
        with pytest.raises(UsageError, match="steps must be numbers of at least"):
            rv.rates(run, steps=steps)
    with pytest.raises(UsageError, match="n must be at least 1"):
        rv.rates(run, n=0)
    with pytest.raises(UsageError, match="cannot encode"):
        rv.rates(rv.build("gan", shape=8, channels=1))
