"""Training a restricted Boltzmann machine by contrastive divergence; its likelihood is watched while it learns.

Contrastive divergence: Hinton, Neural Computation 2002. Persistent chains: Tieleman, ICML 2008. Sparsity:
Lee, Ekanadham and Ng, NeurIPS 2007.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Count, Fraction, Range, Weight
from reverie.core.batch import Batch
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise, fold, mix
from reverie.models.energy.machine import Machine, log_mean
from reverie.optim.phase import Phase, Stage

_WAIT, _GROWTH = 50, 1.15  # estimates of the likelihood come after that many steps, and by that factor later
_LOOK = 10  # steps between two looks at whether one is due, each of which waits for the device
_SHARE, _FEWEST, _MOST = 20, 50, 2000  # annealing steps of an estimate: a share of the steps so far, within bounds
_SETTLING = 20  # batches whose mean gives the first biases
_APPROACH = 200  # steps of annealing to the weights of another run
_RECENT = 0.1  # weight of the newest batch in the mean energy of data


@dataclass(frozen=True)
class Negative:
    """How the model's side of the gradient is drawn.

    Attributes:
        negative: "pcd": chains that go on from step to step; "cd": chains that start at the data in each step.
        k: sweeps of Gibbs sampling in a step.
        chains: persistent ones, at least as many as a batch has rows.
        ais_chains: chains of the estimates of the likelihood in the log; 0: none.
    """

    negative: Literal["pcd", "cd"] = "pcd"
    k: Count = 1
    chains: Count = 1024
    ais_chains: Annotated[int, Range(0)] = 64


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

    def optimizer(self, weights: Sequence[Tensor], others: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Stochastic gradient ascent of these parameters."""
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": self.weight_decay}, {"params": others}]
        return torch.optim.SGD(groups, self.lr, self.momentum)


class Learner(nn.Module):
    """A machine, the persistent chains that teach it and estimates of its likelihood.

    Args:
        machine: the one that learns.
    """

    chain: Tensor
    cursor: Tensor
    data_energy: Tensor
    steps: Tensor
    next_estimate: Tensor
    likelihood: Tensor
    usage: Tensor
    transient = ("chain", "cursor", "data_energy", "steps", "next_estimate", "likelihood", "usage")

    def __init__(self, machine: Machine, negative: Negative, sparsity: Sparsity):
        super().__init__()
        self.machine, self.negative, self.sparsity = machine, negative, sparsity
        visible, hidden = machine.units
        chains = negative.chains
        self.register_buffer("chain", torch.zeros(chains, visible))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("data_energy", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("next_estimate", torch.ones((), dtype=torch.int64))
        self.register_buffer("likelihood", torch.zeros(2))
        self.register_buffer("usage", torch.full((hidden,), 0.5))

    @property
    def persistent(self) -> bool:
        """Whether chains go on from step to step."""
        return self.negative.negative == "pcd"

    def stage(self, rows: Callable[[Batch], Tensor], ascent: Ascent, name: str = "") -> Stage:
        """Training on visible units.

        Args:
            rows: those (B, V) of a batch.
        """
        machine = self.machine
        optimizer = ascent.optimizer([machine.weight], [machine.visible_bias, machine.hidden_bias])
        return Stage(
            [Phase(self.negative.negative, optimizer, self.loss, clip=0.0)],
            name,
            prepare=lambda batches, fresh: self.start(rows, batches, fresh),
            forward=lambda batch: self.gibbs(rows(batch), batch),
            update=self.keep,
            gather=("slot", "model", "usage"),
        )

    def start(self, rows: Callable[[Batch], Tensor], batches: Any, fresh: bool, below: Learner | None = None) -> None:
        """Offsets and biases of the data's means, or the mirror of a machine; chains that fit them.

        Args:
            below: the one that is below.
        """
        machine, chains = self.machine, len(self.chain)
        if self.persistent and chains < batches.batch_size:
            raise UsageError(
                f"{argument('chains')} must be at least the batch size {batches.batch_size}, not {chains}."
            )
        noise = Noise.of_step(fold(batches.seed, "prepare", "chains"), 0, chains, self.chain.device)
        if fresh:
            means = [rows(batches.global_batch(step)).mean(0) for step in range(_SETTLING)]
            machine.settle(torch.stack(means).mean(0))
            if below:
                machine.mirror(below.machine)
        if (
            fresh and below and self.persistent
        ):  # the chains below, whose pixels are hidden units here; other units are even
            spare = machine.units[1] - below.machine.units[0]
            self.chain.copy_(machine.draw_visible(F.pad(below.chain, (0, spare), value=0.5), noise))
        else:
            self.chain.copy_(machine.anneal(noise, 1 if fresh and not below else _APPROACH)[0])
        self.cursor.zero_()
        self.steps.zero_()
        self.next_estimate.fill_(1)
        self.usage.fill_(0.5)

    def draw(self, noise: Noise) -> Tensor:
        """The state (B, V) of a chain for each stream; from the model without weights if there was no training."""
        if not self.chain.any():
            return self.machine.base().draw_visible(torch.full((len(noise), self.machine.units[1]), 0.5), noise)
        return self.chain[noise.integers(len(self.chain))]

    def gibbs(self, data: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Energies of data (B, V) and of as many rows of the model with their chains (``slot``)."""
        machine, slot = self.machine, (self.cursor + batch.row) % len(self.chain)
        with torch.no_grad():
            model = self.chain[slot] if self.persistent else data
            for _ in range(self.negative.k):
                model = machine.sweep(model, batch.rng)
        rows = torch.cat([data, model])
        inputs = machine.inputs(rows)
        energies, hidden = machine.free_energy(rows, inputs), inputs[: len(data)].sigmoid()
        return {
            "data": energies[: len(data)],
            "energy": energies[len(data) :],
            "hidden": hidden,
            "model": model,
            "slot": slot,
            "usage": hidden.detach(),
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
        """The chains go on from where this step has brought them; now and then the likelihood is estimated."""
        self.usage.lerp_(outputs["usage"].mean(0), 0.05)
        metrics = {"usage": self.usage.mean()}
        if self.persistent:
            self.chain[outputs["slot"]] = outputs["model"]
            self.cursor.add_(len(outputs["slot"])).remainder_(len(self.chain))
        self.steps.add_(1)
        energy = stats[f"{self.negative.negative}/free_energy"]
        self.data_energy.copy_(torch.where(self.steps > 1, self.data_energy.lerp(energy, _RECENT), energy))
        if self.negative.ais_chains:
            if batch.step % _LOOK == 0 and self.steps >= self.next_estimate:
                self._estimate(batch)
            metrics |= {"log_likelihood": self.likelihood[0], "log_likelihood_error": self.likelihood[1]}
        return metrics

    def _estimate(self, batch: Batch) -> None:
        """The likelihood of recent batches by annealed importance sampling, with half the 95 % interval of log Z."""
        count = self.negative.ais_chains
        keys = mix(torch.arange(1, count + 1, device=self.chain.device)) ^ batch.shared.keys
        steps = min(max(int(self.steps) // _SHARE, _FEWEST), _MOST)
        log_z, _, high = log_mean(self.machine.anneal(Noise(mix(keys)), steps)[1])
        self.likelihood[0], self.likelihood[1] = -self.data_energy - log_z, high - log_z
        self.next_estimate.copy_((self.steps * _GROWTH).long() + _WAIT)
