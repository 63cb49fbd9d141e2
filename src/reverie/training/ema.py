"""The exponential moving average of a model's weights, used for sampling."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reverie.core.errors import UsageError, argument


class EMA:
    """A moving average of the trained parameters; everything else is shared with the model.

    So buffers (pools, moments, running means) and frozen sub-models are neither averaged nor copied.

    Args:
        decay: weight of the old average in an update. Early in training it is lower, min(decay, (1 + t) / (10 + t)), to
            discount the random initialisation.
        trained: the parameters of all phases.
    """

    def __init__(self, model: nn.Module, decay: float, trained: Iterable[Tensor]):
        self.decay = decay
        moving = {id(p) for p in trained}
        shared = {id(t): t for t in (*model.parameters(), *model.buffers()) if id(t) not in moving}
        try:
            self.model = copy.deepcopy(model, shared).eval()
        except (RuntimeError, TypeError) as error:
            raise UsageError(
                f"This {type(model).__name__} cannot be copied, so its weights cannot be averaged ({error}). "
                f"Train it with {argument('ema', 0)}, or store only parameters, buffers and plain values on it."
            ) from error
        names = [name for name, p in model.named_parameters() if id(p) in moving]
        copies, sources = dict(self.model.named_parameters()), dict(model.named_parameters())
        self.averaged = {name: copies[name].requires_grad_(False).detach() for name in names}
        self.source = [sources[name].detach() for name in names]

    @torch.no_grad()
    def restart(self) -> None:
        """Reset the average to the model's current weights."""
        torch._foreach_copy_([*self.averaged.values()], self.source)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step ``step`` (from 0, counted from its last restart)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self.averaged.values()], self.source, 1 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(self.averaged)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore ``state_dict``."""
        for name, average in self.averaged.items():
            average.copy_(state[name])
