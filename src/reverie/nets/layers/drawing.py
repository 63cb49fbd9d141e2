"""Layers that draw random numbers in training: from the streams of the rows that they see, not from a global generator.

The engine sets ``noise`` on every such layer around a loss. What a layer draws is a function of the row's key, of the
layer's number in the model and of how often it was called within the loss; so it depends neither on the batch nor on
the device, and a resumed run repeats it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from reverie.core.noise import Noise, fold


class Drawing(nn.Module):
    """What drawing layers have in common.

    Attributes:
        noise: the streams of the batch's rows, while a loss is computed in training.
        number: the layer's place among the drawing layers of the model.
        calls: how often it was called within the loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noise: Noise | None = None
        self.number = self.calls = 0

    def draw(self, rows: int) -> Noise:
        """Fresh streams for ``rows`` rows: those of the batch, or stacked copies of it (``torch.cat([real, fake])``).

        Raises:
            RuntimeError: in training outside a training step, or where the rows are no copies of the batch.
        """
        if self.noise is None:
            raise RuntimeError(
                f"{type(self).__name__} draws in training, and no training step is running: call eval()."
            )
        copies, rest = divmod(rows, len(self.noise))
        if rest or not copies:
            raise RuntimeError(
                f"{type(self).__name__} saw {rows} rows in a batch of {len(self.noise)}: no whole copies."
            )
        calls = [fold(self.number, self.calls, copy) for copy in range(copies)]
        self.calls += 1
        return Noise(torch.cat([self.noise.keys ^ call for call in calls]))


@contextlib.contextmanager
def drawing(layers: Sequence[Drawing], noise: Noise | None) -> Iterator[None]:
    """Give layers the streams of a batch for as long as the block lasts."""
    for number, layer in enumerate(layers):
        layer.noise, layer.number, layer.calls = noise, number, 0
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None


class Dropout(Drawing):
    """Dropout (Srivastava et al., JMLR 2014) whose mask belongs to the row, whatever the batch; the identity in eval.

    Args:
        p: probability that an element is set to 0, in [0, 1), in steps of 1/256; the rest is scaled by the exact share.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p is a probability from 0 to below 1, not {p}.")
        self.threshold = min(round(256 * p), 255)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to the same shape."""
        if not self.training or not self.threshold:
            return x
        count = x[0].numel()
        octets = self.draw(len(x)).bits(-(-count // 8)).view(torch.uint8)[:, :count]  # one hash gives eight masks
        return x * (octets >= self.threshold).view(x.shape).to(x.dtype) * (256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        return f"p={self.threshold / 256:g}"


def checkpointed(block: nn.Module, *arguments: Any) -> Any:
    """``block(*arguments)`` whose activations are computed again in the backward pass, with the same random numbers.

    A recomputation may run in a thread of autograd, after the loss: what the layers knew is put back for it.
    """
    layers = [module for module in block.modules() if isinstance(module, Drawing)]

    def state() -> list[tuple[Noise | None, int, int]]:
        return [(layer.noise, layer.number, layer.calls) for layer in layers]

    def put(states: list[tuple[Noise | None, int, int]]) -> None:
        for layer, (noise, number, calls) in zip(layers, states, strict=True):
            layer.noise, layer.number, layer.calls = noise, number, calls

    start, runs = state(), 0

    def run(*inputs: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 1:
            return block(*inputs)
        now = state()
        put(start)
        try:
            return block(*inputs)
        finally:
            put(now)

    return torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)
