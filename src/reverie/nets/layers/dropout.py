"""Layers that draw random numbers in training, from streams per row instead of a global generator.

The engine sets ``noise`` on every such layer around a loss. The random numbers depend on the row's key, the layer's
number in the model and its number of calls within the loss, so they are independent of batch and device, and a resumed
run repeats them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from reverie.core.noise import Noise, fold


class Drawing:
    """What a layer that draws random numbers is beside its nn.Module.

    Attributes:
        noise: the streams of the batch's rows, while a loss is computed in training.
        number: the layer's index among the model's ``Drawing`` layers.
        calls: its number of calls within the loss.
    """

    noise: Noise | None = None
    number = calls = 0
    training: bool  # nn.Module's

    def draw(self, rows: int) -> Noise:
        """Fresh streams for ``rows`` rows: those of the batch, or stacked copies of it (``torch.cat([real, fake])``).

        Raises:
            RuntimeError: in training mode outside a training step, or the rows are no copies of the batch.
        """
        if self.noise is None:
            raise RuntimeError(
                f"{type(self).__name__} is in training mode, but no training step is running: call eval()."
            )
        copies, rest = divmod(rows, len(self.noise))
        if rest or not copies:
            raise RuntimeError(f"{type(self).__name__} saw {rows} rows in a batch of {len(self.noise)}: no multiple.")
        calls = [fold(self.number, self.calls, copy) for copy in range(copies)]
        self.calls += 1
        return Noise(torch.cat([self.noise.keys ^ call for call in calls]))


@contextlib.contextmanager
def drawing(layers: Sequence[Drawing], noise: Noise | None) -> Iterator[None]:
    """Set the streams of a batch on layers within the block."""
    for number, layer in enumerate(layers):
        layer.noise, layer.number, layer.calls = noise, number, 0
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None


class Dropout(Drawing, nn.Module):
    """Dropout (Srivastava et al., JMLR 2014) with a mask per row, independent of the batch; the identity in eval mode.

    Args:
        p: probability that an element is set to 0, in [0, 1), in steps of 1/256; the others are scaled accordingly.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be a probability from 0 to below 1, not {p}.")
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
    """``block(*arguments)``, recomputing its activations in the backward pass with the same random numbers.

    The recomputation may run in an autograd thread after the loss: the state of the layers is restored for it.
    """
    layers = [module for module in block.modules() if isinstance(module, Drawing)]

    def state() -> list[tuple[Noise | None, int, int]]:
        return [(layer.noise, layer.number, layer.calls) for layer in layers]

    def restore(states: list[tuple[Noise | None, int, int]]) -> None:
        for layer, (noise, number, calls) in zip(layers, states, strict=True):
            layer.noise, layer.number, layer.calls = noise, number, calls

    start, runs = state(), 0

    def run(*inputs: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs == 1:
            return block(*inputs)
        now = state()
        restore(start)
        try:
            return block(*inputs)
        finally:
            restore(now)

    return torch.utils.checkpoint.checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)
