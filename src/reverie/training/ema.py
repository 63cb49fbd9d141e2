"""The exponential moving average of a model's weights, which is what gets sampled."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """A slowly following copy. Buffers that are not floating point are copied as they are.

    Args:
        decay: the share of the old average that a step keeps. Early on it is lower, min(decay, (1 + t) / (10 + t)), so
            that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    def restart(self, model: nn.Module) -> None:
        """Forget the average: follow on from where ``model`` stands."""
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Follow ``model`` after the step number ``step`` (from 0, counted from where the average began)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """What is averaged, by name."""
        return self.model.state_dict()

    def load_state_dict(self, averaged: Mapping[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        self.model.load_state_dict(averaged)
