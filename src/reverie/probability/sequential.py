"""Distributions of discrete values by the chain rule: group after group, each given all before.

A model states its conditionals as a generator: it yields a ``Step``, the probabilities of the next values, and receives
the values themselves. Whoever drives it decides what they are: drawn (``sampled``), partly fixed in advance
(completion), or read from a file. So sampling, completion and compression share one implementation of a model's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Cumulative:
    """A distribution of n values of ordered levels, by its distribution function.

    Attributes:
        levels: K.
        below: (1, 1, m) or (B, n, m) int64 to the probabilities (B, n, m) float64 of levels less than these.
        device: of the tensors.
    """

    levels: int
    below: Callable[[Tensor], Tensor]
    device: torch.device

    def probs(self) -> Tensor:
        """(B, n, K)."""
        below = self.below(torch.arange(1, self.levels, device=self.device)[None, None])
        return F.pad(F.pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=2).clamp_(min=0)

    def quantile(self, u: Tensor) -> Tensor:
        """What ``quantile`` says of ``probs``, by a coarse and a fine search: some 2 sqrt(K) probabilities, not K."""
        stride, u = math.isqrt(self.levels - 1) + 1, u.double()[..., None]
        coarse = torch.arange(stride, self.levels, stride, device=self.device)[None, None]
        level = stride * torch.searchsorted(self.below(coarse), u, right=True)
        fine = level + torch.arange(1, stride, device=self.device)
        level += torch.searchsorted(self.below(fine), u, right=True)
        return level[..., 0].clamp_(max=self.levels - 1)


Law = Tensor | Cumulative  # probabilities (B, n, K), or the distribution function


def probs_of(law: Law) -> Tensor:
    """Probabilities (B, n, K) of the levels; weights that do not sum to 1 are relative."""
    return law if isinstance(law, Tensor) else law.probs()


@dataclass(frozen=True)
class Step:
    """The distribution of the next values, independent of one another given all earlier ones.

    Attributes:
        index: (n,) int64, their places among the D values of a row, the same in all rows.
        law: of the values.
    """

    index: Tensor
    law: Law

    @property
    def probs(self) -> Tensor:
        """See ``probs_of``."""
        return probs_of(self.law)

    def quantile(self, u: Tensor) -> Tensor:
        """The levels (B, n) at which the cumulative distribution exceeds u (B, n) in [0, 1)."""
        return quantile(self.law, u) if isinstance(self.law, Tensor) else self.law.quantile(u)


Conditionals = Generator[Step, Tensor, None]  # yields steps, receives levels (B, n) int64


def driven(conditionals: Conditionals, choose: Callable[[Step], Tensor]) -> Iterator[tuple[Step, Tensor]]:
    """Each step with the levels (B, n) that ``choose`` gives it, which the next step is conditioned on."""
    step = next(conditionals, None)
    while step is not None:
        levels = choose(step)
        yield step, levels
        try:
            step = conditionals.send(levels)
        except StopIteration:
            step = None


def tempered(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Probabilities of logits (..., K) / temperature, in their precision; finite for any temperature."""
    if temperature == 1:
        return logits.softmax(-1)
    scale = max(temperature, torch.finfo(logits.dtype).tiny)
    return ((logits - logits.amax(-1, keepdim=True)) / scale).softmax(-1)


def quantile(probs: Tensor, u: Tensor) -> Tensor:
    """The level (...) at which the cumulative distribution of probs (..., K) exceeds u (...) in [0, 1).

    Sums are float64; probs may be relative.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    threshold = u.double()[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[..., 0].clamp_(max=probs.shape[-1] - 1)


def sampled(
    conditionals: Conditionals, u: Tensor, levels: Tensor | None = None, fixed: Tensor | None = None
) -> Iterator[Tensor]:
    """The levels (B, D) int64 after each step; those to come are -1.

    Args:
        u: (B, D) uniform on [0, 1): a value's number is the same whatever the order or the grouping.
        levels, fixed: (B, D) levels, and bool, where they are taken instead of drawn ones.
    """
    state = torch.full(u.shape, -1, dtype=torch.int64, device=u.device)

    def choose(step: Step) -> Tensor:
        values = step.quantile(u.index_select(1, step.index))
        if levels is not None and fixed is not None:
            values = torch.where(fixed[:, step.index], levels[:, step.index], values)
        return values

    for step, values in driven(conditionals, choose):
        state.index_copy_(1, step.index, values)
        yield state


def log_prob(conditionals: Conditionals, levels: Tensor) -> Tensor:
    """log p of levels (B, D), step by step: nats (B,) float64."""
    total = torch.zeros(len(levels), dtype=torch.float64, device=levels.device)
    for step, values in driven(conditionals, lambda step: levels[:, step.index]):
        probs = step.probs.double()
        total += (probs.gather(-1, values[..., None])[..., 0] / probs.sum(-1)).log().sum(1)
    return total
