"""Vectors to one of K codes: by rounding (FSQ), or to the nearest entry of a codebook that follows them.

Mentzer et al., "Finite scalar quantization: VQ-VAE made simple", ICLR 2024, arXiv:2309.15505. Van den Oord, Vinyals
and Kavukcuoglu, "Neural discrete representation learning", NeurIPS 2017, arXiv:1711.00937, with the codebook of its
appendix A.1; codes that nothing uses start anew: Dhariwal et al., arXiv:2005.00341.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Fraction, Range
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise

MOST_CODES = 1 << 20
_RARE = 0.1  # a code is dead when a step uses it less often than this, on average
_MARGIN = 1e-3  # by which FSQ's outermost levels can be exceeded: their gradient does not vanish


def straight_through(z: Tensor, code: Tensor) -> Tensor:
    """The codes, with the gradient of the vectors z that they replace."""
    return z + (code - z).detach()


class FSQ(nn.Module):
    """Each of d numbers is squashed into an interval and rounded to one of its levels; d digits are a token.

    Args:
        levels: of each dimension; their product is the number of codes.

    Attributes:
        width: d.
        codes: K.
    """

    levels: Tensor
    base: Tensor

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)):
        super().__init__()
        self.width, self.codes = len(levels), math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels))
        places = [math.prod(levels[:d]) for d in range(len(levels))]
        self.register_buffer("base", torch.tensor(places))

    @property
    def middle(self) -> Tensor:
        return self.levels // 2

    def bound(self, z: Tensor) -> Tensor:
        """(..., d) into the intervals whose rounded values are the levels: equation 1 and appendix A.1."""
        reach = (self.levels - 1) * (1 + _MARGIN) / 2
        offset = (self.levels % 2 == 0) * 0.5
        return (z + (offset / reach).atanh().to(z)).tanh() * reach.to(z) - offset.to(z)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (..., d) to codes (..., d) in [-1, 1], with a straight-through gradient, and tokens (...) int64."""
        bounded = self.bound(z)
        digits = bounded.detach().round()
        index = ((digits.long() + self.middle) * self.base).sum(-1)
        return straight_through(bounded, digits) / self.middle.to(z), index

    def lookup(self, index: Tensor) -> Tensor:
        """Tokens (...) to codes (..., d)."""
        digits = index[..., None] // self.base % self.levels
        return (digits - self.middle).float() / self.middle


class Codebook(nn.Module):
    """K codes (K, d), running means of the vectors that are nearest to them; no gradient reaches them.

    Args:
        codes: K.
        width: d.
        decay: share of the old mean that a step keeps.
    """

    code: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, codes: int = 512, width: int = 8, decay: float = 0.99):
        super().__init__()
        self.codes, self.width, self.decay = codes, width, decay
        self.register_buffer("code", torch.randn(codes, width))
        self.register_buffer("count", torch.ones(codes))  # uses in a step
        self.register_buffer("total", self.code.clone())  # sum of the vectors of a step

    def start(self, vectors: Tensor) -> None:
        """Codes are evenly spaced rows of some vectors (N, d), with a little noise where they are fewer than codes."""
        rows = torch.arange(self.codes, device=vectors.device)
        codes = vectors[rows * len(vectors) // self.codes].float()
        if len(vectors) < self.codes:
            codes = codes + 0.01 * vectors.float().std() * Noise.of_seeds(rows)(self.width)
        self.code.copy_(codes)
        self.total.copy_(codes)
        self.count.fill_(1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (..., d) to the nearest codes, with a straight-through gradient, and their tokens (...) int64.

        Distances are float64, so that no batch's rounding decides between two codes.
        """
        vectors, code = z.detach().double(), self.code.double()
        index = (code.square().sum(1) - 2 * vectors @ code.T).argmin(-1)
        return straight_through(z, self.lookup(index).to(z)), index

    def lookup(self, index: Tensor) -> Tensor:
        """Tokens (...) to codes (..., d)."""
        return self.code[index]

    def follow(self, index: Tensor, vectors: Tensor, shared: Noise) -> Tensor:
        """Move codes to the vectors (N, d) with their tokens (N,), and dead ones to vectors chosen by ``shared``.

        Returns:
            How many were dead.
        """
        uses = torch.zeros_like(self.count).index_add_(0, index, torch.ones_like(vectors[:, 0]))
        sums = torch.zeros_like(self.total).index_add_(0, index, vectors)
        self.count.lerp_(uses, 1 - self.decay)
        self.total.lerp_(sums, 1 - self.decay)
        dead = self.count < _RARE
        order = shared.bits(len(vectors))[0].argsort()  # each vector once: codes of one vector would stay equal
        others = vectors[order[torch.arange(self.codes, device=vectors.device) % len(vectors)]]
        self.count.masked_fill_(dead, 1)
        self.total.copy_(torch.where(dead[:, None], others, self.total))
        self.code.copy_(self.total / self.count[:, None])
        return dead.sum()


@dataclass(frozen=True)
class Quantisation:
    """How vectors become tokens.

    Attributes:
        quantiser: "fsq" rounds each number to one of a few levels; "codebook" takes the nearest of learned codes.
        levels: of the numbers of a vector ("fsq"); there are as many codes as their product.
        codes: entries of the codebook.
        code_width: numbers of an entry.
        code_decay: share of its old mean that an entry keeps in a step.
    """

    quantiser: Literal["fsq", "codebook"] = "fsq"
    levels: Annotated[tuple[int, ...], Range(2, 4096)] = (8, 5, 5, 5)
    codes: Annotated[int, Range(2, MOST_CODES)] = 512
    code_width: Count = 8
    code_decay: Fraction = 0.99

    def __post_init__(self) -> None:
        if not self.levels or math.prod(self.levels) > MOST_CODES:
            raise UsageError(
                f"{argument('levels', self.levels)} must be one to many numbers whose product is at most {MOST_CODES}."
            )

    def build(self) -> FSQ | Codebook:
        return FSQ(self.levels) if self.quantiser == "fsq" else Codebook(self.codes, self.code_width, self.code_decay)
