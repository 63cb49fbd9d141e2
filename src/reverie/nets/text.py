"""A small text encoder that is trained along with what it steers: no vocabulary file, no download.

A word is the mean of the hashed embeddings of itself and of its letter trigrams (Bojanowski et al., arXiv:1607.04606),
so that "hearts" is close to "heart" from the start and no word is unknown. A transformer layer lets the words look at
each other.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_BUCKETS = 8192
_LONGEST = 24  # words of a caption that are read


def words_of(text: str) -> list[str]:
    """Lower-case words and the signs that carry meaning in captions."""
    return re.findall(r"\w+|[^\w\s]", text.lower())[:_LONGEST]


def pieces(word: str) -> list[int]:
    """Buckets of a word and of the trigrams of <word>."""
    marked = f"<{word}>"
    parts = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
    return [zlib.crc32(part.encode()) % _BUCKETS for part in dict.fromkeys(parts)]


class TextEncoder(nn.Module):
    """B captions to tokens (B, L, width) and which of them there are, (B, L) bool; "" is one learned token.

    Args:
        width: of a token.
        depth: transformer layers.
    """

    def __init__(self, width: int = 128, depth: int = 1):
        super().__init__()
        self.width = width
        self.pieces = nn.EmbeddingBag(_BUCKETS, width, mode="mean")
        self.null = nn.Parameter(torch.zeros(width))
        self.places = nn.Parameter(torch.zeros(_LONGEST, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(depth)
        )

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        read = [words_of(text) for text in texts]
        longest = max(1, *map(len, read)) if read else 1
        flat = [pieces(word) for words in read for word in words]
        device = self.null.device
        tokens = torch.zeros(len(read), longest, self.width, device=device)
        counts = torch.tensor([len(words) for words in read], device=device)
        there = torch.arange(longest, device=device) < counts[:, None]  # (B, L)
        if flat:
            offsets = torch.tensor([0, *map(len, flat[:-1])], device=device).cumsum(0)
            found = self.pieces(torch.tensor([p for word in flat for p in word], device=device), offsets)
            tokens = tokens.masked_scatter(there[..., None], found.float())
            tokens = tokens + self.places[:longest] * there[..., None]
        empty = counts == 0
        tokens = torch.where(
            (empty[:, None] & (torch.arange(longest, device=device) == 0))[..., None], self.null, tokens
        )
        there = there | (empty[:, None] & (torch.arange(longest, device=device) == 0))
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~there)
        return tokens, there
