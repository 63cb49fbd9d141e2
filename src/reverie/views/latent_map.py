"""Latents of held-out images in the plane."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reverie.core.noise import Noise
from reverie.core.verbs import Model
from reverie.data.types import Dataset
from reverie.inference.rows import encoded, space_of
from reverie.media import plots
from reverie.probability.pca import PCA

_PRIOR = 1000  # samples of N(0, I) behind the latents


@dataclass(frozen=True)
class Plane:
    """The plane of latents: two of them as they are, more by their first two principal components.

    Attributes:
        axes: (D, 2); it is not centred, so that N(0, I) stays around 0.
        note: how more than two become two.
    """

    axes: Tensor
    note: str = ""

    @classmethod
    def of(cls, latents: Tensor) -> Plane:
        """The plane of latents (N, D)."""
        width = latents.shape[1]
        if width <= 2 or len(latents) < 2:
            return cls(torch.eye(width, 2))
        pca = PCA.fit(latents, 2)
        return cls(pca.axes.to(latents), f"first two principal components, {pca.share.sum():.0%} of the variance")

    def __call__(self, latents: Tensor) -> np.ndarray:
        """Latents (N, D) in the plane (N, 2)."""
        return (latents @ self.axes).numpy()

    def prior(self, model: Model, space: str | None = None) -> np.ndarray:
        """Samples (M, 2) of the prior of a latent space in the plane; none (0, 2) unless that is N(0, I)."""
        named = space_of(model, space)
        count = _PRIOR if named and named.prior == "normal" else 0
        return self(Noise.of_seeds(range(count))(len(self.axes)))


def latent_map(model: Model, data: Dataset, count: int = 2000) -> np.ndarray:
    """Latents of held-out images in the plane of their two first principal components, coloured by class.

    Where the latents have a prior N(0, I), its projection on the same plane is behind them.
    """
    split, side = data.examples.take(slice(count)), "held-out" if len(data.held_out) else "training"
    latents = encoded(model, split)
    plane, buffer = Plane.of(latents), io.BytesIO()
    title = f"Latents of {len(latents):,} {side} {data.spec.medium}s{': ' * bool(plane.note)}{plane.note}"
    panel = plots.Panel(title, plane(latents), plane.prior(model))
    plots.plot_latent_maps(buffer, [panel], np.asarray(split.labels), data.classes)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))
