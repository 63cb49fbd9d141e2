"""MiniLM, a small BERT trained on sentences, as a frozen encoder of captions.

BERT: Devlin et al., arXiv:1810.04805. WordPiece: Wu et al., arXiv:1609.08144. MiniLM: Wang et al., arXiv:2002.10957;
all-MiniLM-L6-v2 is its variant for sentences (Reimers and Gurevych, arXiv:1908.10084).
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
Fetch = Callable[[], tuple[Weights, Sequence[str]]]
_HEADS = 12
LONGEST = 62  # tokens of a caption that are read by default, between [CLS] and [SEP]
MOST = 510  # that have positions
_KEPT = 1 << 14  # captions in the cache of embeddings: a few hundred megabytes at most
_CHINESE = (  # code points that are words
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


def words_of(text: str) -> list[str]:
    """Lower-case words without accents; punctuation marks and Chinese characters are separate words."""
    spaced = []
    for sign in text:
        kind, code = unicodedata.category(sign), ord(sign)
        if sign in "\t\n\r" or kind[0] == "Z":
            spaced.append(" ")
        elif kind in ("Cc", "Cf", "Cs", "Co") or code == 0xFFFD:  # control and replacement characters
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
    """Token numbers of a text: greedily the longest piece of each word in the vocabulary, then of the rest.

    A word that cannot be split, or of more than 100 letters, is [UNK].
    """
    tokens = []
    for word in words_of(text):
        numbers, start = [], 0
        while start < len(word) <= 100:
            mark = "##" if start else ""
            fits = [end for end in range(len(word), start, -1) if mark + word[start:end] in vocabulary]
            if not fits:
                break
            numbers.append(vocabulary[mark + word[start : fits[0]]])
            start = fits[0]
        tokens += numbers if start == len(word) else [vocabulary["[UNK]"]]
    return tokens


def bert(weights: Weights, pieces: Tensor, heads: int = _HEADS) -> Tensor:
    """Token numbers (B, L), without padding, to a vector per token (B, L, width).

    Args:
        weights: with the names of BERT's published checkpoints.
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
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = norm(f"{layer}.attention.output.LayerNorm", x + linear(f"{layer}.attention.output.dense", attended))
        hidden = F.gelu(linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", hidden))
    return x


@functools.cache
def fetched(fetch: Fetch) -> tuple[Weights, dict[str, int]]:
    """BERT's weights, and the numbers of its vocabulary, fetched once."""
    weights, words = fetch()
    return weights, {word: number for number, word in enumerate(words)}


@functools.cache
def embedder(fetch: Fetch, length: int = LONGEST) -> Callable[[str], Tensor]:
    """A cached function of a caption to its tokens (L, width), float32 on the CPU.

    Args:
        fetch: returns BERT's weights and its vocabulary in order; called at the first caption.
        length: tokens of a caption that are read.
    """

    @functools.lru_cache(_KEPT)
    def embed(text: str) -> Tensor:
        # one caption at a time, in full precision, on the CPU: the result depends only on the caption
        with torch.autocast("cpu", enabled=False):
            weights, vocabulary = fetched(fetch)
            inner = word_pieces(text, vocabulary)[:length]
            pieces = torch.tensor([[vocabulary["[CLS]"], *inner, vocabulary["[SEP]"]]])
            return bert(weights, pieces)[0]

    return embed


class MiniLM(nn.Module):
    """B captions to MiniLM's tokens (B, L, 384) and their mask (B, L) bool.

    The module has no parameters: MiniLM's weights are loaded at the first caption, shared by copies of the model, and
    part of neither checkpoints nor optimisers.

    Args:
        fetch, length: see ``embedder``.
    """

    width, unit = 384, "tokens"
    here: Tensor

    def __init__(self, fetch: Fetch, length: int = LONGEST):
        super().__init__()
        self.embed, self.length, self.fetch = embedder(fetch, length), length, fetch
        self.register_buffer("here", torch.zeros(1), persistent=False)  # marks the model's device, for the tokens

    def count(self, text: str) -> int:
        """Tokens of a caption, read or not."""
        return len(word_pieces(text, fetched(self.fetch)[1]))

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        embeddings = [self.embed(text) for text in texts]
        longest = max(map(len, embeddings))
        tokens = torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows in embeddings])
        mask = torch.arange(longest) < torch.tensor([[len(rows)] for rows in embeddings])
        return tokens.to(self.here.device), mask.to(self.here.device)
