"""MiniLM reads captions: a small BERT that was trained on sentences, used as it is.

BERT: Devlin et al., arXiv:1810.04805. WordPiece: Wu et al., arXiv:1609.08144. MiniLM: Wang et al., arXiv:2002.10957;
all-MiniLM-L6-v2 is its descendant for sentences (Reimers and Gurevych, arXiv:1908.10084).
"""

from __future__ import annotations

import functools
import string
import unicodedata
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]
_HEADS = 12
_LONGEST = 64  # pieces of a caption that are read, [CLS] and [SEP] among them
_KEPT = 1 << 14  # captions whose embeddings stay in memory: some hundred megabytes at most
_CHINESE = (  # code points that are words by themselves
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


def words_of(text: str) -> list[str]:
    """Words without accents, in lower case; signs of punctuation and Chinese characters are words by themselves."""
    spaced = []
    for sign in text:
        kind, code = unicodedata.category(sign), ord(sign)
        if sign in "\t\n\r" or kind[0] == "Z":
            spaced.append(" ")
        elif kind in ("Cc", "Cf", "Cs", "Co") or code == 0xFFFD:  # controls, and the sign for what could not be read
            continue
        elif any(low <= code <= high for low, high in _CHINESE):
            spaced.append(f" {sign} ")
        else:
            spaced.append(sign)
    plain = (sign for sign in unicodedata.normalize("NFD", "".join(spaced)) if unicodedata.category(sign) != "Mn")
    return "".join(
        f" {sign} " if sign in string.punctuation or unicodedata.category(sign)[0] == "P" else sign.lower()
        for sign in plain
    ).split()


def word_pieces(text: str, vocabulary: dict[str, int]) -> list[int]:
    """The numbers of a text's pieces: for each word the longest that is known, then again for what is left of it.

    A word of which anything is left, or of more than 100 letters, is [UNK].
    """
    found = []
    for word in words_of(text):
        numbers, start = [], 0
        while start < len(word) <= 100:
            mark = "##" if start else ""
            fits = [end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary]
            if not fits:
                break
            numbers.append(vocabulary[mark + word[start : fits[0]]])
            start = fits[0]
        found += numbers if start == len(word) else [vocabulary["[UNK]"]]
    return found


def bert(weights: Weights, pieces: Tensor, heads: int = _HEADS) -> Tensor:
    """Numbers of pieces (B, L), without padding, to one vector for each (B, L, width).

    Args:
        weights: by the names of BERT's published checkpoints.
    """

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12)

    table = "embeddings.{}_embeddings.weight".format
    x = weights[table("word")][pieces] + weights[table("position")][: pieces.shape[1]] + weights[table("token_type")][0]
    x = norm("embeddings.LayerNorm", x)
    depth = sum(name.endswith("intermediate.dense.weight") for name in weights)
    for layer in (f"encoder.layer.{number}" for number in range(depth)):
        q, k, v = (
            linear(f"{layer}.attention.self.{part}", x).unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )  # (B, heads, L, width / heads)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", seen))
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", hidden))
    return x


@functools.cache
def embedder(fetch: Callable[[], tuple[Weights, Sequence[str]]]) -> Callable[[str], Tensor]:
    """A caption to its tokens (L, width), float32 on the CPU, each computed once.

    Args:
        fetch: gives BERT's weights and its vocabulary in order; called at the first caption.
    """

    @functools.cache
    def fetched() -> tuple[Weights, dict[str, int]]:
        weights, words = fetch()
        return weights, {word: number for number, word in enumerate(words)}

    @functools.lru_cache(_KEPT)
    def embed(text: str) -> Tensor:
        # one caption at a time, in full precision, on the CPU: its bits depend on nothing but the caption
        with torch.autocast("cpu", enabled=False):
            weights, vocabulary = fetched()
            inner = word_pieces(text, vocabulary)[: _LONGEST - 2]
            pieces = torch.tensor([[vocabulary["[CLS]"], *inner, vocabulary["[SEP]"]]])
            return bert(weights, pieces)[0]

    return embed


class MiniLM(nn.Module):
    """B captions to MiniLM's tokens (B, L, 384) and which of them there are, (B, L) bool. It has no parameters.

    Its weights are those of MiniLM, fetched at the first caption; no checkpoint holds them, no optimiser sees them,
    and copies of the model share them.

    Args:
        fetch: see ``embedder``.
    """

    width = 384
    here: Tensor

    def __init__(self, fetch: Callable[[], tuple[Weights, Sequence[str]]]):
        super().__init__()
        self.embed = embedder(fetch)
        self.register_buffer("here", torch.zeros(1), persistent=False)  # it moves with the model: where tokens go

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [self.embed(text) for text in texts]
        longest = max(map(len, found))
        tokens = torch.stack([F.pad(tokens, (0, 0, 0, longest - len(tokens))) for tokens in found])
        there = torch.arange(longest) < torch.tensor([[len(tokens)] for tokens in found])
        return tokens.to(self.here.device), there.to(self.here.device)
