"""The network of a prior of tokens: a caption or a class, then the tokens of an image, through a transformer.

One sequence of words and tokens: Ramesh et al., "Zero-shot text-to-image generation", ICML 2021, arXiv:2102.12092.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError, argument
from reverie.nets.transformer import Cache, Transformer
from reverie.nets.unet import embed_label
from reverie.probability.conditioning import Conditioner


def checked_heads(width: int, heads: int) -> int:
    """The heads of attention. Raises a UsageError unless they divide the width."""
    if width % heads:
        near = max(1, round(width / heads)) * heads
        raise UsageError(f"{argument('heads', heads)} must divide the width, {width}. Try {argument('width', near)}.")
    return heads


class Prefix:
    """The condition of a batch, computed once.

    Args:
        words: (B, L, width), or None.
        mask: (B, L) bool, true for words that count.
        label: (B, 1, width), added to the input at every place, or None.
    """

    def __init__(self, words: Tensor | None, mask: Tensor | None, label: Tensor | None):
        self.words, self.mask, self.label = words, mask, label
        self.length = 0 if words is None else words.shape[1]

    def mask_over(self, places: int) -> Tensor | None:
        """Which of the words and of the places (B, 1, 1, L + places) may be seen; None: all."""
        if self.mask is None:
            return None
        return torch.cat([self.mask, self.mask.new_ones(len(self.mask), places)], 1)[:, None, None]


class TokenNetwork(nn.Module):
    """A prefix of words (or none) and T inputs to logits (B, T, K) of the tokens at the T places.

    A causal network's input at place i is the token before it; that of the other kind is the token itself, where it is
    known. A class is added to the input at every place.

    Args:
        codes: K.
        length: T.
        width: channels of the sequence.
        depth: blocks of the transformer.
        heads: of its attention.
        causal: whether a place sees only those before it.
        conditioner: classes and captions.
    """

    def __init__(
        self, codes: int, length: int, width: int, depth: int, heads: int, causal: bool, conditioner: Conditioner
    ):
        super().__init__()
        self.length, self.causal, self.conditioner = length, causal, conditioner
        classes, context = conditioner.net_kwargs["classes"], conditioner.net_kwargs["context"]
        self.embedding = nn.Embedding(codes + 1, width)  # the last row: an unknown token, and so the start
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.label_embedding = nn.Embedding(classes + 1, width) if classes else None  # the last row: any class
        self.text_proj = nn.Linear(context, width) if context else None
        self.transformer = Transformer(width, depth, checked_heads(width, heads), causal)
        self.head = nn.Linear(width, codes)
        for embedding in (self.embedding, self.label_embedding):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def prefix(self, rows: int, label: Tensor | None = None, text: Sequence[str] | None = None) -> Prefix:
        """What precedes the tokens of ``rows`` images. ``label`` (B,) and ``text`` are conditions; None is the null."""
        cond: dict[str, Any] = self.conditioner(label, text)
        if self.label_embedding is not None:
            return Prefix(None, None, embed_label(self.label_embedding, cond["label"], rows)[:, None])
        if self.text_proj is None:
            return Prefix(None, None, None)
        words = self.text_proj(cond["tokens"]).float().expand(rows, -1, -1)
        return Prefix(words, cond["mask"].expand(rows, -1), None)

    def forward(
        self, tokens: Tensor, prefix: Prefix, cache: Cache | None = None, chosen: Tensor | None = None
    ) -> Tensor:
        """Logits (B, n, K) at n places, or (M, K) at those of them where ``chosen`` (B, n) is true.

        Args:
            tokens: (B, n) int64: the inputs of a causal network are those before the places, -1 before the first; with
                a cache those that follow what is in it. Of the other kind all T, -1 where unknown.
        """
        first = cache is None or not cache.filled
        words = prefix.words if first else None
        start = 0 if first else cache.filled - prefix.length if cache else 0
        count = tokens.shape[1]
        index = torch.where(tokens < 0, self.embedding.num_embeddings - 1, tokens)
        x = self.embedding(index) + self.positions[start : start + count]
        if prefix.label is not None:
            x = x + prefix.label
        if words is not None:
            x = torch.cat([words.to(x.dtype), x], 1)
        x = self.transformer(x, prefix.mask_over(start + count), cache)[:, -count:]
        return self.head(x if chosen is None else x[chosen]).float()
