"""A classifier of noisy images: p(class | x, sigma / alpha), for guiding a diffusion model without classes.

Dhariwal and Nguyen, "Diffusion models beat GANs on image synthesis", NeurIPS 2021, arXiv:2105.05233, section 4.
Deviations are listed in docs/systems/diffusion.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Channels, Classes, Count, Range, Shape, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Output
from reverie.core.errors import UsageError
from reverie.core.noise import Noise
from reverie.nets.convolutional import Encoder
from reverie.nets.shapes import sides
from reverie.nets.unet import sinusoids
from reverie.optim.phase import Phase, Stage, adamw

_LOW, _HIGH = math.log(0.05), math.log(100.0)  # log(sigma / alpha) in training; beyond, it is clamped


class NoisyClassifier(nn.Module):
    """The class of an image under any amount of noise; one serves every diffusion model of the same images.

    x = alpha x0 + sigma e is divided by sqrt(alpha^2 + sigma^2), and the network is conditioned on sigma / alpha alone,
    so that schedules of every scaling look alike to it.

    Args:
        encoder: images (B, C, H, W) to features (B, 4 width).
        output: the images that it reads.
        classes: number of classes.
        width: channels of the encoder's finest level.
    """

    def __init__(self, encoder: nn.Module, output: Output, classes: int, width: int):
        super().__init__()
        self.output, self.classes, self.frequencies = output, classes, 2 * width
        features = 4 * width
        self.encoder = encoder
        self.level = nn.Sequential(nn.Linear(2 * width, features), nn.SiLU(), nn.Linear(features, 2 * features))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(features, features), nn.SiLU(), nn.Linear(features, classes))

    @property
    def card(self) -> Card:
        return Card(
            output=self.output,
            conditions={"label": self.classes},
            columns={"label"},
            serves="reverie sample RUN --classifier THIS --label CLASS steers a diffusion run.",
        )

    def stages(self, lr: Weight = 2e-3, weight_decay: Weight = 0.01) -> list[Stage]:
        return [Stage([Phase("classify", adamw(self.parameters(), lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """Cross-entropy in nats under noise of a random level; images without a class count as 0."""
        label = batch["label"]
        logits = self.logits(*self.noised(batch["x"], batch.rng))
        nats = F.cross_entropy(logits, label, ignore_index=-1, reduction="none")
        correct = (logits.argmax(1) == label).float()
        return {"loss": nats.mean(), "accuracy": correct.mean()}

    def noised(self, image: Tensor, rng: Noise) -> tuple[Tensor, Tensor]:
        """Images of variance-preserving noise (B, C, H, W), and log(sigma / alpha) (B,), drawn evenly."""
        log_ratio = rng.uniform(1, low=_LOW, high=_HIGH)[:, 0]
        alpha = torch.sigmoid(-2 * log_ratio).sqrt()[:, None, None, None]
        sigma = torch.sigmoid(2 * log_ratio).sqrt()[:, None, None, None]
        return alpha * image + sigma * rng(*image.shape[1:]).to(image), log_ratio

    def logits(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        """(B, classes) from x (B, C, H, W) with alpha^2 + sigma^2 = 1 and log(sigma / alpha) (B,)."""
        embedding = sinusoids(100 * log_ratio.clamp(_LOW, _HIGH), self.frequencies)
        scale, shift = self.level(embedding.to(x.dtype)).chunk(2, 1)
        return self.head(self.encoder(x) * (1 + scale) + shift).float()

    def class_log_prob(self, x: Tensor, alpha: float, sigma: float, label: Tensor) -> Tensor:
        """log p(label | x) of each row (B,), in nats, for x = alpha x0 + sigma e of any scaling."""
        log_ratio = torch.full((len(x),), math.log(sigma / alpha), device=x.device)
        nats = self.logits(x / (alpha**2 + sigma**2) ** 0.5, log_ratio).log_softmax(1)
        return nats.gather(1, label.clone()[:, None])[:, 0]  # a clone: autograd keeps no tensor of inference mode

    def features(self, image: Tensor) -> Tensor:
        """The classes' logits (B, classes) of images without noise."""
        return self.logits(image, torch.full((len(image),), _LOW, device=image.device))

    def held_out_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Whether each image (B,) is classified correctly, clean and under training's noise."""
        clean = batch["x"], torch.full((len(batch["x"]),), _LOW, device=batch["x"].device)
        inputs = {"accuracy_clean": clean, "accuracy_noised": self.noised(batch["x"], batch.rng)}
        return {name: (self.logits(*x).argmax(1) == batch["label"]).float() for name, x in inputs.items()}


def noisy_classifier(
    shape: Shape,
    channels: Channels,
    classes: Classes = 0,
    width: Count = 32,
    depth: Annotated[int, Range(0)] = 1,
) -> NoisyClassifier:
    """The class of an image under any amount of noise; one serves every diffusion model of the same images.

    Args:
        shape: (height, width) of the images in pixels, or one number for squares.
        channels: 1, 3 or 4 (RGBA).
        classes: number of classes in the data, at least 2.
        width: channels of the network's finest level.
        depth: residual blocks a level.
    """
    if classes < 2:
        raise UsageError("A classifier needs images with at least two classes (sub-folders are classes).")
    size = sides(shape)
    encoder = Encoder(size, channels, 4 * width, width, depth)
    return NoisyClassifier(encoder, Output("image", size, channels), classes, width)
