"""A phase is one player's move; a stage is the list of phases that play together; training is a list of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.verbs import Model, verbs_of


@dataclass
class Phase:
    """One optimiser and the loss that it follows.

    Attributes:
        name: for logs and error messages ("D", "G", "elbo").
        optimizer: owns the only tensors that this move may change.
        loss: batch -> {"loss": scalar, **metrics}; every random draw comes from ``batch.rng``, which is the same for
            all moves of a step: what one makes, another can make again. To spare it that, what a loss returns with rows
            (B, ...) is in the batch of the moves after it, if the batch is whole.
        every: the move is made every k-th step, and its loss is then scaled by k (lazy regularisation).
    """

    name: str
    optimizer: torch.optim.Optimizer
    loss: Callable[[Batch], dict[str, Tensor]]
    every: int = 1

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


@contextmanager
def taking_part(*nets: nn.Module) -> Iterator[None]:
    """Lets the gradient of a later move of the step reach networks that stand still in this one."""
    parameters = [p for net in nets for p in net.parameters()]
    before = [p.requires_grad for p in parameters]
    for p in parameters:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p, wanted in zip(parameters, before, strict=True):
            p.requires_grad_(wanted)


class Stage(list[Phase]):
    """Phases that play together, and how much of training is theirs, next to the shares of the other stages."""

    def __init__(self, phases: Iterable[Phase], share: float = 1.0):
        super().__init__(phases)
        self.share = share


def stages_of(model: Model, **options: Any) -> list[list[Phase]]:
    """The model's stages in order; a model with ``phases()`` alone has one. ``options`` are theirs (lr ...)."""
    if "stages" in verbs_of(model):
        return list(model.stages(**options))
    return [model.phases(**options)]


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form; biases and gains are not decayed.

    The second beta is 0.99, not 0.999: a budget of minutes is a few thousand steps.
    """
    owned = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in owned if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in owned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in owned)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)
