"""Recurrent autoencoders: one LSTM reads a sample step by step, another writes it from the latent, backwards.

Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations using LSTMs", ICML 2015,
arXiv:1502.04681.
"""

from __future__ import annotations

from typing import Literal

from reverie.core.annotations import Channels, Count, Shape
from reverie.core.card import Output
from reverie.core.errors import UsageError, argument
from reverie.models.autoencoders.autoencoder import Autoencoder
from reverie.nets.recurrent import SequenceDecoder, SequenceEncoder
from reverie.nets.shapes import named


def recurrent_autoencoder(
    shape: Shape,
    channels: Channels,
    latent: Count = 64,
    loss: Literal["mse", "l1", "bce"] = "mse",
    width: Count = 128,
    depth: Count = 1,
    step: Count = 1,
) -> Autoencoder:
    """An LSTM reads time series, or images row by row, into a latent; another writes them back.

    Args:
        shape: (length,) of the series, or (height, width) of images in pixels; one number for square images.
        channels: values at a time, or 1 or 3 of images.
        latent: numbers in a latent.
        loss: "mse" mean (x - x')^2, "l1" mean |x - x'|, "bce" cross-entropy with values as probabilities.
        width: units of a layer of the LSTMs.
        depth: layers of each LSTM.
        step: times, or rows, that are read and written as one step; fewer steps of more values are learned faster.
    """
    extents = (shape, shape) if isinstance(shape, int) else tuple(shape)
    if len(extents) > 2:
        raise UsageError(f"This model is for sequences and images, not for samples of shape {named(extents)}.")
    if extents[0] % step:
        what = "times" if len(extents) == 1 else "rows"
        raise UsageError(f"{argument('step')} must divide the {extents[0]} {what} of a sample, and {step} does not.")
    encoder = SequenceEncoder(extents, channels, latent, width, depth, step)
    decoder = SequenceDecoder(extents, channels, latent, width, depth, step)
    output = Output("sequence" if len(extents) == 1 else "image", extents, channels)
    return Autoencoder(encoder, decoder, output, latent, loss)
