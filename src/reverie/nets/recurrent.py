"""Sequence to sequence: an LSTM that reads a sample step by step, and an LSTM that writes one.

A step of a sequence (L,) is its values at one time, or at several; a step of an image is a row, or several.
Srivastava, Mansimov and Salakhutdinov, "Unsupervised learning of video representations using LSTMs", ICML 2015,
arXiv:1502.04681.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def lstm(inputs: int, width: int, depth: int) -> nn.LSTM:
    """An LSTM (B, L, inputs) to (B, L, width) that remembers at first: the biases of its forget gates are 1.

    Jozefowicz, Zaremba and Sutskever, "An empirical exploration of recurrent network architectures", ICML 2015.
    """
    layers = nn.LSTM(inputs, width, depth, batch_first=True)
    for level in range(depth):
        for name, value in (("bias_ih", 1.0), ("bias_hh", 0.0)):
            nn.init.constant_(layers.get_parameter(f"{name}_l{level}")[width : 2 * width], value)
    return layers


class SequenceEncoder(nn.Module):
    """(B, channels, *shape) to (B, outputs): the LSTM's state after the last step, through a linear map.

    Args:
        shape: (L,) of sequences, (H, W) of images.
        width: units of a layer.
        depth: layers of the LSTM.
        step: times or rows that are one step; it divides L or H.
    """

    def __init__(self, shape: Sequence[int], channels: int, outputs: int, width: int, depth: int = 1, step: int = 1):
        super().__init__()
        self.step = step
        self.lstm = lstm(step * channels * math.prod(shape[1:]), width, depth)
        self.out = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.movedim(2, 1).unflatten(1, (-1, self.step)).flatten(2)
        states, _ = self.lstm(steps)  # (B, L / step, width)
        return self.out(states[:, -1])


class SequenceDecoder(nn.Module):
    """(B, inputs) to (B, channels, *shape), which the LSTM writes from the last step to the first.

    The input is a linear map to the LSTM's first state, and what it sees at every step; it does not see its own output,
    so that it computes the same in training and afterwards.

    Args:
        shape, width, depth, step: as of the encoder.
    """

    def __init__(self, shape: Sequence[int], channels: int, inputs: int, width: int, depth: int = 1, step: int = 1):
        super().__init__()
        self.sides, self.depth, self.length = (step, channels, *shape[1:]), depth, shape[0] // step
        self.stem = nn.Linear(inputs, 2 * depth * width)
        self.lstm = lstm(inputs, width, depth)
        self.out = nn.Linear(width, math.prod(self.sides))

    def forward(self, features: Tensor) -> Tensor:
        start = torch.tanh(self.stem(features)).unflatten(1, (2, self.depth, -1))  # (B, 2, depth, width)
        hidden, cell = start.movedim(0, 2).contiguous().unbind(0)  # (depth, B, width) each
        steps = features[:, None].expand(-1, self.length, -1)
        states, _ = self.lstm(steps, (hidden, cell))
        return self.out(states).flip(1).unflatten(2, self.sides).flatten(1, 2).movedim(1, 2)
