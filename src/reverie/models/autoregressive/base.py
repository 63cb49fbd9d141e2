"""Autoregressive models of images: p(x) is the product over its values of p(value | values before it).

A network looks at a whole image and gives, for each place, parameters that depend only on values before it. So the
likelihood of an image is one pass (training), and sampling is a pass for every place, of which a cache of activations
leaves only what is new.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reverie.core.annotations import Positive, Weight
from reverie.core.batch import Batch
from reverie.core.card import Card, Likelihood, Output
from reverie.core.noise import Noise
from reverie.core.verbs import Frame
from reverie.optim.muon import Muon
from reverie.optim.phase import Phase, Stage
from reverie.probability.conditioning import Conditioner, check_label
from reverie.probability.discrete import Distribution
from reverie.probability.likelihoods import bits_per_dim
from reverie.probability.sequential import Conditionals, Step, probs_of, sampled

READS = "Binary pixels: grey is read as the probability of white, and drawn anew in every step."
_PASSES = 10  # of the network that take the time of a sample: one of arithmetic, in float64 and in small pieces
Places = Generator[tuple[Tensor, Tensor], Tensor, None]


class Network(Protocol):
    """The parameters of every place's distribution, from the values before it. A ``nn.Module``."""

    def __call__(self, values: Tensor, **cond: Any) -> Tensor:
        """Values (B, C, *shape) to parameters (B, P, *S), as many places S as values over channels of a place."""

    def incremental(self, rows: int, **cond: Any) -> Places:
        """The same place by place, in the network's order, without computing anything twice.

        Yields (index, params) of the next places, and receives their values (B, c, n) of the parameters' type. index
        (c, n) int64 says where among the D = C * prod(shape) values of an image the c channels of the n places are;
        params is (B, P, n). The places do not depend on one another, the channels of a place may.
        """


class Autoregressive(nn.Module):
    """p(x) = prod p(x_i | x_1 ... x_(i-1), condition).

    Args:
        net: see ``Network``.
        output: what it makes.
        distribution: of a place's values, given the network's parameters.
        conditioner: the condition of the model.
        optimizer: (modules, lr, weight_decay) to the optimiser.
    """

    def __init__(
        self,
        net: nn.Module,
        output: Output,
        distribution: Distribution,
        conditioner: Conditioner,
        optimizer: Callable[[nn.Module, float, float], torch.optim.Optimizer] = Muon,
    ):
        super().__init__()
        self.net, self.distribution, self.conditioner = net, distribution, conditioner
        self.output, self.optimizer = output, optimizer

    @property
    def card(self) -> Card:
        conditions, of = self.conditioner.conditions, self.distribution.of
        return Card(
            output=self.output,
            conditions=conditions,
            columns=conditions.keys(),
            likelihoods=(Likelihood("log_prob", "exact", of),),
            evaluations=_PASSES,
            networks=("net",),
            restores=("complete",),
            reads=READS if of == "binary" else "",
        )

    # Training and likelihood

    def stages(self, lr: Weight = 3e-3, weight_decay: Weight = 0.0) -> list[Stage]:
        trained = nn.ModuleList([self.net, self.distribution, self.conditioner])  # type: ignore[list-item]
        return [Stage([Phase("nll", self.optimizer(trained, lr, weight_decay), self.loss)])]

    def loss(self, batch: Batch, outputs: Any = None) -> dict[str, Tensor]:
        """-log p per value, in nats; ``nll`` in nats per image, or ``bits_per_dim`` of 8-bit images."""
        levels = self.distribution.levels_of(batch["x"], batch.rng)
        nll = -self._log_prob(levels, **self.conditioner.drop(batch, batch.rng)).mean()
        values = levels[0].numel()
        of_8_bit = self.distribution.of == "8-bit"
        return {"loss": nll / values, **({"bits_per_dim": nll * bits_per_dim(1, values)} if of_8_bit else {"nll": nll})}

    def log_prob(self, batch: Batch) -> Tensor:
        """log p(image), given its label where it is known, in nats (B,): exact.

        Grey values of binary data are drawn from ``batch.rng``, as in training.
        """
        levels = self.distribution.levels_of(batch["x"], batch.rng)
        columns = {name: batch[name] for name in self.conditioner.conditions if name in batch}
        return self._log_prob(levels, **columns)

    def _log_prob(self, levels: Tensor, **condition: Any) -> Tensor:
        values = self.distribution.values(levels).to(next(self.net.parameters()).dtype)
        params = self.net(values, **self.conditioner(**condition))
        return self.distribution.log_prob(levels.reshape(len(levels), -1, *params.shape[2:]), params)

    def features(self, image: Tensor) -> Tensor:
        """The parameters (B, P, *S) of all places' distributions."""
        return self.net(image, **self.conditioner())

    # Generation

    def conditionals(self, rows: int, temperature: Positive = 1.0, **condition: Any) -> Conditionals:
        """The exact distributions of the values of new images in the network's order, see ``probability.sequential``.

        In float64, so that neither the batch nor the machine's rounding decides a draw.

        Args:
            rows: images.
            temperature: probabilities are raised to 1 / temperature: below 1 samples are likelier and less varied.
            condition: of each row.
        """
        check_label(condition.get("label"), self.conditioner.classes)
        parts: list[Any] = [self.net, self.distribution, self.conditioner]
        net, distribution, conditioner = (copy.deepcopy(part).double().eval().requires_grad_(False) for part in parts)
        places = net.incremental(rows, **conditioner(**condition))
        state = next(places, None)
        while state is not None:
            index, params = state
            by_channel, levels = distribution.conditionals(params), []
            law = next(by_channel)
            for channel, at in enumerate(index):
                levels.append((yield Step(at, law if temperature == 1 else _sharpened(probs_of(law), temperature))))
                if channel + 1 < len(index):
                    law = by_channel.send(levels[-1])
            try:
                state = places.send(distribution.values(torch.stack(levels, 1)).double())
            except StopIteration:
                state = None

    def stream(self, noise: Noise, label: Tensor | None = None, temperature: Positive = 1.0) -> Iterator[Frame]:
        """The image while it appears, with as many frames as it has rows; what is to come is grey.

        Args:
            label: (B,) classes; -1 is any.
            temperature: below 1 samples are likelier and less varied, above 1 the opposite.
        """
        return self._frames(noise, label=label, temperature=temperature)

    def sample(self, noise: Noise, label: Tensor | None = None, temperature: Positive = 1.0) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]: value after value, each drawn given all before it.

        Args:
            label: (B,) classes; -1 is any.
            temperature: below 1 samples are likelier and less varied, above 1 the opposite.
        """
        *_, last = self.stream(noise, label, temperature)
        return last.render()["image"]

    def complete(
        self, image: Tensor, mask: Tensor, noise: Noise, sweeps: int = 1, label: Tensor | None = None
    ) -> Iterator[Frame]:
        """Images whose pixels under ``mask`` (1 or B, 1, H, W) are kept, while the others are drawn row by row.

        A pixel is drawn given those before it, drawn or known. So a missing end (the lower half, in the order of rows)
        is a draw from p(missing | known); of known pixels that come later, earlier ones know nothing.

        Args:
            sweeps: one is all there is to do.
        """
        return self._frames(noise, image, mask, label=label)

    def _frames(
        self, noise: Noise, image: Tensor | None = None, mask: Tensor | None = None, **options: Any
    ) -> Iterator[Frame]:
        """A frame for as many new values as a row has, until all that are not known are drawn."""
        shape = (self.output.channels, *self.output.shape)
        values = math.prod(shape)
        levels = None if image is None else self.distribution.levels_of(image).flatten(1)
        fixed = None if mask is None else mask.expand(-1, *shape).flatten(1)
        missing = torch.ones(1, values, dtype=torch.bool, device=noise.device) if fixed is None else ~fixed
        total, per_row, emitted = int(missing.sum()), len(missing) * values // self.output.shape[0], 0
        for state in sampled(self.conditionals(len(noise), **options), noise.uniform(values), levels, fixed):
            done = int((missing & (state[: len(missing)] >= 0)).sum())
            if done == total or done >= emitted + per_row:
                emitted, so_far = done, state.clone()
                render = partial(self._render, so_far.unflatten(1, shape), image, mask)
                yield Frame(done / max(total, 1), {"levels": so_far}, render)
            if done == total:
                return

    def _render(self, levels: Tensor, image: Tensor | None, mask: Tensor | None) -> dict[str, Tensor]:
        pixels = torch.where(levels < 0, 0.0, self.distribution.values(levels))
        return {"image": pixels if image is None or mask is None else torch.where(mask, image, pixels)}


def _sharpened(probs: Tensor, temperature: float) -> Tensor:
    """Relative weights, probs ^ (1 / temperature) with a largest of 1."""
    return (probs / probs.amax(-1, keepdim=True)).pow(1 / temperature)
