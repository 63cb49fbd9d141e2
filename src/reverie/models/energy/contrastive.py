"""Training a restricted Boltzmann machine by contrastive divergence; its likelihood is watched while it learns.

Contrastive divergence: Hinton, Neural Computation 2002. Persistent chains: Tieleman, ICML 2008. Trajectory annealed
importance sampling: Bereux et al., arXiv:2405.15376. Sparsity: Lee, Ekanadham and Ng, NeurIPS 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Fraction, Weight
from reverie.core.batch import Batch
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise, fold
from reverie.models.energy.machine import Machine
from reverie.optim.phase import Phase, Stage

_LEAST = 0.5  # effective share of the chains below which they are drawn anew by their weights


@dataclass(frozen=True)
class Negative:
    """How the model's side of the gradient is drawn.

    Attributes:
        negative: "pcd": chains that go on from step to step; "cd": chains that start at the data in each step.
        k: sweeps of Gibbs sampling in a step.
        chains: persistent ones, at least as many as a batch has rows.
    """

    negative: Literal["pcd", "cd"] = "pcd"
    k: Count = 1
    chains: Count = 1024


@dataclass(frozen=True)
class Sparsity:
    """Hidden units that are mostly off.

    Attributes:
        sparsity: weight of the gradient that moves each unit's running mean to the target.
        sparsity_target: the share of images for which a unit is on.
    """

    sparsity: Weight = 0.0
    sparsity_target: Fraction = 0.1


@dataclass(frozen=True)
class Ascent:
    """Steps along the gradient.

    Attributes:
        lr: step on the mean over rows of the gradient.
        momentum: of the gradient.
        weight_decay: of the weights, not of the biases.
    """

    lr: float
    momentum: float
    weight_decay: float


class Learner(nn.Module):
    """A machine and the persistent chains that teach it.

    Chains are samples of the model at every step, if it learns slowly. Importance weights that follow the change of
    their energy make them annealed importance sampling along the training: their mean estimates the partition function
    of this very step, at the cost of one product of matrices.
    """

    chain: Tensor
    energy: Tensor
    log_weight: Tensor
    cursor: Tensor
    usage: Tensor

    def __init__(self, machine: Machine, negative: Negative, sparsity: Sparsity):
        super().__init__()
        self.machine, self.negative, self.sparsity = machine, negative, sparsity
        visible, hidden = machine.units
        chains = negative.chains
        self.register_buffer("chain", torch.zeros(chains, visible))
        self.register_buffer("energy", torch.zeros(chains))
        self.register_buffer("log_weight", torch.zeros(chains, dtype=torch.float64))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.full((hidden,), 0.5))

    def stage(self, rows: Callable[[Batch], Tensor], ascent: Ascent, name: str = "") -> Stage:
        """Training on visible units.

        Args:
            rows: those (B, V) of a batch.
        """
        machine = self.machine
        groups: list[dict[str, Any]] = [
            {"params": [machine.weight], "weight_decay": ascent.weight_decay},
            {"params": [machine.visible_bias, machine.hidden_bias]},
        ]
        optimizer = torch.optim.SGD(groups, ascent.lr, ascent.momentum)

        def prepare(batches: Any, fresh: bool) -> None:
            self.start(rows(batches.global_batch(0)) if fresh else None, batches)

        return Stage(
            [Phase(self.negative.negative, optimizer, self.loss, clip=0.0)],
            name,
            prepare=prepare,
            forward=lambda batch: self.gibbs(rows(batch), batch),
            update=self.keep,
            gather=("slot", "model", "energy", "log_weight", "usage"),
            precision="fp32",
        )

    def start(self, data: Tensor | None, batches: Any) -> None:
        """Offsets and biases of the means of data (B, V); chains from the model without weights, of known log Z."""
        machine, chains = self.machine, len(self.chain)
        if self.persistent and chains < batches.batch_size:
            raise UsageError(
                f"{argument('chains')} must be at least the batch size {batches.batch_size}, not {chains}."
            )
        if data is not None:
            machine.settle(data.mean(0))
        noise = Noise.of_step(fold(batches.seed, "prepare", "chains"), 0, chains, self.chain.device)
        self.chain.copy_(machine.draw_base(noise))
        self.energy.copy_(machine.free_energy(self.chain, 0.0))
        self.log_weight.fill_(machine.log_base())
        self.cursor.zero_()
        self.usage.fill_(0.5)

    @property
    def persistent(self) -> bool:
        return self.negative.negative == "pcd"

    def draw(self, noise: Noise) -> Tensor:
        """The state (B, V) of a chain for each stream; from the model without weights if there was no training."""
        if not self.chain.any():
            return self.machine.draw_base(noise)
        return self.chain[noise.integers(len(self.chain))]

    def gibbs(self, data: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Energies of data (B, V) and of as many rows of the model with their chains (``slot``) and weights."""
        machine, slot = self.machine, (self.cursor + batch.row) % len(self.chain)
        with torch.no_grad():
            model = self.chain[slot] if self.persistent else data
            change = self.energy[slot] - machine.free_energy(model)
            for _ in range(self.negative.k):
                model = machine.sweep(model, batch.rng)
        inputs = machine.inputs(data)
        return {
            "data": machine.free_energy(data, inputs=inputs),
            "hidden": inputs.sigmoid(),
            "model": model,
            "energy": machine.free_energy(model),
            "slot": slot,
            "log_weight": self.log_weight[slot] + change.double(),
            "usage": inputs.detach().sigmoid(),
        }

    def loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        """Its gradient is that of -log p(data), as far as the chains follow the model."""
        data, model = outputs["data"].mean(), outputs["energy"].mean()
        loss = data - model
        if self.sparsity.sparsity:
            excess = self.usage - self.sparsity.sparsity_target
            loss = loss + self.sparsity.sparsity * (outputs["hidden"] @ excess).mean()
        return {"loss": loss, "free_energy": data.detach()}

    def keep(self, batch: Batch, outputs: Any, stats: Any) -> dict[str, Tensor]:
        """The chains go on from where this step has brought them, and their weights estimate the likelihood."""
        self.usage.lerp_(outputs["usage"].mean(0), 0.05)
        if not self.persistent:
            return {"usage": self.usage.mean()}
        slot = outputs["slot"]
        self.chain[slot], self.energy[slot] = outputs["model"], outputs["energy"]
        self.log_weight[slot] = outputs["log_weight"]
        self.cursor.add_(len(slot)).remainder_(len(self.chain))
        log_z = self.log_weight.logsumexp(0) - math.log(len(self.chain))
        share = self.log_weight.softmax(0)
        effective = 1 / share.square().sum() / len(share)
        if effective < _LEAST:  # systematic resampling
            at = (torch.arange(len(share), device=share.device) + batch.shared.uniform(1)[0].double()) / len(share)
            index = torch.searchsorted(share.cumsum(0), at).clamp(max=len(share) - 1)
            self.chain.copy_(self.chain[index])
            self.energy.copy_(self.energy[index])
            self.log_weight.fill_(log_z)
        likelihood = -stats[f"{self.negative.negative}/free_energy"] - log_z.float()
        return {"log_likelihood": likelihood, "effective_chains": effective.float(), "usage": self.usage.mean()}
