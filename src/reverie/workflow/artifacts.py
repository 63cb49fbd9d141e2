"""The final images and numbers of a run: views, loss curves, scores on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reverie.core.cache import Progress
from reverie.core.card import card_of, name_of, reconstructs
from reverie.core.memory import rows_at_once
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.evaluation.likelihood import GLANCE, affordable, nats_of
from reverie.evaluation.reconstruction import mse, psnr
from reverie.inference.rows import device_of, reconstruct
from reverie.media import montage, plots
from reverie.media.origin import Origin
from reverie.probability.likelihoods import bits_per_dim
from reverie.training.bar import BITS, same_as_loss
from reverie.views import VIEWS, View, views_of


def preview_of(model: Model, data: Dataset | None, verbs: set[str]) -> View | None:
    """The view for previews during training, or None if no verb of the current stage has one."""
    previews = (view for view in VIEWS.values() if view.use == "preview")
    return next((view for view in previews if set(view.verbs) & verbs and view.applies(model, data)), None)


@torch.no_grad()
def held_out_scores(model: Model, data: Dataset, progress: Progress | None = None) -> dict[str, float]:
    """Means over held-out data: the likelihood or its bound if it is fast to compute, by the names of ``evaluate``, and
    the reconstruction error, unless the model loses nothing. None where nothing is held out.
    """
    if not len(data.held_out):
        return {}
    model.eval()
    space = card_of(model).space
    errors = reconstructs(model) and not (space and space.lossless)
    verbs, device = verbs_of(model), device_of(model)
    likelihoods = affordable(model, GLANCE)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    at_once = rows_at_once(data.spec.shape, device, 256)
    starts = range(0, len(data.held_out), at_once)
    for low, batch in zip(starts, in_order(data.held_out, at_once, device), strict=True):
        values: dict[str, Tensor] = {}
        if errors:
            clean, *_, output = reconstruct(model, batch)
            values |= {"mse": mse(clean, output), "psnr": psnr(clean, output)}
        for method in likelihoods:
            if not method.rows or low < method.rows:
                values[method.scores[0]] = -nats_of(model, method, batch)
        if "held_out_scores" in verbs:  # scores of the model itself
            values |= model.held_out_scores(batch)
        for name, rows in values.items():
            sums[name] = sums.get(name, 0.0) + float(rows.double().sum())
            counts[name] = counts.get(name, 0) + len(rows)
        if progress:
            progress(low + len(batch["x"]), len(data.held_out), "scores of held-out images")
    scores = {name: value / counts[name] for name, value in sums.items()}
    in_bits = [(name, method.scores[0]) for method in likelihoods for name in method.scores[1:]]
    return {name: bits_per_dim(scores[nats], data.spec.dimensions) for name, nats in in_bits} | scores


def loss_curve(lines: list[dict[str, Any]], path: Path, origin: Origin | None = None) -> None:
    """The losses of metrics.jsonl over the steps, in bits per dimension where they are known, and below them every
    other metric.
    """
    exclude = {"step", "seconds", "lr", "images_per_second", "progress", "stage"}
    logged = {name for line in lines for name in line} - exclude
    names = sorted(logged - same_as_loss(logged), key=lambda n: (not n.endswith(("loss", BITS)), n))
    curves = {name: [line for line in lines if name in line] for name in names}  # some are logged now and then only
    if curves:
        steps = {n: ([line["step"] for line in some], [line[n] for line in some]) for n, some in curves.items()}
        plots.plot_curves(path, steps, origin)


def write_artifacts(
    model: Model,
    data: Dataset | None,
    lines: list[dict[str, Any]],
    folder: Path,
    count: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Write a finished run's images and plots to ``folder``; returns the held-out scores.

    Args:
        count: how many samples.
        progress: called as (done, total, what) while held-out data is scored.
    """
    views = [view for view in views_of(model, data) if view.use == "end"]
    origin = {"verb": "train", "run": folder.name, "model": name_of(model), "step": lines[-1]["step"] if lines else 0}
    if preview := preview_of(model, data, set(verbs_of(model))):
        montage.save(folder / f"{preview.name}.png", preview.render(model, data, min(count, preview.count)), origin)
    for view in views:
        montage.save(folder / f"{view.name}.png", view.render(model, data), origin)
    loss_curve(lines, folder / "loss.png", origin)
    return {} if data is None else held_out_scores(model, data, progress)
