"""What a model can do is what methods it has. This is the one list of them; everything else stands on its card."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.noise import Noise

Model = Any  # an nn.Module with some of the verbs below (torch types a Module's every attribute as Tensor | Module)


@dataclass(frozen=True)
class Frame:
    """One intermediate state of generation.

    Attributes:
        progress: 0 at the start, 1 at the sample.
        tensors: the state as the model has it, by name, rows first.
        render: makes images (B, C, *shape) in [-1, 1] of it when somebody looks, by name; the first is the state
            itself, and that of the last frame is the sample.
    """

    progress: float
    tensors: dict[str, Tensor]
    render: Callable[[], dict[str, Tensor]]


# Generation. A condition is a column of the data (label, text, source ...); a missing one is the null condition.


class Samples(Protocol):
    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """One sample per stream of ``noise``: (B, C, *shape) in [-1, 1]."""


class Streams(Protocol):
    def stream(self, noise: Noise, **condition: Any) -> Iterator[Frame]:
        """The intermediate states of ``sample``, which is the last of them."""


class Translates(Protocol):
    def translate(self, source: Tensor, noise: Noise, **condition: Any) -> Tensor:
        """An image of one domain to its counterpart in the other: (B, C, H, W) to (B, C', H, W)."""


class Restores(Protocol):
    def restore(self, image: Tensor, task: str, **condition: Any) -> Tensor:
        """A degraded image to a clean one, (B, C, H, W) to (B, C, H, W)."""


# Latent spaces. ``card.latents`` names them; a model with several takes ``space=``, and the first is the default.


class Encodes(Protocol):
    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, *shape) to latents (B, ...), without randomness."""


class Decodes(Protocol):
    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, ...) to samples (B, C, *shape) in [-1, 1]."""


class DrawsLatents(Protocol):
    def latents(self, noise: Noise, **condition: Any) -> Tensor:
        """The latents (B, ...) of the samples that ``sample`` draws."""


# Likelihood. ``card.likelihoods`` says of what each number is, and how exact.


class Scores(Protocol):
    def log_prob(self, batch: Batch) -> Tensor:
        """Log-likelihood, nats per row (B,)."""


class Bounds(Protocol):
    def elbo(self, batch: Batch) -> Tensor:
        """A lower bound of the log-likelihood, nats per row (B,); draws from ``batch.rng``."""


class Estimates(Protocol):
    def estimate(self, batch: Batch) -> Tensor:
        """An estimate of the log-likelihood that is no bound, nats per row (B,); draws from ``batch.rng``."""


# Diffusion


class Denoises(Protocol):
    def denoiser(self, **condition: Any) -> Callable[[Tensor, float, float], Tensor]:
        """E[x0 | x] under a condition, as a function of x, alpha and sigma, for x = alpha x0 + sigma e."""


class Diffuses(Protocol):
    schedule: Any

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """What training sees at time t in [0, 1], as images of noise of one size; the noise is the same at all t."""


class Classifies(Protocol):
    def class_log_prob(self, x: Tensor, alpha: float, sigma: float, label: Tensor) -> Tensor:
        """log p(label | x) in nats (B,), for x = alpha x0 + sigma e."""


# What shared code asks of a model that has it: training, and numbers and previews of its own


class Trains(Protocol):
    def stages(self, **options: Any) -> Sequence[Any]:
        """How it is trained: see ``optim.phase``."""


class Corrupts(Protocol):
    def corrupt(self, image: Tensor, rng: Noise) -> Tensor:
        """The corruption that it was trained to undo."""


class HasSources(Protocol):
    def given(self, batch: Batch, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Of a batch what ``translate`` takes, row by row, and the truth where the data has it."""


class HasDomains(Protocol):
    def domains(self, batch: Batch, **options: Any) -> tuple[Tensor, Tensor, bool]:
        """Of a batch the rows of the source domain, those of the target domain, and whether the two are pairs."""


class ChecksUp(Protocol):
    def checkup(self, seen: Batch, unseen: Batch) -> dict[str, float]:
        """Numbers that training is judged by beside its losses, from rows of the training split and held-out ones."""


class HasScores(Protocol):
    def held_out(self, batch: Batch) -> dict[str, Tensor]:
        """Scores of its own, (B,) each, where the other verbs do not say how good it is."""


VERBS: dict[str, type] = {
    "sample": Samples,
    "stream": Streams,
    "translate": Translates,
    "restore": Restores,
    "encode": Encodes,
    "decode": Decodes,
    "latents": DrawsLatents,
    "log_prob": Scores,
    "elbo": Bounds,
    "estimate": Estimates,
    "denoiser": Denoises,
    "diffuse": Diffuses,
    "class_log_prob": Classifies,
    "stages": Trains,
    "corrupt": Corrupts,
    "given": HasSources,
    "domains": HasDomains,
    "checkup": ChecksUp,
    "held_out": HasScores,
}
USED = tuple(VERBS)[: tuple(VERBS).index("denoiser")]  # what a person asks of a model; the others serve shared code


def verbs_of(model: Model | type[Model]) -> list[str]:
    """The verbs that a model, or a class of models, has."""
    return [verb for verb in VERBS if callable(getattr(model, verb, None))]


def call(model: Model, verb: str, *arguments: Any, **options: Any) -> Any:
    """A verb by its name."""
    return getattr(model, verb)(*arguments, **options)
