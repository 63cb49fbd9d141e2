"""The pictures and numbers that a run leaves behind, each drawn from what the model can do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.noise import Noise
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.drawing import beside, conditioning, device_of, draw, reconstruct, translated
from reverie.media import medium_of, montage, plots
from reverie.metrics.features import backbone, features
from reverie.metrics.likelihood import ways
from reverie.metrics.modes import Probe
from reverie.verbs import Model, verbs_of

_SHEET = 64  # pictures on a sample grid
_MAPPED = 2000  # pictures on a latent map
_CHECKED = 256  # pictures that a checkup looks at
_PROBED = 2000  # labelled pictures that a probe is fitted to


def sample_grid(model: Model, data: Dataset, path: Path) -> None:
    """Pictures of the seeds 0 ... 63: a column each for the first classes, or of captions spread over the data's."""
    device, condition = device_of(model), dict[str, Any]()
    if classes := getattr(model, "classes", 0):
        condition["label"] = torch.arange(_SHEET, device=device) % 8 % classes
    if getattr(model, "texts", False) and (known := data.train.get("text")):
        condition["text"] = [known[place * len(known) // _SHEET] for place in range(_SHEET)]
    rows = draw(model, Noise.of_seeds(range(_SHEET), device), spec=data.spec, **condition)
    montage.save(path, medium_of(data.spec).sheet(rows, data.spec, columns=8))


def translations(model: Model, data: Dataset, path: Path) -> None:
    """Held-out pictures, below each what the model makes of it, and below that the truth where there is one."""
    first = next(in_order(data.held_out, min(24, len(data.held_out)), device_of(model)))
    given, truth = model.given(first)
    montage.save(path, beside(translated(model, given, truth, first.rng), spec=data.spec))


def preview(model: Model, data: Dataset, path: Path) -> None:
    """One picture of how far a training is: samples, or translations, of what the model can do."""
    verbs = verbs_of(model)
    if "sample" in verbs:
        sample_grid(model, data, path)
    elif "translate" in verbs:
        translations(model, data, path)


class Checkup:
    """Numbers that a game of two players is judged by while it is played, beside its losses.

    ``overfitting`` is what the model's own ``checkup`` says of seen and unseen pictures; ``classes_covered`` the share
    of the data's classes that a linear probe finds among new samples (as ``metrics.modes``), of a model that grows once
    it has ``grown``. Only of models that have a ``checkup``.
    """

    def __init__(self, data: Dataset):
        self.data = data
        self.probe: Any = None
        self.eye: Any = None

    @torch.no_grad()
    def __call__(self, model: Model) -> dict[str, float]:
        if not hasattr(model, "checkup"):
            return {}
        model.eval()
        seen, unseen = (
            next(in_order(part, min(_CHECKED, len(part)), device_of(model)))
            for part in (self.data.train, self.data.held_out)
        )
        return model.checkup(seen, unseen) | (self._classes(model) if getattr(model, "grown", True) else {})

    def _classes(self, model: Model) -> dict[str, float]:
        labels, kinds = torch.from_numpy(np.array(self.data.train.labels)), len(self.data.classes)
        known = (labels >= 0).nonzero()[:, 0]
        if kinds < 2 or len(known) < _PROBED:
            return {}
        if self.probe is None:
            mixed = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
            rows = known[mixed[:_PROBED]].sort().values  # not every sixth: classes may come in turn
            self.eye = backbone("small", device=str(device_of(model)))
            seen = features(np.ascontiguousarray(self.data.train["x"][rows.numpy()]), self.eye)[:]
            self.probe = Probe.fit(seen, labels[rows], kinds)
        drawn = draw(model, Noise.of_seeds(range(_CHECKED), device_of(model)))
        found = torch.bincount(self.probe.predict(self.eye(drawn).float()), minlength=kinds)
        due = torch.bincount(labels[known], minlength=kinds).double() / len(known) * _CHECKED
        return {"classes_covered": float((found >= 0.2 * due).double().mean())}


@torch.inference_mode()
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


@torch.inference_mode()
def held_out_scores(model: Model, data: Dataset) -> dict[str, float]:
    """Means over the held-out pictures: reconstruction error, and the likelihood or its bound where one is quick."""
    model.eval()
    verbs, device = verbs_of(model), device_of(model)
    likelihoods = ways(model, samples=1, slow=False)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for low, batch in zip(range(0, len(data.held_out), 256), in_order(data.held_out, 256, device), strict=True):
        found: dict[str, Tensor] = {}
        if "encode" in verbs and "decode" in verbs:
            clean, *_, made = reconstruct(model, batch)
            found["reconstruction_mse"] = (clean - made).square().flatten(1).mean(1)
        for way in likelihoods:
            if way.most is None or low < way.most:
                found[f"{way.verb}_nats_per_image"] = way(model, batch)
        if hasattr(model, "held_out"):  # scores of its own, where the verbs do not say how good it is
            found |= model.held_out(batch)
        for name, values in found.items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
            counts[name] = counts.get(name, 0) + len(values)
    scores = {name: value / counts[name] for name, value in sums.items()}
    if "reconstruction_mse" in scores:  # pictures span 2, so the peak's square is 4
        scores["psnr_db"] = 10 * math.log10(4 / max(scores["reconstruction_mse"], 1e-12))
    if getattr(model, "likelihood", "8-bit") == "8-bit":
        dimensions = data.spec.dimensions
        for name, bits in {"elbo": "bits_per_dim_upper_bound", "log_prob": "bits_per_dim"}.items():
            if f"{name}_nats_per_image" in scores:
                scores[bits] = -scores[f"{name}_nats_per_image"] / dimensions / math.log(2)
    return scores


def loss_curve(lines: list[dict[str, Any]], path: Path) -> None:
    """Every metric of metrics.jsonl over the steps."""
    aside = {"step", "seconds", "lr", "images_per_second", "progress", "stage"}
    names = sorted({name for line in lines for name in line} - aside, key=lambda n: (not n.endswith("loss"), n))
    curves = {name: [line for line in lines if name in line] for name in names}  # some are seen now and then only
    if curves:
        told = {n: ([line["step"] for line in known], [line[n] for line in known]) for n, known in curves.items()}
        plots.plot_curves(path, told)


def leave_behind(model: Model, data: Dataset, lines: list[dict[str, Any]], folder: Path) -> dict[str, float]:
    """Write a finished run's pictures to ``folder``; returns the held-out scores."""
    verbs = verbs_of(model)
    if "sample" in verbs:
        sample_grid(model, data, folder / "samples.png")
    if "translate" in verbs:
        translations(model, data, folder / "translations.png")
    if "encode" in verbs and "decode" in verbs:
        first = next(in_order(data.held_out, min(32, len(data.held_out)), device_of(model)))
        montage.save(folder / "reconstructions.png", beside(reconstruct(model, first), spec=data.spec))
        latent_map(model, data, folder / "latent-map.png")
    loss_curve(lines, folder / "loss.png")
    return held_out_scores(model, data)
