"""A small text encoder that is trained jointly with the model: no vocabulary file, no download.

A word's embedding is the mean of hashed embeddings of the word and its letter trigrams (Bojanowski et al.,
arXiv:1607.04606), so that "hearts" is close to "heart" from the start and no word is unknown. A transformer layer adds
attention between words.
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
LONGEST = 24  # words of a caption that are read by default


def words_of(text: str) -> list[str]:
    """The words and punctuation marks, in lower case; an underscore is a space."""
    return re.findall(r"[^\W_]+|[^\w\s]", unicodedata.normalize("NFKC", text).lower())


@functools.lru_cache(1 << 16)
def pieces(word: str) -> tuple[int, ...]:
    """Hash buckets of a word and of the trigrams of <word>, without duplicates."""
    marked = f"<{word}>"
    parts = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
    return tuple(zlib.crc32(part.encode("utf-8", "surrogatepass")) % _BUCKETS for part in dict.fromkeys(parts))


class Layer(nn.Module):
    """x + attention(x), then x + mlp(x), each on normalised input; masked tokens are ignored."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        last = nn.Linear(2 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), last)
        for layer in (self.out, last):  # small at initialisation, so that a token starts as its word's embedding
            nn.init.normal_(layer.weight, std=0.02 * width**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)  # (B, heads, L, L)
        attended = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(3) @ v
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """B captions to tokens (B, L, width) and their mask, (B, L) bool; "" is a learned token.

    Tokens where the mask is false are undefined.

    Args:
        width: of a token.
        depth: transformer layers.
        length: words of a caption that are read.
    """

    unit = "words"

    def __init__(self, width: int = 128, depth: int = 1, length: int = LONGEST):
        super().__init__()
        self.width, self.length = width, length
        self.embedding = nn.EmbeddingBag(_BUCKETS, width, mode="mean")
        self.null = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def count(self, text: str) -> int:
        """Words of a caption, read or not."""
        return len(words_of(text))

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        read = [[pieces(word) for word in words_of(text)[: self.length]] for text in texts]
        longest = max([1, *map(len, read)])
        flat = [word for words in read for word in words]
        starts = [0, *itertools.accumulate(map(len, flat))]
        rows, number = [], itertools.count(1)
        for words in read:  # the row of each word in ``table``; 0 is the null token
            rows.append([next(number) for _ in words] + [0] * (longest - len(words)))
        int64 = functools.partial(torch.tensor, dtype=torch.int64, device=self.null.device)
        embeddings = self.embedding(int64([bucket for word in flat for bucket in word]), int64(starts[:-1]))
        table = torch.cat([self.null[None], embeddings])  # (1 + words, width)
        index = int64(rows)  # (B, L)
        mask = index > 0
        mask[:, 0] = True
        tokens = F.embedding(index, table) + self.positions[:longest]
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return self.norm(tokens), mask
