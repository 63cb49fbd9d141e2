"""A model's capabilities are its methods. This is the list of them; other properties are on its card."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.noise import Noise

Model = Any  # an nn.Module with some of the verbs below (torch types every attribute of a Module as Tensor | Module)


@dataclass(frozen=True)
class Frame:
    """One intermediate state of generation.

    Attributes:
        progress: 0 at the start, 1 at the sample.
        tensors: the model's state by name, rows first.
        render: renders it lazily to images (B, C, *shape) in [-1, 1] by name; the first shows the state itself, and in
            the last frame it is the sample.
    """

    progress: float
    tensors: dict[str, Tensor]
    render: Callable[[], dict[str, Tensor]]


# Generation. A condition is a column of the data (label, text, source ...); without it, the null condition.


class Samples(Protocol):
    def sample(self, noise: Noise, **condition: Any) -> Tensor:
        """One sample per stream of ``noise``: (B, C, *shape) in [-1, 1]."""


class Streams(Protocol):
    def stream(self, noise: Noise, **condition: Any) -> Iterator[Frame]:
        """The intermediate states of ``sample``; the last is the sample."""


class Translates(Protocol):
    def translate(self, source: Tensor, noise: Noise, **condition: Any) -> Tensor:
        """Translate images of the source domain to the target domain: (B, C, H, W) to (B, C', H, W)."""


class Stylizes(Protocol):
    def stylize(self, image: Tensor, style: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """Images (B, C, H, W) of any size in a style: the same shape.

        ``style`` (B or 1, ...) is of the verb ``style``; a model without that verb has one style, of strength 1.
        """


class DescribesStyles(Protocol):
    def style(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) of any size to styles (B, ...), whose weighted means are styles, too."""


# Latent spaces, named in ``card.latents``; a model with several takes ``space=`` (default: the first).


class Encodes(Protocol):
    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, *shape) to latents (B, ...), without randomness."""


class Decodes(Protocol):
    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Latents (B, ...) to samples (B, C, *shape) in [-1, 1]."""


class DrawsLatents(Protocol):
    def latent(self, noise: Noise, **condition: Any) -> Tensor:
        """The latents (B, ...) from which ``sample`` generates."""


# Likelihood. ``card.likelihoods`` states of what each number is, and how exact.


class Scores(Protocol):
    def log_prob(self, batch: Batch) -> Tensor:
        """Log-likelihood, nats per row (B,)."""


class Bounds(Protocol):
    def elbo(self, batch: Batch) -> Tensor:
        """A lower bound of the log-likelihood, nats per row (B,); random numbers from ``batch.rng``."""


class Estimates(Protocol):
    def estimate(self, batch: Batch) -> Tensor:
        """An estimate of the log-likelihood (no bound), nats per row (B,); random numbers from ``batch.rng``."""


# Diffusion


class Denoises(Protocol):
    def denoiser(self, **condition: Any) -> Callable[[Tensor, float, float], Tensor]:
        """E[x0 | x] under a condition, as a function of x, alpha and sigma, for x = alpha x0 + sigma e."""


class Diffuses(Protocol):
    schedule: Any

    def diffuse(self, batch: Batch, t: float) -> Tensor:
        """The noisy images of training at time t in [0, 1]; the noise is the same at all t."""


class Classifies(Protocol):
    def class_log_prob(self, x: Tensor, alpha: float, sigma: float, label: Tensor) -> Tensor:
        """log p(label | x) in nats (B,), for x = alpha x0 + sigma e."""


# Networks that look at images


class LooksAtImages(Protocol):
    def features(self, image: Tensor) -> Any:
        """Run the network that looks at images on (B, C, H, W) in [-1, 1], without randomness.

        Of value are the activations of its modules, which hooks see; rows do not depend on one another.
        """


# Optional methods that shared code calls: training, scores and previews


class Trains(Protocol):
    def stages(self, **options: Any) -> Sequence[Any]:
        """The stages of its training: see ``optim.phase``."""


class Corrupts(Protocol):
    def corrupt(self, image: Tensor, rng: Noise) -> Tensor:
        """The corruption that it was trained to undo."""


class Completes(Protocol):
    def complete(
        self, image: Tensor, mask: Tensor, noise: Noise, sweeps: int = 200, **condition: Any
    ) -> Iterator[Frame]:
        """The states of images (B, C, H, W) whose pixels where ``mask`` (1 or B, 1, H, W) is false are drawn anew."""


class Factorises(Protocol):
    def conditionals(self, rows: int, **condition: Any) -> Generator[Any, Tensor, None]:
        """The exact distribution of the levels of new rows by the chain rule, see ``probability.sequential``."""


class CodesPortably(Protocol):
    def portable(self) -> Any:
        """Its density of images of any size in integers, equal on every machine, see ``probability.wavefront``."""


class HasSources(Protocol):
    def translation_pair(self, batch: Batch, **options: Any) -> tuple[Tensor, Tensor | None]:
        """The source images of a batch for ``translate``, and the target images if the data has them."""


class HasDomains(Protocol):
    def domains(self, batch: Batch, **options: Any) -> tuple[Tensor, Tensor, bool]:
        """The source-domain rows of a batch, its target-domain rows, and whether these are pairs."""


class Diagnoses(Protocol):
    def diagnostics(self, train: Batch, held_out: Batch) -> dict[str, float]:
        """Diagnostics of training beside the losses, from training rows and held-out rows."""


class Normalises(Protocol):
    def log_partition(self, progress: Progress | None = None) -> tuple[float, float, float]:
        """log Z of an energy, on which all likelihoods depend, in nats, and the ends of its 95 % interval."""


class HasScores(Protocol):
    def held_out_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Model-specific scores, (B,) each."""


VERBS: dict[str, type] = {
    "sample": Samples,
    "stream": Streams,
    "translate": Translates,
    "stylize": Stylizes,
    "style": DescribesStyles,
    "encode": Encodes,
    "decode": Decodes,
    "latent": DrawsLatents,
    "log_prob": Scores,
    "elbo": Bounds,
    "estimate": Estimates,
    "denoiser": Denoises,
    "diffuse": Diffuses,
    "class_log_prob": Classifies,
    "features": LooksAtImages,
    "stages": Trains,
    "corrupt": Corrupts,
    "complete": Completes,
    "conditionals": Factorises,
    "portable": CodesPortably,
    "translation_pair": HasSources,
    "domains": HasDomains,
    "diagnostics": Diagnoses,
    "log_partition": Normalises,
    "held_out_scores": HasScores,
}
USED = tuple(VERBS)[: tuple(VERBS).index("denoiser")]  # the verbs for users; shared code calls the others


def verbs_of(model: Model | type[Model]) -> list[str]:
    """The verbs of a model or model class; not those of its class that a model lists in ``without``."""
    without = getattr(model, "without", ())
    return [verb for verb in VERBS if verb not in without and callable(getattr(model, verb, None))]


def call(model: Model, verb: str, *arguments: Any, **options: Any) -> Any:
    """A verb by its name."""
    return getattr(model, verb)(*arguments, **options)
