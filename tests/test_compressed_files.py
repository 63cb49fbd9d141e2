"""Compressed files that are damaged, forged, foreign, or claim more than they hold."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import reverie as rv
from compression_cases import Walk, noise, perturbed, smooth
from reverie.compression import coding
from reverie.compression.compress import compress, decompress
from reverie.compression.format import Header, pack, unpack
from reverie.core.errors import ReverieError, UsageError
from reverie.probability.integer_logistic import LEAST_BITS, Mixture

PHOTOS = Path(__file__).parent / "photos"


@pytest.fixture(scope="module")
def models():
    return {channels: perturbed(channels) for channels in (1, 3)}


def resealed(data: bytes, at: int, *values: int) -> bytes:
    """Other bytes from ``at`` on, and the checksum that belongs to them."""
    content = data[:at] + bytes(values) + data[at + len(values) : -4]
    return content + zlib.crc32(content).to_bytes(4, "little")


def peak_mib(function) -> float:
    """Of what NumPy and Python allocate in a call, whose errors are the user's alone."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ReverieError):
            function()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def claiming(shapes, payload: bytes, model) -> bytes:
    """A file of a model that claims images of these shapes."""
    header, _ = unpack(compress(model, noise(2, 2, 1)).data, "f")
    return pack(replace(header, shapes=shapes), payload)


@pytest.mark.parametrize("shapes", [[(1, 1, 1)] * 1_000_000, [(9_000, 9_000, 1)]])
def test_a_file_of_more_pixels_than_its_bytes_can_stand_for_is_refused_at_once(models, shapes):
    data = claiming(shapes, b"\x07" * 8, models[1])
    with pytest.raises(ReverieError, match="header cannot be right"):
        decompress(data, models[1])
    assert peak_mib(lambda: decompress(data, models[1])) < 1


def test_decoding_stops_where_the_coded_values_end(models):
    data = claiming([(400, 400, 1)], noise(4 * math.ceil(LEAST_BITS * 5_000)).tobytes(), models[1])
    fronts = []
    with pytest.raises(ReverieError, match="cannot have written"), pytest.MonkeyPatch.context() as patch:
        context = type(models[1]).context
        patch.setattr(type(models[1]), "context", lambda *a: fronts.append(1) or context(*a))
        decompress(data, models[1])
    assert len(fronts) < 40  # of 255 + 3 x 255


def test_a_short_file_that_claims_ten_billion_images_takes_no_memory(models):
    data = compress(models[1], noise(2, 2, 1)).data
    at = 6 + len("codec") + 4
    assert data[at : at + 4] == bytes([1, 4, 2, 2])  # one run: one grey image, 2 x 2
    for digits in ((128, 136, 222, 190, 1), (128, 160, 175, 137, 149, 1)):  # 4 x 10^8, 4 x 10^10
        forged = resealed(data[: at + 1] + bytes(len(digits)) + data[at + 2 :], at + 1, *digits)
        with pytest.raises(ReverieError, match="header cannot be right"):
            unpack(forged, "f")
        assert peak_mib(lambda forged=forged: unpack(forged, "f")) < 1


def test_no_distribution_is_surer_than_the_bound_on_pixels_supposes():
    end = np.full((1, 1), -20_000)
    sure = Mixture.of_outputs(np.zeros((1, 1), int), end, np.full((1, 1), -32))
    assert -math.log2(sure.count(np.zeros(1, int))[0] / sure.total[0]) == pytest.approx(LEAST_BITS, rel=1e-3)
    image, encoder = np.zeros(100_000, int), coding.Encoder()
    counts = [np.array([2.0**24 + 16 * n, 16 * n, 16 * n, 16 * n]) for n in (64, 16, 4, 1)]
    for weights in counts:
        encoder.put(image, np.broadcast_to(weights, (len(image), 4)))
    header = Header("codec", b"abcd", b"", [(250, 400, 1)], 0)
    assert unpack(pack(header, encoder.bytes()), "f") == (header, encoder.bytes())
    decoder = coding.Decoder(encoder.bytes())
    for weights in counts:
        assert (decoder.get(np.broadcast_to(weights, (len(image), 4))) == image).all()


@pytest.mark.parametrize("portable", [False, True])
def test_files_with_random_changes_and_a_right_checksum_are_refused_or_decoded_to_the_same_pixels(models, portable):
    model = models[3] if portable else Walk()
    images = [smooth(9, 7, 3), noise(4, 4, 1)] if portable else [smooth(4, 4, 1)] * 2
    data, rng = compress(model, images).data, np.random.default_rng(0)
    refused, number = 0, 40 if portable else 300
    for _ in range(number):
        at = int(rng.integers(4, len(data) - 8))
        values = rng.integers(0, 256, rng.integers(1, 4))
        cut = data[rng.integers(at, len(data)) :] if rng.random() < 0.2 else data[at + len(values) :]
        forged = resealed(data[: at + len(values)] + cut, at, *values)
        try:
            with warnings.catch_warnings(action="ignore"):
                back = decompress(forged, model)
        except ReverieError:
            refused += 1
            continue
        assert all(map(np.array_equal, back, images))
    assert refused > 0.8 * number


@pytest.mark.parametrize("build", [Walk, lambda: perturbed(1)])
def test_weights_that_are_not_finite_are_an_error_of_every_model(build):
    model, image = build(), noise(4, 4, 1)
    data = compress(model, image).data
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    for verb, arguments in ((compress, (model, image)), (decompress, (data, model)), (rv.bits_map, (model, image))):
        with pytest.raises(ReverieError, match=r"weights|not finite"):
            verb(*arguments)


def test_images_that_cannot_be_kept_exactly_are_refused(models, tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "print.tif")
    for name, reason in (("deep.png", "16-bit"), ("print.tif", "CMYK"), ("none.png", "no image file")):
        with pytest.raises(UsageError, match=reason):
            compress(models[1], tmp_path / name)
    with pytest.raises(UsageError, match="no images"):
        compress(models[1], [])
    for other in (None, 3, torch.zeros(1, 4, 4)):
        with pytest.raises(UsageError, match=r"is no image\. Possible: a file"):
            compress(models[1], other)
