"""A small text encoder that is trained along with what it steers: no vocabulary file, no download.

A word is the mean of the hashed embeddings of itself and of its letter trigrams (Bojanowski et al., arXiv:1607.04606),
so that "hearts" is close to "heart" from the start and no word is unknown. A transformer layer lets the words look at
each other.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import unicodedata
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BUCKETS = 8192
_LONGEST = 24  # words of a caption that are read


def words_of(text: str) -> list[str]:
    """Lower-case words and the signs that carry meaning in captions, the first 24; an underscore is a space."""
    return re.findall(r"[^\W_]+|[^\w\s]", unicodedata.normalize("NFKC", text).lower())[:_LONGEST]


@functools.lru_cache(1 << 16)
def pieces(word: str) -> tuple[int, ...]:
    """Buckets of a word and of the trigrams of <word>, each once."""
    marked = f"<{word}>"
    parts = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
    return tuple(zlib.crc32(part.encode()) % _BUCKETS for part in dict.fromkeys(parts))


class Layer(nn.Module):
    """x + attention, then x + perceptron, each on normalised input; only tokens that are there are looked at."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm, self.later_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        last = nn.Linear(2 * width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)
        for layer in (self.out, last):  # at the start a token is its word, not drowned in what others add
            nn.init.normal_(layer.weight, std=0.02 * width**-0.5)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # (B, heads, L, L)
        made = scores.masked_fill(~there[:, None, None], -math.inf).softmax(3) @ v
        x = x + self.out(made.transpose(1, 2).flatten(2))
        return x + self.perceptron(self.later_norm(x))


class TextEncoder(nn.Module):
    """B captions to tokens (B, L, width) and which of them there are, (B, L) bool; "" is one learned token.

    What stands where no token is has no meaning.

    Args:
        width: of a token.
        depth: transformer layers.
    """

    def __init__(self, width: int = 128, depth: int = 1):
        super().__init__()
        self.width = width
        self.pieces = nn.EmbeddingBag(_BUCKETS, width, mode="mean")
        self.null = nn.Parameter(torch.randn(width))
        self.places = nn.Parameter(torch.zeros(_LONGEST, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        read = [[pieces(word) for word in words_of(text)] for text in texts]
        longest = max([1, *map(len, read)])
        flat = [word for words in read for word in words]
        starts = [0, *itertools.accumulate(map(len, flat))]
        rows, number = [], itertools.count(1)
        for words in read:  # the number of each word in ``table``; 0 is the null token
            rows.append([next(number) for _ in words] + [0] * (longest - len(words)))
        whole = functools.partial(torch.tensor, dtype=torch.int64, device=self.null.device)
        found = self.pieces(whole([bucket for word in flat for bucket in word]), whole(starts[:-1]))
        table = torch.cat([self.null[None], found])  # (1 + words, width)
        index = whole(rows)  # (B, L)
        there = index > 0
        there[:, 0] = True
        tokens = F.embedding(index, table) + self.places[:longest]
        for layer in self.layers:
            tokens = layer(tokens, there)
        return self.norm(tokens), there
