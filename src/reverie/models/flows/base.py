"""Normalizing flows: an invertible function from images to N(0, I), trained by maximum likelihood.

log p(x) = log N(z; 0, I) + log |det dz / dx| with z = f(x); samples are f^-1 of draws from N(0, I). Every flow is a
``NormalizingFlow``; its system chooses the transform f. Deviations from the papers are listed in docs/systems/flows.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output, Space
from reverie.core.noise import Noise
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.conditioning import check_label, drop_label
from reverie.probability.dequantisation import UniformDequantiser, normal_log_prob
from reverie.probability.transforms import fit_actnorm

_CLIP = 1.0  # largest gradient norm: an outlier's z squared would drive a whole step
_SAMPLES = 16  # of the dequantisation noise, in the importance-weighted bound


class Transform(Protocol):
    """An invertible function of images, an ``nn.Module``; ``label`` (B,) is int64, -1 or None for any class.

    Its networks may run under autocast; z, the image and the log-determinant are of at least float32.
    """

    def __call__(self, x: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) to z (B, D), D = C H W, and log |det dz / dx| in nats (B,)."""

    def inverse(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, D) to images (B, C, H, W)."""


class NormalizingFlow(nn.Module):
    """A density by change of variables.

    Args:
        transform: from images in [-1, 1], dequantised and so up to 1 / 255 beyond, to z: see ``Transform``.
        output: its images.
        dequantiser: see ``probability.dequantisation``; None: uniform.
        classes: number of classes that the transform is conditioned on; 0 for none.
        optimizer: (module, lr, weight_decay) to the optimiser.
        precision: of the training: "fp32", or None for the run's.
        values: type of the transformed values, at least, in ``encode`` and ``decode``.
    """

    def __init__(
        self,
        transform: nn.Module,
        output: Output,
        dequantiser: nn.Module | None = None,
        classes: int = 0,
        optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] = Muon,
        precision: Literal["fp32"] | None = None,
        values: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.transform, self.output, self.classes = transform, output, classes
        self.dequantiser = UniformDequantiser() if dequantiser is None else dequantiser
        self.optimizer, self.precision, self.values = optimizer, precision, values

    @property
    def dimensions(self) -> int:
        """D, of an image and of z."""
        return self.output.channels * math.prod(self.output.shape)

    @property
    def card(self) -> Card:
        conditions = {"label": self.classes} if self.classes else {}
        noise: Any = "variational" if self.dequantiser.variational else "uniform"
        options: Any = {"dequantised": True, "dequantisation": noise}
        weighted: Any = {"suffix": f"iw{_SAMPLES}", "evaluations": _SAMPLES, "options": {"samples": _SAMPLES}}
        return Card(
            output=self.output,
            conditions=conditions,
            columns=conditions.keys(),
            latents={"z": Space((self.dimensions,), "normal", "exact")},
            likelihoods=(
                Likelihood("log_prob", "bound", "8-bit", **options),
                Likelihood("log_prob", "bound", "8-bit", **options, **weighted, rows=2048),
            ),
        )

    # Training

    def stages(self, lr: Weight = 1e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        """Maximum likelihood; before its first step every ActNorm is fitted to the first batch."""
        nll = Phase("nll", self.optimizer(self, lr, weight_decay), self.loss, clip=_CLIP)
        return [Stage([nll], prepare=self._prepare, precision=self.precision)]

    def _prepare(self, batches: Any, fresh: bool) -> None:
        if fresh:
            batch = batches.global_batch(0)
            x, _ = self.dequantiser(batch["x"], batch.get("label"), batch.rng)
            fit_actnorm(self.transform, x, batch.get("label"))

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """The bound of -log P of 8-bit images in bits per dimension, a mean over images."""
        label = drop_label(batch.get("label"), batch.rng) if self.classes else None
        bits = -self._bound(batch["x"], label, batch.rng).mean() / (self.dimensions * math.log(2))
        return {"loss": bits, "bits_per_dim": bits.detach()}

    # Likelihood

    def log_density(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(x) of continuous images (B, C, H, W), exactly, nats (B,)."""
        z, log_det = self.transform(x, label)
        return normal_log_prob(z) + log_det

    def _bound(self, image: Tensor, label: Tensor | None, rng: Noise) -> Tensor:
        x, log_q = self.dequantiser(image, label, rng)
        return self.log_density(x, label) - log_q

    def log_prob(self, batch: Batch, samples: Count = 1) -> Tensor:
        """A lower bound of log P of 8-bit images, nats (B,), given their label where there is one.

        Args:
            samples: of the dequantisation noise; several are importance-weighted (Burda et al., arXiv:1509.00519).
        """
        label = batch.get("label") if self.classes else None
        bounds = torch.stack([self._bound(batch["x"], label, batch.rng) for _ in range(samples)])
        return torch.logsumexp(bounds, 0) - math.log(samples)

    # Latents

    def encode(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to z (B, D), exactly, at the centre of the levels' bins."""
        check_label(label, self.classes)
        return self.transform(self._values(image), label if self.classes else None)[0].to(image.dtype)

    def features(self, image: Tensor) -> Tensor:
        """As ``encode``: the layers are those of the coupling networks."""
        return self.encode(image)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """z (B, D) to images (B, C, H, W) in [-1, 1]."""
        check_label(label, self.classes)
        x = self.transform.inverse(self._values(latent), label if self.classes else None)  # type: ignore[operator]
        return x.to(latent.dtype).clamp(-1, 1)

    def _values(self, x: Tensor) -> Tensor:
        return x if x.device.type == "mps" else x.to(torch.promote_types(x.dtype, self.values))  # it has no float64

    def latent(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """z (B, D) of N(0, I)."""
        return noise(self.dimensions).to(next(self.parameters()))

    def sample(self, noise: Noise, label: Tensor | None = None, temperature: Weight = 1.0) -> Tensor:
        """Images (B, C, H, W).

        Args:
            temperature: standard deviation of z; below 1 images are more typical and less varied, at 0 there is one.
        """
        return self.decode(self.latent(noise) * temperature, label)
