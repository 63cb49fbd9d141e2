"""A classifier that knows noise: p(class | x, sigma / alpha), for steering a diffusion model that knows no classes.

Dhariwal and Nguyen, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, arXiv:2105.05233, section 4.
Deviations are listed in docs/systems/diffusion.md.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.nets.convolutional import Encoder
from reverie.nets.shapes import Sides, sides
from reverie.nets.unet import sinusoids
from reverie.optim.phase import Phase, Stage, adamw

_LEAST, _MOST = math.log(0.05), math.log(100.0)  # log(sigma / alpha) in training; beyond, the nearer end is told


class NoisyClassifier(nn.Module):
    """The class of a picture under any amount of noise; one serves every diffusion model of the same pictures.

    x = alpha x0 + sigma e is divided by sqrt(alpha^2 + sigma^2) and only sigma / alpha is told, so schedules of every
    scaling look alike to it.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1 or 3.
        classes: number of classes in the data, at least 2.
        width: channels of the network's finest level.
        depth: residual blocks a level.
    """

    def __init__(self, shape: Sides, channels: int, classes: int = 0, width: int = 32, depth: int = 1):
        super().__init__()
        if classes < 2:
            raise UsageError("A classifier needs pictures with at least two classes (sub-folders are classes).")
        self.shape, self.channels, self.classes, self.frequencies = sides(shape), channels, classes, 2 * width
        features = 4 * width
        self.encoder = Encoder(self.shape, channels, features, width, depth)
        self.level = nn.Sequential(nn.Linear(2 * width, features), nn.SiLU(), nn.Linear(features, 2 * features))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU(), nn.Linear(features, classes))

    @property
    def card(self) -> Card:
        return Card(
            output=Output("image", self.shape, self.channels),
            conditions={"label": self.classes},
            columns={"label"},
            serves="reverie sample RUN --classifier THIS --label CLASS steers a diffusion run.",
        )

    def stages(self, lr: float = 2e-3, weight_decay: float = 0.01) -> list[Stage]:
        return [Stage([Phase("classify", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Cross-entropy in nats under noise of a random level; pictures without a class count as 0."""
        label = batch["label"]
        logits = self.logits(*self.noised(batch["x"], batch.rng))
        nats = F.cross_entropy(logits, label, ignore_index=-1, reduction="none")
        right = (logits.argmax(1) == label).float()
        return {"loss": nats.mean(), "accuracy": right.mean()}

    def noised(self, image: Tensor, rng: Noise) -> tuple[Tensor, Tensor]:
        """Pictures of variance-preserving noise (B, C, H, W), and log(sigma / alpha) (B,), drawn evenly."""
        log_ratio = rng.uniform(1, low=_LEAST, high=_MOST)[:, 0]
        alpha = torch.sigmoid(-2 * log_ratio).sqrt()[:, None, None, None]
        sigma = torch.sigmoid(2 * log_ratio).sqrt()[:, None, None, None]
        return alpha * image + sigma * rng(*image.shape[1:]).to(image), log_ratio

    def logits(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        """(B, classes) from x (B, C, H, W) with alpha^2 + sigma^2 = 1 and log(sigma / alpha) (B,)."""
        told = sinusoids(100 * log_ratio.clamp(_LEAST, _MOST), self.frequencies)
        scale, shift = self.level(told.to(x.dtype)).chunk(2, 1)
        return self.head(self.encoder(x) * (1 + scale) + shift).float()

    def class_log_prob(self, x: Tensor, alpha: float, sigma: float, label: Tensor) -> Tensor:
        """log p(label | x) of each row (B,), in nats, for x = alpha x0 + sigma e of any scaling."""
        log_ratio = torch.full((len(x),), math.log(sigma / alpha), device=x.device)
        nats = self.logits(x / (alpha**2 + sigma**2) ** 0.5, log_ratio).log_softmax(1)
        return nats.gather(1, label.clone()[:, None])[:, 0]  # a clone: autograd keeps no tensor of inference mode

    def held_out(self, batch: Batch) -> dict[str, Tensor]:
        """Of each picture (B,): is its class named right, clean and under training's noise."""
        found = {}
        clean = torch.full((len(batch["x"]),), _LEAST, device=batch["x"].device)
        for name, seen in {
            "clean": (batch["x"], clean),
            "noised": self.noised(batch["x"], batch.rng),
        }.items():
            found[f"accuracy_{name}"] = (self.logits(*seen).argmax(1) == batch["label"]).float()
        return found
