"""Muon: momentum with orthogonalised updates of weight matrices.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. Momentum matrices have few large
singular values; the nearest orthogonal matrix U V' of the momentum U S V' sets all of them to 1. Convolution kernels
are flattened to matrices (outputs, inputs x kernel positions). Updates are scaled to the magnitude of Adam's (Liu et
al., arXiv:2502.16982, section 2.2), so both share a learning rate. AdamW updates all other parameters (embeddings,
biases, thin first or last layers).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

_THIN = 16  # matrices with fewer rows or columns gain nothing from orthogonalisation


def orthogonal(x: Tensor, iterations: int = 5) -> Tensor:
    """Approximate U V' of each matrix U S V' of (N, rows, columns), with singular values of about 0.7 ... 1.2.

    The quintic Newton-Schulz iteration, with Jordan's coefficients.
    """
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The weights that Muon updates: of linear and convolutional layers, without thin ones."""
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [w for w in weights if w.requires_grad and min(len(w), w[0].numel()) >= _THIN]


class Muon(torch.optim.Optimizer):
    """Muon for ``hidden_matrices`` of a model, AdamW for its other parameters.

    Args:
        model: its parameters are optimised.
        lr: learning rate of both.
        weight_decay: of parameters with more than one dimension, times lr.
        momentum: of the matrices, in Nesterov's form.
        betas: Adam's.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ):
        matrices = hidden_matrices(model)
        chosen = set(map(id, matrices))
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "muon": True, "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim > 1], "muon": False, "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "muon": False, "weight_decay": 0.0},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["muon"] else self._adam)(parameters, group)

    def _muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        averages = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        momenta = torch._foreach_lerp(gradients, averages, group["momentum"])
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)  # matrices of equal shape are batched
        for index, momentum in enumerate(momenta):
            by_shape[(len(momentum), momentum[0].numel())].append(index)
        for shape, indices in by_shape.items():
            updates = orthogonal(torch.stack([momenta[i].flatten(1) for i in indices]))
            size = group["lr"] * 0.2 * max(shape) ** 0.5
            for p, update in zip((parameters[i] for i in indices), updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update.view(p.shape), alpha=size)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] |= {"step": torch.zeros((), device=p.device)}
                self.state[p] |= {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
        averages, squares, steps = (
            [self.state[p][key] for p in parameters] for key in ("exp_avg", "exp_avg_sq", "step")
        )
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            averages,
            squares,
            [],
            steps,
            fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )
