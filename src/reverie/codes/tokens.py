"""The ideal length of tokens: by histograms of training tokens, and by the prior of a model that has one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from reverie.core.verbs import Model
from reverie.data import Split
from reverie.data.batches import in_order
from reverie.evaluation.likelihood import affordable, nats_of
from reverie.inference.rows import device_of, evaluating

_ROWS = 64


def token_lengths(
    model: Model, training: np.ndarray, tokens: np.ndarray, codes: int, held_out: Split
) -> Iterator[tuple[str, np.ndarray]]:
    """What the tokens (N, T) of held-out images are counted by, and the bits of each image (N,).

    Args:
        training: (M, T), tokens of training images.
        codes: K, different tokens.
        held_out: the images, with their columns: a prior gets no classes, which would have to be sent, too.
    """
    yield "codes", histogram_bits(training, tokens, codes)
    for likelihood in affordable(model):
        if likelihood.of == "tokens" and likelihood.kind == "exact":
            with evaluating(model):
                batches = in_order(held_out, _ROWS, device_of(model))
                nats = torch.cat(
                    [nats_of(model, likelihood, batch.replace({"x": batch["x"]})).double().cpu() for batch in batches]
                )
            yield "codes by prior", -nats.numpy() / math.log(2)


def histogram_bits(training: np.ndarray, tokens: np.ndarray, codes: int) -> np.ndarray:
    """Bits (N,) of tokens (N, T) whose places are independent, by histograms of training tokens (M, T).

    A code's probability at a position is that of its count there with half as many further ones as there are codes,
    distributed as the tokens of all places are, and those with 1/2 each.
    """
    overall = np.bincount(training.ravel(), minlength=codes) + 0.5
    overall = overall / overall.sum()
    bits = np.zeros(len(tokens))
    for position in range(tokens.shape[1]):
        count = np.bincount(training[:, position], minlength=codes) + codes / 2 * overall
        bits -= np.log2(count / count.sum())[tokens[:, position]]
    return bits
