"""Random numbers per sample, independent of the batch.

Every row of a batch has a 64-bit key. Its random numbers depend only on the key, the number of earlier draws and the
position within the row. So sample 7 is identical whether drawn alone or in a batch of 64, a training step resumes
without saved generator state, and two ranks of B rows draw the numbers of one rank of 2B rows.

The generator is counter-based: ``mix(key ^ mix(position))`` with the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), in int64 tensor operations, so it returns the same bits
on every device and needs no Python loop over rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, SplitMix64's increment
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = (1 << 64) - 1


def _signed(x: int) -> int:
    """The two's-complement int64 with the bits of an unsigned 64-bit x."""
    x &= _WORD
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own shift copies the sign bit)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of int64 whose every output bit depends on every input bit."""
    x = (x ^ _shift(x, 30)).mul_(_signed(_MULTIPLIERS[0]))
    x = x.bitwise_xor_(_shift(x, 27)).mul_(_signed(_MULTIPLIERS[1]))
    return x.bitwise_xor_(_shift(x, 31))


def fold(*words: int | str) -> int:
    """Hash integers and names, such as (seed, step, "phase:D"), to one int64 key. Order matters."""
    key = 0
    for word in words:
        if isinstance(word, str):
            word = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        z = (key ^ word) + _GOLDEN & _WORD
        z = (z ^ (z >> 30)) * _MULTIPLIERS[0] & _WORD
        z = (z ^ (z >> 27)) * _MULTIPLIERS[1] & _WORD
        key = z ^ (z >> 31)
    return _signed(key)


class Noise:
    """One stream of random numbers per row.

    ``noise(*shape)`` draws N(0, 1) of shape (rows, *shape). Each call returns new numbers; another ``Noise`` of
    these keys repeats them.

    Args:
        keys: (rows,) int64, one key per row.
        draw: number of earlier draws (0 for a fresh stream).
    """

    def __init__(self, keys: Tensor, draw: int = 0):
        self.keys = keys
        self.draw = draw

    @classmethod
    def of_seeds(cls, seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Noise:
        """The noise of one sample per seed, for ``model.sample``."""
        return cls(mix(torch.as_tensor(seeds, dtype=torch.int64, device=device).add(_signed(_GOLDEN))))

    @classmethod
    def of_step(cls, key: int, start: int, rows: int, device: torch.device | str = "cpu") -> Noise:
        """Rows ``start ... start + rows - 1`` of the global batch of a step's ``key`` (see ``fold``)."""
        index = torch.arange(start, start + rows, dtype=torch.int64, device=device)
        return cls(mix(mix(index.add_(_signed(_GOLDEN))) ^ key))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def __getitem__(self, rows: slice | Tensor) -> Noise:
        """The streams of the selected rows, at the same draw."""
        return Noise(self.keys[rows], self.draw)

    def bits(self, *shape: int) -> Tensor:
        """(rows, *shape) int64, all 64 bits uniform."""
        count = 1
        for extent in shape:
            count *= extent
        keys = mix(self.keys + _signed(self.draw * _GOLDEN))
        self.draw += 1
        position = mix(torch.arange(1, count + 1, dtype=torch.int64, device=self.device))
        return mix(keys[:, None] ^ position).view(len(self), *shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(rows, *shape) float32 uniform on [low, high)."""
        return _shift(self.bits(*shape), 40).float().mul_((high - low) * 2.0**-24).add_(low)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(rows, *shape) int64 uniform on {0, ..., high - 1} (bias below high / 2^63)."""
        return _shift(self.bits(*shape), 1).remainder_(high)

    def bernoulli(self, p: float | Tensor, *shape: int) -> Tensor:
        """(rows, *shape) bool, true with probability p; p may be a tensor that broadcasts."""
        return self.uniform(*shape) < p

    def __call__(self, *shape: int) -> Tensor:
        """(rows, *shape) float32 of N(0, 1), by the Box-Muller transform of two 32-bit halves of each word."""
        count = 1
        for extent in shape:
            count *= extent
        words = self.bits((count + 1) // 2)
        # (0, 1], never 0: a radius of at most sqrt(66 log 2) = 6.76
        radius = _shift(words, 32).add_(1).to(torch.float32).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = words.bitwise_and_(0xFFFFFFFF).to(torch.float32).mul_(2.0**-31 * torch.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(len(self), *shape)
