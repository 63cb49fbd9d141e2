"""How evenly held-out images use the codes of a model of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from reverie.core.card import card_of
from reverie.core.errors import argument
from reverie.core.verbs import verbs_of
from reverie.evaluation.base import Evaluation
from reverie.evaluation.estimate import Estimate
from reverie.evaluation.passport import Refused, Score
from reverie.inference.rows import encoded

_EACH = 5  # uses of a code, were all used equally often, below which one may be missing by chance


def usage(tokens: Tensor, codes: int) -> tuple[float, float]:
    """Of tokens (...) the share of the codes that occur, and the perplexity exp(H), from 1 to ``codes``."""
    count = torch.bincount(tokens.flatten(), minlength=codes).double()
    share = count / count.sum()
    return float((count > 0).double().mean()), math.exp(float(-torch.xlogy(share, share).sum()))


def token_usage(evaluation: Evaluation) -> Iterator[Score]:
    """Share of the codes that held-out images use, and the perplexity: the number of codes that one would need, were
    all used equally often."""
    model, held_out = evaluation.sets.model, evaluation.sets.held_out
    space = None if model is None else card_of(model).space
    if model is None or space is None or space.kind != "tokens" or "encode" not in verbs_of(model):
        raise Refused("The model does not encode images to tokens.", "Use reconstruction.")
    count = len(held_out) * math.prod(space.shape)
    if count < _EACH * space.codes:
        raise Refused(
            f"Held-out images have {count:,} tokens, too few for {space.codes:,} codes.",
            f"Hold out more images, or train with fewer codes ({argument('levels')}, {argument('codes')}).",
        )
    share, perplexity = usage(encoded(model, held_out, (), evaluation.progress).long(), space.codes)
    entries = {"codes": space.codes, "tokens": count, "held_out": len(held_out), "interval": "none"}
    for name, value in (("token-usage", share), ("token-perplexity", perplexity)):
        yield evaluation.score(name, Estimate(value, math.nan, math.nan), None, "higher", **entries)
