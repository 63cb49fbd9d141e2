"""A transformer over a sequence of vectors, causal or not, with a cache of keys and values.

Vaswani et al., "Attention is all you need", NeurIPS 2017, arXiv:1706.03762; normalisation before each layer: Xiong et
al., arXiv:2002.04745; normalised queries and keys: Henry et al., arXiv:2010.04245.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HEAD = 32  # channels of a head, at least
_SHORT = 256  # positions up to which the gradient of bf16 attention on a CPU takes longer than that of fp32
_FEW = 1 << 21  # keys of a step of sampling up to which plain products are faster than fused attention, on a CPU


class Cache:
    """Keys and values of the positions so far, for sequences of at most ``length`` positions.

    The layout is (positions, B, heads, d): a step writes one contiguous piece, and reads all of them in order.
    """

    def __init__(self, length: int):
        self.length, self.filled = length, 0
        self._blocks: list[tuple[Tensor, Tensor]] = []

    def extend(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, n, heads, d) of a block; returns those of all positions so far (N, B, heads, d)."""
        if block == len(self._blocks):
            shape = (self.length, len(k), *k.shape[2:])
            self._blocks.append((k.new_empty(shape), v.new_empty(shape)))
        keys, values = self._blocks[block]
        end = self.filled + k.shape[1]
        keys[self.filled : end], values[self.filled : end] = k.transpose(0, 1), v.transpose(0, 1)
        return keys[:end], values[:end]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention of (B, heads, n, d)."""
    if q.device.type == "cpu" and k.shape[2] <= _SHORT and v.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, causal)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def attend_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (B, heads, d) of one query each, q (B, heads, d), to k and v (N, B, heads, d).

    For few positions on a CPU, whose fused kernel works row by row and head by head.

    Args:
        mask: (B or 1, 1, 1, N) bool, true where a position may be seen.
    """
    scores = (k * (q * q.shape[-1] ** -0.5)).sum(-1)  # (N, B, heads)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0].permute(2, 0, 1), -torch.inf)
    return (v * scores.softmax(0)[..., None]).sum(0)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, depth: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_norm = nn.LayerNorm(width // heads)
        self.k_norm = nn.LayerNorm(width // heads, bias=False)  # one would add the same to the score of every key
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        last_of_mlp = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), last_of_mlp)
        for last in (self.out, last_of_mlp):
            nn.init.normal_(last.weight, std=0.02 * (2 * depth) ** -0.5)
            nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None, index: int = 0) -> Tensor:
        x = x + self.attention(self.norm1(x), mask, cache, index)
        return x + self.mlp(self.norm2(x))

    def attention(self, x: Tensor, mask: Tensor | None, cache: Cache | None, index: int) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)  # (B, n, heads, d) each
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        earlier, new = cache.filled if cache else 0, x.shape[1]
        if cache:
            k, v = cache.extend(index, k, v)  # (N, B, heads, d)
            if new == 1 and v.device.type == "cpu" and v.numel() <= _FEW and v.dtype != torch.bfloat16:
                return self.out(attend_one(q[:, 0], k, v, mask).flatten(1)[:, None])
            k, v = k.transpose(0, 1), v.transpose(0, 1)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, positions, d)
        causal = self.causal and new > 1
        if causal and (earlier or mask is not None):
            allowed = torch.ones(new, k.shape[2], dtype=torch.bool, device=x.device).tril(earlier)
            mask, causal = allowed if mask is None else allowed & mask, False
        return self.out(attend(q, k, v, mask, causal).transpose(1, 2).flatten(2))


def heads_of(width: int) -> int:
    """Heads of attention that divide the width, of 32 channels where it has so many."""
    return next(count for count in range(max(1, width // _HEAD), 0, -1) if width % count == 0)


class Transformer(nn.Module):
    """(B, N, width) to (B, N, width); positions are the caller's to embed.

    Args:
        width: channels of the sequence.
        depth: blocks.
        heads: of attention; they divide the width.
        causal: whether position i sees only positions up to i.
    """

    def __init__(self, width: int, depth: int, heads: int, causal: bool = True):
        super().__init__()
        if width % heads:
            raise ValueError(f"The {heads} heads must divide the width, {width}.")
        self.blocks = nn.ModuleList(Block(width, heads, depth, causal) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Run all blocks.

        Args:
            x: (B, n, width): the whole sequence, or with a cache the positions that follow those in it.
            mask: bool, true where a position may be seen, of a shape that broadcasts to (B, 1, n, all positions).
            cache: of the earlier positions; x is added to it.
        """
        for index, block in enumerate(self.blocks):
            x = block(x, mask, cache, index)
        if cache:
            cache.filled += x.shape[1]
        return self.norm(x)
