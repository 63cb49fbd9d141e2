"""Latents of held-out images in the plane."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from reverie.core.card import card_of
from reverie.core.memory import rows_at_once
from reverie.core.noise import Noise
from reverie.core.verbs import Model
from reverie.data.batches import in_order
from reverie.data.types import Dataset
from reverie.inference.rows import conditioning, device_of, evaluating
from reverie.media import plots


def latent_map(model: Model, data: Dataset, count: int = 2000) -> np.ndarray:
    """Latents of held-out images in the plane of their two first principal components, coloured by class.

    Where the latents have a prior N(0, I), its projection on the same plane is behind them.
    """
    device, latents, labels = device_of(model), [], []
    with evaluating(model):
        for batch in in_order(data.held_out, rows_at_once(data.spec.shape, device, 256), device):
            latents.append(model.encode(batch["x"], **conditioning(model, batch)).flatten(1).cpu())
            labels.append(batch["label"].cpu())
            if sum(map(len, latents)) >= count:
                break
    points, space = torch.cat(latents)[:count], card_of(model).space
    prior = Noise.of_seeds(range(1000))(points.shape[1]) if space and space.prior == "normal" else points[:0]
    title = f"Latents of {len(points):,} held-out images"
    if points.shape[1] > 2:
        centre = points.mean(0)
        _, spread, axes = torch.linalg.svd(points - centre, full_matrices=False)
        share = spread[:2].square().sum() / spread.square().sum().clamp(min=1e-12)
        points, prior = points @ axes[:2].T, prior @ axes[:2].T  # not centred: N(0, I) stays around 0
        title += f": first two principal components, {share:.0%} of the variance"
    if points.shape[1] == 1:
        points, prior = (torch.cat([p, torch.zeros_like(p)], 1) for p in (points, prior))
    buffer = io.BytesIO()
    plots.plot_latent_map(
        buffer, points[:, :2].numpy(), torch.cat(labels)[:count].numpy(), data.classes, prior[:, :2].numpy(), title
    )
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
