"""The pictures and numbers that a run leaves behind, each drawn from what the model can do."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.noise import Noise
from reverie.core.options import draws_freely
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.drawing import beside, conditioning, device_of, draw, example_conditions, reconstruct, translated
from reverie.media import Spec, medium_of, montage, plots
from reverie.metrics.likelihood import GLANCE, affordable, nats_of

SHEET = 64  # images on a sample grid
_BESIDE = {"image": 32}  # held-out samples that are shown beside what the model makes of them; 8 of other media
_MAPPED = 2000  # images on a latent map


def sample_grid(model: Model, data: Dataset | None, path: Path, count: int = SHEET) -> None:
    """Images of the seeds 0 ... 63: a column each for the first classes, or of captions spread over the data's.

    Args:
        count: draw so many of the 64.
    """
    noise, texts = Noise.of_seeds(range(count), device_of(model)), data.train.get("text") if data else None
    condition = {name: value[:count] for name, value in example_conditions(model, texts, SHEET).items()}
    spec = data.spec if data else _output(model)
    montage.save(path, medium_of(spec).sheet(draw(model, noise, spec=spec, **condition), spec, columns=8))


def _output(model: Model) -> Spec:
    """What a model makes that learned from no data: an image, where its card says nothing."""
    output = card_of(model).output
    return Spec("image", (1, 1), 3) if output is None else Spec(output.medium, output.shape, output.channels)


def translations(model: Model, data: Dataset, path: Path, count: int = SHEET) -> None:
    """Held-out images, below each its translation, and below that the truth where there is one."""
    first = next(in_order(data.held_out, min(24, _beside(data), count), device_of(model)))
    given, truth = model.given(first)
    montage.save(path, beside(translated(model, given, truth, first.rng), spec=data.spec))


def _beside(data: Dataset) -> int:
    return min(_BESIDE.get(data.spec.medium, 8), len(data.held_out))


def preview(model: Model, data: Dataset | None, path: Path, verbs: Collection[str], count: int = SHEET) -> None:
    """One sheet that shows how far a training is: samples, or translations, by what the model can do."""
    if "sample" in verbs and draws_freely(model):
        sample_grid(model, data, path, count)
    elif "translate" in verbs and data:
        translations(model, data, path, count)


@torch.no_grad()
def latent_map(model: Model, data: Dataset, path: Path) -> None:
    """Codes of held-out pictures in the plane (PCA, or a 2-D code itself), over N(0, I) in the same plane."""
    model.eval()
    device, codes, labels = device_of(model), [], []
    for batch in in_order(data.held_out, 256, device):
        codes.append(model.encode(batch["x"], **conditioning(model, batch)).flatten(1).cpu())
        labels.append(batch["label"].cpu())
        if sum(map(len, codes)) >= _MAPPED:
            break
    points = torch.cat(codes)
    prior = Noise.of_seeds(range(1000))(points.shape[1])
    title = "Codes of held-out pictures"
    if points.shape[1] > 2:
        centre = points.mean(0)
        _, spread, axes = torch.linalg.svd(points - centre, full_matrices=False)
        share = spread[:2].square().sum() / spread.square().sum().clamp(min=1e-12)
        points, prior = (points - centre) @ axes[:2].T, (prior - centre) @ axes[:2].T
        title += f", first two principal components ({share:.0%} of the variance)"
    if points.shape[1] == 1:
        points, prior = (torch.cat([p, torch.zeros_like(p)], 1) for p in (points, prior))
    plots.plot_latent_map(
        path, points[:, :2].numpy(), torch.cat(labels).numpy(), data.classes, prior[:, :2].numpy(), title
    )


@torch.no_grad()
def held_out_scores(model: Model, data: Dataset) -> dict[str, float]:
    """Means over the held-out pictures: reconstruction error, and the likelihood or its bound where one is quick."""
    model.eval()
    verbs, device = verbs_of(model), device_of(model)
    likelihoods = affordable(model, GLANCE)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for low, batch in zip(range(0, len(data.held_out), 256), in_order(data.held_out, 256, device), strict=True):
        found: dict[str, Tensor] = {}
        if "encode" in verbs and "decode" in verbs:
            clean, *_, made = reconstruct(model, batch)
            found["reconstruction_mse"] = (clean - made).square().flatten(1).mean(1)
        for way in likelihoods:
            if not way.rows or low < way.rows:
                found[f"{way.verb}_nats_per_image"] = nats_of(model, way, batch)
        if "held_out" in verbs:  # scores of its own, where the verbs do not say how good it is
            found |= model.held_out(batch)
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
            counts[name] = counts.get(name, 0) + len(values)
    scores = {name: value / counts[name] for name, value in sums.items()}
    if "reconstruction_mse" in scores:  # pictures span 2, so the peak's square is 4
        scores["psnr_db"] = 10 * math.log10(4 / max(scores["reconstruction_mse"], 1e-12))
    for way in likelihoods:
        if way.of == "8-bit":
            bits = {"exact": "bits_per_dim", "bound": "bits_per_dim_upper_bound", "estimate": "bits_per_dim_estimate"}
            nats = scores[f"{way.verb}_nats_per_image"]
            scores[bits[way.kind]] = -nats / data.spec.dimensions / math.log(2)
    return scores


def loss_curve(lines: list[dict[str, Any]], path: Path) -> None:
    """Every metric of metrics.jsonl over the steps."""
    aside = {"step", "seconds", "lr", "images_per_second", "progress", "stage"}
    names = sorted({name for line in lines for name in line} - aside, key=lambda n: (not n.endswith("loss"), n))
    curves = {name: [line for line in lines if name in line] for name in names}  # some are seen now and then only
    if curves:
        told = {n: ([line["step"] for line in known], [line[n] for line in known]) for n, known in curves.items()}
        plots.plot_curves(path, told)


def write_artifacts(
    model: Model, data: Dataset | None, lines: list[dict[str, Any]], folder: Path, count: int = SHEET
) -> dict[str, float]:
    """Write a finished run's images and plots to ``folder``; returns the held-out scores.

    Args:
        count: how many samples.
    """
    verbs = verbs_of(model)
    if draws_freely(model):
        sample_grid(model, data, folder / "samples.png", count)
    loss_curve(lines, folder / "loss.png")
    if data is None:
        return {}
    if "translate" in verbs:
        translations(model, data, folder / "translations.png")
    if "encode" in verbs and "decode" in verbs:
        first = next(in_order(data.held_out, _beside(data), device_of(model)))
        montage.save(folder / "reconstructions.png", beside(reconstruct(model, first), spec=data.spec))
        space = card_of(model).space
        if space is None or space.kind != "tokens":  # the numbers of tokens are names: there is no plane to look at
            latent_map(model, data, folder / "latent-map.png")
    return held_out_scores(model, data)
