"""Anomaly scores of images by a model, and where in an image its error is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.card import Likelihood, card_of, name_of, reconstructs
from reverie.core.errors import UsageError, argument
from reverie.core.memory import rows_at_once
from reverie.core.noise import Noise
from reverie.core.options import listed
from reverie.core.verbs import Model, verbs_of
from reverie.data.batches import in_order
from reverie.data.types import Split
from reverie.evaluation.likelihood import MODERATE, evenly, nats_of
from reverie.evaluation.reconstruction import mse
from reverie.evaluation.statistics import Moments
from reverie.inference.load import data_of, spec_of
from reverie.inference.rows import device_of, encoded, evaluating

Score = Literal["reconstruction", "peak", "likelihood", "latent"]
Scores = dict[Score, np.ndarray]  # of some rows, (N,) each
SCORES: dict[Score, str] = {
    "reconstruction": "mean squared error of the reconstruction, images span 2",
    "peak": "largest error of the reconstruction anywhere, smoothed",
    "likelihood": "-log p(x) or its bound, in nats",
    "latent": "Mahalanobis distance of the code from the training codes",
}
TRAINING_ROWS = 10_000  # most codes that the mean and covariance come from
_LARGEST = 4096  # dimensions of a code that has a covariance
_RIDGE = 1e-6  # added to the variances of codes, relative to their mean
_SMOOTHING = 28  # pixels of a side for each pixel of the Gaussian's standard deviation


@dataclass(frozen=True)
class Detector:
    """Scores (B,) of images, higher for anomalies. The score of an image depends on no other image.

    The model gets no conditions: an image's class is not part of it.

    Attributes:
        model: a loaded model.
        names: of the scores.
        seed: of the random numbers of a likelihood bound, which are the same for every image.
        mean, factor: (D,) and (D, D): mean and Cholesky factor of the covariance of training codes, for "latent".
    """

    model: Model
    names: tuple[Score, ...]
    seed: int = 0
    mean: Tensor | None = None
    factor: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, names: tuple[Score, ...], seed: int = 0, progress: Progress | None = None) -> Detector:
        """With the moments of at most 10,000 training codes, evenly spaced, where they are needed."""
        if "latent" not in names:
            return cls(model, names, seed)
        codes = encoded(model, evenly(data_of(model).train, TRAINING_ROWS), card_of(model).conditions, progress)
        moments = Moments.of(codes)
        ridge = moments.covariance.diagonal().mean().mul(_RIDGE).clamp(min=1e-30)
        factor = torch.linalg.cholesky(moments.covariance + ridge * torch.eye(codes.shape[1], dtype=torch.float64))
        return cls(model, names, seed, moments.mean, factor)

    def __call__(self, x: Tensor) -> dict[Score, Tensor]:
        """Images (B, C, *shape) to scores by name, (B,) float64 on the CPU."""
        scores: dict[Score, Tensor] = {}
        with evaluating(self.model):
            if set(self.names) - {"likelihood"}:
                latent = self.model.encode(x)
            if {"reconstruction", "peak"} & set(self.names):
                output = self.model.decode(latent)
                scores["reconstruction"] = mse(x, output)
                if "peak" in self.names:
                    scores["peak"] = error_map(x, output).flatten(1).amax(1)
            if "latent" in self.names:
                scores["latent"] = self.distance(latent.flatten(1))
            if "likelihood" in self.names:
                rng = Noise.of_seeds([self.seed] * len(x), x.device)
                scores["likelihood"] = -nats_of(self.model, cheapest(self.model), Batch({"x": x}, rng=rng))
        return {name: scores[name].double().cpu() for name in self.names}

    def distance(self, codes: Tensor) -> Tensor:
        """Mahalanobis distances (B,) of codes (B, D) from the training codes, in float64 on the CPU."""
        assert self.mean is not None and self.factor is not None
        centred = (codes.double().cpu() - self.mean).T
        return torch.linalg.solve_triangular(self.factor, centred, upper=False).norm(dim=0)

    def of_splits(self, splits: Sequence[Split], progress: Progress | None = None) -> Scores:
        """Scores of all rows of some splits, (N,) each."""
        device, parts, done, total = device_of(self.model), list[dict[Score, Tensor]](), 0, sum(map(len, splits))
        for split in splits:
            for batch in in_order(split, rows_at_once(split.spec.shape, device), device):
                parts.append(self(batch["x"]))
                done += batch.rows
                if progress:
                    progress(done, total, "scoring")
        return {name: torch.cat([part[name] for part in parts]).numpy() for name in self.names}


def available(model: Model) -> tuple[Score, ...]:
    """The scores that a model has, the default first: likelihoods of up to 32 network evaluations.

    Raises:
        UsageError: none.
    """
    spec, names = spec_of(model), list[Score]()
    if reconstructs(model):
        names += ["reconstruction", "peak"] if spec.medium == "image" else ["reconstruction"]
    if card_of(model).likelihoods and cheapest(model).evaluations <= MODERATE:
        names.append("likelihood")
    space = card_of(model).space
    if "encode" in verbs_of(model) and space and space.encode in ("exact", "mean") and space.kind != "tokens":
        names += ["latent"] * (math.prod(space.shape) <= _LARGEST)
    if not names:
        raise UsageError(
            f"{name_of(model)} neither encodes images without a search nor states their likelihood at a moderate cost: "
            "it cannot score anomalies. An autoencoder or a vae can."
        )
    return tuple(names)


def check_score(score: str | None, names: tuple[Score, ...]) -> Score:
    """The score of that name; by default the first.

    Raises:
        UsageError: the model has no such score.
    """
    if score is not None and score not in names:
        raise UsageError(f"{argument('score')} must be one of {listed(names)} of this model, not {score!r}.")
    return names[0] if score is None else score


def cheapest(model: Model) -> Likelihood:
    """The likelihood of a model's card with the fewest network evaluations."""
    return min(card_of(model).likelihoods, key=lambda likelihood: likelihood.evaluations)


def error_map(image: Tensor, output: Tensor) -> Tensor:
    """Where two sets of images (B, C, H, W) differ: squared error, mean over channels, smoothed (B, H, W).

    The Gaussian has a standard deviation of one pixel for each 28 pixels of the longer side; borders are repeated.
    """
    error = (image.double() - output.double()).square().mean(1, keepdim=True)
    sigma = max(image.shape[2:]) / _SMOOTHING
    radius = math.ceil(3 * sigma)
    window = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device).double() / sigma).square())
    window /= window.sum()
    padded = F.pad(error, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))[:, 0]
