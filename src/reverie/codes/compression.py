"""Compression: codes quantised and entropy-coded, beside JPEG and WebP, as rate and distortion.

A code is quantised uniformly, dimension by dimension, and its rate is the ideal length under a histogram of training
codes: what an arithmetic coder reaches to within a few bits per file. Tokens are coded as they are, see ``tokens``. The
decoder and the histograms are not counted, as JPEG's decoder and tables of constants are not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reverie.codes.encoders import common_data, encoders
from reverie.codes.pages import plot_rates
from reverie.codes.tokens import token_lengths
from reverie.core.card import card_of, name_of, reconstructs
from reverie.core.errors import UsageError, argument
from reverie.core.files import path_of
from reverie.core.values import integer, is_finite
from reverie.core.verbs import Model
from reverie.data import Split
from reverie.evaluation.likelihood import evenly
from reverie.evaluation.reconstruction import WINDOW, mse, ssim
from reverie.inference.load import Source
from reverie.inference.origin import origin
from reverie.inference.rows import device_of, encoded, evaluating, in_chunks
from reverie.media import montage
from reverie.media.medium import save_arrays, to_float, to_uint8
from reverie.media.origin import ending_of
from reverie.media.plots import check_plot
from reverie.training.progress import shows_progress

STEPS = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)  # of the quantiser, in root mean square deviations of the codes
QUALITIES = {"JPEG": (1, 5, 10, 20, 35, 50, 70, 85, 95), "WebP": (0, 10, 25, 50, 75, 90, 100)}
_TRAINING_ROWS = 20_000  # most codes that histograms are fitted to
_PRIOR = 0.5  # pseudo-count of every level (Krichevsky and Trofimov 1981)
_WIDEST = 16_383  # pixels of a side of a WebP image


@dataclass(frozen=True)
class Point:
    """A codec with one setting.

    Attributes:
        codec: the name of a run, or "JPEG" or "WebP".
        counted: "codes", by their histogram; "codes by prior"; of the two formats the bytes of "files", of files
            "without headers", or of one "mosaic".
        setting: the quantiser's step in deviations of the codes (0: no quantiser), or the quality.
        bits_per_pixel: mean over images; nan without a quantiser.
        psnr: in dB, of the mean squared error over all images and channels, of 8-bit images.
        ssim: mean over images; nan for images below 11 pixels.
    """

    codec: str
    counted: str
    setting: float
    bits_per_pixel: float
    psnr: float
    ssim: float


@dataclass(frozen=True, repr=False)
class Rates:
    """Rate and distortion of codecs on the same held-out images.

    Attributes:
        points: of every codec and setting.
        number: of images.
        origin: what computed them.
    """

    points: Sequence[Point]
    number: int
    origin: Mapping[str, Any]

    @property
    def curves(self) -> dict[tuple[str, str], list[Point]]:
        """The points with a rate, by (codec, counted)."""
        rated = [point for point in self.points if not math.isnan(point.bits_per_pixel)]
        keys = dict.fromkeys((point.codec, point.counted) for point in rated)
        return {key: [point for point in rated if (point.codec, point.counted) == key] for key in keys}

    @property
    def ceilings(self) -> dict[str, Point]:
        """The plain reconstruction of each run: what no rate exceeds."""
        return {point.codec: point for point in self.points if math.isnan(point.bits_per_pixel)}

    def save(self, path: Path | str) -> Path:
        """Write the plot (.png, .pdf ...), or the points as arrays (.npz), with the origin; atomic."""
        path = path_of("path", path)
        if ending_of(path) == ".npz":
            rows = [asdict(point) for point in self.points]
            save_arrays(path, {name: [row[name] for row in rows] for name in rows[0]}, self.origin)
            return path
        check_plot(path)
        plot_rates(self, path)
        return path

    def summary(self) -> dict[str, Any]:
        """For JSON; a rate that is not defined is null."""
        rows = [asdict(point) for point in self.points]
        plain = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows
        ]
        return {"number": self.number, "points": plain}

    def __repr__(self) -> str:
        codecs = ", ".join(dict.fromkeys(point.codec for point in self.points))
        return f"Rates({self.number} images: {codecs})"


@shows_progress
@torch.no_grad()
def rates(
    models: Source | Sequence[Source],
    data: Any = None,
    n: int = 1024,
    steps: Sequence[float] = STEPS,
    progress: Callable[[int, int, str], None] | None = None,
) -> Rates:
    """Rate and distortion of held-out images: the codes of models, and JPEG and WebP at several qualities.

    Files of small images are mostly header. So JPEG and WebP are counted in three ways: the bytes of a file for each
    image; without the headers (of JPEG all but the entropy-coded data, of WebP the 30 bytes of its container and frame
    header); and one file that holds all images side by side.

    Args:
        models: runs or loaded models that encode and decode images.
        data: whose held-out images; by default the data of the runs. Histograms are fitted to its training images.
        n: how many held-out images, evenly spaced; all if there are fewer.
        steps: of the quantiser, in root mean square deviations of the codes; tokens need none.
        progress: called after each part, (done, total, description).
    Raises:
        UsageError: a model that does not reconstruct 8-bit images, runs on different data, steps that are too small.
    """
    named = encoders(models, tokens=True)
    dataset, n = common_data(named, data), integer(argument("n"), n, 1, 100_000)
    if dataset.spec.medium != "image" or dataset.spec.dtype not in ("", "uint8"):
        raise UsageError(f"JPEG and WebP hold 8-bit images, and these are {dataset.spec.medium}s of {dataset.spec}.")
    if not isinstance(steps, list | tuple) or not steps or not all(is_finite(step) and step >= 1e-3 for step in steps):
        raise UsageError(f"{argument('steps')} must be numbers of at least 0.001, not {steps!r:.80}.")
    if dataset.spec.channels == 4:
        raise UsageError(f"JPEG holds no transparency, and these are images of {dataset.spec}.")
    for model in named.values():
        if not reconstructs(model):
            raise UsageError(f"{name_of(model)} does not encode and decode without a search: it compresses nothing.")
    held_out, training = evenly(dataset.unseen("A rate"), n), evenly(dataset.train, _TRAINING_ROWS)
    points, tasks = list[Point](), len(named) + len(QUALITIES)
    for model_name, model in named.items():
        points += _of_model(model_name, model, training, held_out, sorted(steps, reverse=True))
        if progress:
            progress(len({point.codec for point in points}), tasks, f"compressing by {model_name}")
    images = np.asarray(held_out["x"])
    for number, (kind, qualities) in enumerate(QUALITIES.items(), 1):
        points += _of_files(kind, qualities, images)
        if progress:
            progress(len(named) + number, tasks, f"compressing by {kind}")
    first = next(iter(named.values()))
    arguments: dict[str, Any] = {"models": [*named], "data": dataset.source, "n": len(held_out), "steps": list(steps)}
    return Rates(points, len(held_out), origin("rates", first, **arguments))


# Codes


def _of_model(codec: str, model: Model, training: Split, held_out: Split, steps: Sequence[float]) -> Iterator[Point]:
    images, pixels = np.asarray(held_out["x"]), math.prod(held_out.spec.shape)
    without = card_of(model).conditions  # a class would have to be sent, too
    known_codes, codes = (encoded(model, split, without).double().numpy() for split in (training, held_out))
    if (space := card_of(model).space) and space.kind == "tokens":
        quality = _quality(images, _decoded(model, codes))
        for counted, bits in token_lengths(model, known_codes.astype(int), codes.astype(int), space.codes, held_out):
            yield Point(codec, counted, 0.0, bits.mean() / pixels, *quality)
        return
    deviation = float(np.sqrt(known_codes.var(0).mean())) or 1.0
    yield Point(codec, "codes", 0.0, math.nan, *_quality(images, _decoded(model, codes)))
    for step in steps:
        levels, bits = quantise(known_codes, codes, step * deviation)
        output = _decoded(model, levels * (step * deviation))
        yield Point(codec, "codes", step, bits.mean() / pixels, *_quality(images, output))


def quantise(training: np.ndarray, codes: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, D) to whole multiples of ``step``, and the ideal length of each code in bits (N,).

    A level's probability, dimension by dimension, is (count + 1/2) / (M + L/2) among M training codes whose levels,
    with one more at each end, are L; a code beyond these levels gets the outermost.

    Args:
        training: (M, D).
    Returns:
        levels (N, D), whole numbers, and bits (N,).
    """
    known_levels = np.round(training / step).astype(np.int64)
    low, high = known_levels.min(0) - 1, known_levels.max(0) + 1
    levels = np.round(codes / step).astype(np.int64).clip(low, high)
    bits = np.zeros(len(codes))
    for d in range(codes.shape[1]):
        count = np.bincount(known_levels[:, d] - low[d], minlength=high[d] - low[d] + 1) + _PRIOR
        bits -= np.log2(count / count.sum())[levels[:, d] - low[d]]
    return levels, bits


def _decoded(model: Model, codes: np.ndarray) -> np.ndarray:
    """Images uint8 (N, H, W, C) of flat codes (N, D)."""
    space, device = card_of(model).space, device_of(model)
    latents = torch.from_numpy(codes).float().to(device)
    latents = latents.view(-1, *space.shape) if space else latents
    output = card_of(model).output
    chunks = in_chunks(output.shape if output else (), device, len(latents))
    with evaluating(model):
        return np.concatenate([to_uint8(model.decode(latents[low:high])) for low, high in chunks])


# Files


def _of_files(kind: str, qualities: Sequence[int], images: np.ndarray) -> Iterator[Point]:
    """Points with files for each image, without their headers, and with one file for all."""
    count, pixels = len(images), math.prod(images.shape[1:3])
    mosaic, tiles = _mosaic(images)
    for quality in qualities:
        files = [_file(kind, image, quality) for image in images]
        measured = _quality(images, np.stack([_opened(file, images.shape[-1]) for file in files]))
        for what, sizes in (("files", [len(f) for f in files]), ("without headers", [payload(f, kind) for f in files])):
            yield Point(kind, what, quality, 8 * sum(sizes) / count / pixels, *measured)
        file = _file(kind, mosaic, quality)
        output = _opened(file, images.shape[-1])
        shape = (
            mosaic.shape[0] // images.shape[1],
            images.shape[1],
            mosaic.shape[1] // images.shape[2],
            *images.shape[2:],
        )
        output = output.reshape(shape).swapaxes(1, 2).reshape(-1, *images.shape[1:])
        yield Point(kind, "mosaic", quality, 8 * len(file) / tiles / pixels, *_quality(images[:tiles], output))


def _mosaic(images: np.ndarray) -> tuple[np.ndarray, int]:
    """As many images side by side as make full rows of a square, (H', W', C), and their number."""
    count, height, width, channels = images.shape
    columns = max(1, min(math.isqrt(count), _WIDEST // width))
    rows = max(1, min(count // columns, _WIDEST // height))
    tiles = images[: rows * columns].reshape(rows, columns, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels), rows * columns


def _file(kind: str, image: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    montage.to_image(image).save(buffer, kind, quality=quality)
    return buffer.getvalue()


def _opened(file: bytes, channels: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        return montage.from_image(image.convert("L" if channels == 1 else "RGB"))


def payload(file: bytes, kind: str) -> int:
    """Bytes of a file without its headers.

    Of a JPEG: the entropy-coded data between the header of its scan and the end marker. Of a lossy WebP: all but the
    RIFF header (12), that of the chunk (8), and the frame's tag, start code and size (10).
    """
    if kind == "WebP":
        return len(file) - 30
    scan = file.index(b"\xff\xda") + 2
    return len(file) - scan - int.from_bytes(file[scan : scan + 2], "big") - 2


def _quality(images: np.ndarray, output: np.ndarray) -> tuple[float, float]:
    """PSNR of the mean squared error, and mean SSIM, of 8-bit images (N, H, W, C)."""
    a, b = to_float(images), to_float(output)
    error = float(mse(a, b).double().mean())
    psnr = 10 * math.log10(4 / error) if error else math.inf
    if min(images.shape[1:3]) < WINDOW:
        return psnr, math.nan
    parts = [ssim(x, y).double() for x, y in zip(a.split(256), b.split(256), strict=True)]
    return psnr, float(torch.cat(parts).mean())
