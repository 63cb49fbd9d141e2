"""The exponential moving average of a model's weights, which is what gets sampled."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError


class EMA:
    """A slowly following copy of the parameters that training moves; everything else is shared with the model.

    So buffers (pools, moments, running means) and frozen sub-models are neither averaged nor copied.

    Args:
        decay: the share of the old average that a step keeps. Early on it is lower, min(decay, (1 + t) / (10 + t)), so
            that the random start is soon forgotten.
        trained: the parameters that some phase trains.
    """

    def __init__(self, model: nn.Module, decay: float, trained: Iterable[Tensor]):
        self.decay = decay
        moving = {id(p) for p in trained}
        shared = {id(t): t for t in (*model.parameters(), *model.buffers()) if id(t) not in moving}
        try:
            self.model = copy.deepcopy(model, shared).eval()
        except (RuntimeError, TypeError) as error:
            raise UsageError(
                f"This {type(model).__name__} cannot be copied, so no average of its weights can be kept ({error}). "
                "Train it with --ema 0, or keep nothing on it but parameters, buffers and plain values."
            ) from error
        names = [name for name, p in model.named_parameters() if id(p) in moving]
        mine, theirs = dict(self.model.named_parameters()), dict(model.named_parameters())
        self.averaged = {name: mine[name].requires_grad_(False).detach() for name in names}
        self.source = [theirs[name].detach() for name in names]

    @torch.no_grad()
    def restart(self) -> None:
        """Forget the average: follow on from where the model stands."""
        torch._foreach_copy_([*self.averaged.values()], self.source)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the model after the step number ``step`` (from 0, counted from where the average began)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.averaged.values()], self.source, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(self.averaged)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        for name, average in self.averaged.items():
            average.copy_(state[name])
