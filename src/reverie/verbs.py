"""What a model can do is what methods it has. This is the one list of them.

What they are given in common is a ``Batch``: see ``core.batch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.noise import Noise

Model = Any  # an nn.Module with some of the verbs below (torch types a Module's every attribute as Tensor | Module)


@runtime_checkable
class Samples(Protocol):
    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """One picture per stream of ``noise``: (B, C, H, W) in [-1, 1]. A missing condition is the null condition."""


@runtime_checkable
class Encodes(Protocol):
    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to latents (B, ...), without randomness."""


@runtime_checkable
class Decodes(Protocol):
    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, ...) to pictures (B, C, H, W) in [-1, 1]."""


@runtime_checkable
class Scores(Protocol):
    def log_prob(self, batch: Batch) -> Tensor:
        """Log-likelihood, nats per image (B,): exact, or by as many ``steps`` of an equation as the model takes."""


@runtime_checkable
class Bounds(Protocol):
    def elbo(self, batch: Batch, samples: int = 1) -> Tensor:
        """A lower bound of the log-likelihood, nats per image (B,); draws from ``batch.rng``.

        With ``samples`` above 1 the importance-weighted bound, where the model has one. A diffusion model takes
        ``times`` instead: at how many random steps of its chain each picture is looked at.
        """


@runtime_checkable
class Translates(Protocol):
    def translate(self, source: Tensor, noise: Noise, **condition: Any) -> Tensor:
        """A picture of one domain to its counterpart in the other: (B, C, H, W) to (B, C', H, W)."""


@runtime_checkable
class Restores(Protocol):
    def restore(self, image: Tensor, task: str, **condition: Any) -> Tensor:
        """A degraded picture to a clean one, (B, C, H, W) to (B, C, H, W); ``tasks`` names what it was trained for."""

    tasks: Sequence[str]


VERBS: dict[str, type] = {
    "sample": Samples,
    "encode": Encodes,
    "decode": Decodes,
    "log_prob": Scores,
    "elbo": Bounds,
    "translate": Translates,
    "restore": Restores,
}


def verbs_of(model: Any) -> list[str]:
    """The verbs that a model, or a model class, has."""
    return [verb for verb in VERBS if callable(getattr(model, verb, None))]
