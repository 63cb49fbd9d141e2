"""L-BFGS without a line search, for losses whose every evaluation is dear and slightly noisy.

Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of Computation 35, 1980.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LBFGS(torch.optim.Optimizer):
    """A quasi-Newton step per gradient, of at most ``largest`` in mean magnitude.

    ``torch.optim.LBFGS`` begins with a step of L1 norm 1 in all: of an image's million values it is lost in the noise
    of bf16, and the curvature measured along it is wrong.

    Args:
        lr: factor on every step.
        history: pairs of steps and changes of the gradient from which the curvature is estimated.
        first: mean magnitude of the first step, along the gradient.
        largest: of any later step, which is shortened to it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1.0,
        history: int = 20,
        first: float = 0.02,
        largest: float = 0.1,
    ):
        super().__init__(parameters, {"lr": lr, "history": history, "first": first, "largest": largest})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move the parameters, all groups of one list, by their gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            state = self.state[parameters[0]]
            point = torch.cat([p.flatten() for p in parameters])
            gradient = torch.cat([p.grad.flatten() for p in parameters])
            if "point" in state:
                _remember(state, point - state["point"], gradient - state["gradient"], group["history"])
            move = -_newton(gradient, state) if state.get("moves") else -gradient
            size, limit = move.abs().mean(), group["largest"] if state.get("moves") else group["first"]
            factor = (limit / size).clamp(max=1.0) if state.get("moves") else limit / size.clamp(min=1e-30)
            state |= {"point": point, "gradient": gradient}
            start = 0
            for p in parameters:
                p.add_(move[start : start + p.numel()].view_as(p) * factor * group["lr"])
                start += p.numel()


def _remember(state: dict[str, Any], move: Tensor, change: Tensor, history: int) -> None:
    """Add a pair with positive curvature."""
    moves, changes = state.setdefault("moves", []), state.setdefault("changes", [])
    if move @ change > 1e-4 * move.norm() * change.norm():
        moves.append(move)
        changes.append(change)
        del moves[:-history], changes[:-history]


def _newton(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """The inverse Hessian's estimate times the gradient: the two-loop recursion."""
    moves, changes, factors, direction = state["moves"], state["changes"], list[Tensor](), gradient.clone()
    for s, y in zip(reversed(moves), reversed(changes), strict=True):
        factors.append((s @ direction) / (s @ y))
        direction -= factors[-1] * y
    direction *= (moves[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, factor in zip(moves, changes, reversed(factors), strict=True):
        direction += s * (factor - (y @ direction) / (s @ y))
    return direction
