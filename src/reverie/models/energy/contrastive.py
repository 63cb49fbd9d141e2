"""Training a restricted Boltzmann machine by contrastive divergence; its likelihood is watched while it learns.

Contrastive divergence: Hinton, Neural Computation 2002. Persistent chains: Tieleman, ICML 2008. Trajectory annealed
importance sampling and the machines of the training path: Bereux et al., arXiv:2405.15376. Sparsity: Lee, Ekanadham and
Ng, NeurIPS 2007.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.annotations import Count, Fraction, Range, Weight
from reverie.core.batch import Batch
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise, fold
from reverie.models.energy.machine import Machine, bernoulli
from reverie.models.energy.tempering import exchange
from reverie.optim.phase import Phase, Stage

_LEAST = 0.5  # effective share of the chains below which they are resampled by their weights
_COMPARED = 32  # chains that show how often neighbours on the training path would swap
_SWAPS = 0.25  # rate of swaps below which a machine is added to the path
_MOVED = 8  # rows of a batch to one watching chain that is moved
_SETTLING = 20  # batches whose mean gives the first biases
_APPROACH = 200  # steps of annealing to the weights of another run


@dataclass(frozen=True)
class Negative:
    """How the model's side of the gradient is drawn.

    Attributes:
        negative: "pcd": chains that go on from step to step; "cd": chains that start at the data in each step.
        k: sweeps of Gibbs sampling in a step.
        chains: persistent ones, at least as many as a batch has rows.
        ais_chains: other chains, whose weights estimate the likelihood along the training; 0: none.
        snapshots: machines of the training path that are kept for tempering; 0: none.
    """

    negative: Literal["pcd", "cd"] = "pcd"
    k: Count = 1
    chains: Count = 1024
    ais_chains: Annotated[int, Range(0)] = 256
    snapshots: Annotated[int, Range(0, 64)] = 12


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
    """A machine, the persistent chains that teach it, chains that watch it, and machines of its training path.

    The watching chains follow the model from independent units on. Importance weights that follow the change of their
    energy make them annealed importance sampling along the training: their mean estimates the partition function. They
    must not teach: a gradient that raises the energy of the very states that weigh it makes Z too small, by the step
    times the squared gradient of a state over the number of chains in every step. A weight is of the step that moved
    its chain last, some steps ago.

    Args:
        machine: the one that learns.
    """

    chain: Tensor
    cursor: Tensor
    ais_chain: Tensor
    ais_energy: Tensor
    ais_log_weight: Tensor
    ais_cursor: Tensor
    usage: Tensor
    path_chain: Tensor
    path_length: Tensor
    path_rate: Tensor
    transient = ("chain", "cursor", "ais_*", "usage", "path_*")

    def __init__(self, machine: Machine, negative: Negative, sparsity: Sparsity):
        super().__init__()
        self.machine, self.negative, self.sparsity = machine, negative, sparsity
        visible, hidden = machine.units
        chains = negative.chains
        self.register_buffer("chain", torch.zeros(chains, visible))
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("ais_chain", torch.zeros(negative.ais_chains, visible))
        self.register_buffer("ais_energy", torch.zeros(negative.ais_chains))
        self.register_buffer("ais_log_weight", torch.zeros(negative.ais_chains, dtype=torch.float64))
        self.register_buffer("ais_cursor", torch.zeros((), dtype=torch.int64))
        self.register_buffer("usage", torch.full((hidden,), 0.5))
        snapshots = negative.snapshots if self.persistent else 0
        self.path = nn.ModuleList(Machine(visible, hidden, machine.classes, machine.kind) for _ in range(snapshots))
        self.path.requires_grad_(False)
        self.register_buffer("path_chain", torch.zeros(min(chains, _COMPARED), visible))
        self.register_buffer("path_length", torch.zeros((), dtype=torch.int64))
        self.register_buffer("path_rate", torch.tensor(_SWAPS))

    @property
    def persistent(self) -> bool:
        """Whether chains go on from step to step."""
        return self.negative.negative == "pcd"

    @property
    def rungs(self) -> list[Machine]:
        """The machines of the training path, the present one last."""
        return [*self.path[: int(self.path_length)], self.machine]

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
            precision="fp32",
        )

    def start(self, rows: Callable[[Batch], Tensor], batches: Any, fresh: bool) -> None:
        """Offsets and biases of the data's means; chains that come from independent units, of known log Z."""
        machine, chains = self.machine, len(self.chain)
        if self.persistent and chains < batches.batch_size:
            raise UsageError(
                f"{argument('chains')} must be at least the batch size {batches.batch_size}, not {chains}."
            )
        if fresh:
            means = [rows(batches.global_batch(step)).mean(0) for step in range(_SETTLING)]
            machine.settle(torch.stack(means).mean(0))
        count = chains + len(self.ais_chain)
        noise = Noise.of_step(fold(batches.seed, "prepare", "chains"), 0, count, self.chain.device)
        states, log_weights = machine.anneal(noise, 1 if fresh else _APPROACH)
        self.chain.copy_(states[:chains])
        self.ais_chain.copy_(states[chains:])
        self.ais_log_weight.copy_(log_weights[chains:])
        self.ais_energy.copy_(machine.free_energy(self.ais_chain))
        self.cursor.zero_()
        self.ais_cursor.zero_()
        self.usage.fill_(0.5)
        if len(self.path):
            self.path[0].load_state_dict(machine.base().state_dict())
            self.path_chain.copy_(self.chain[: len(self.path_chain)])
            self.path_length.fill_(1)
            self.path_rate.fill_(_SWAPS)

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
        """The chains go on from where this step has brought them; the path and the estimate of log Z follow."""
        self.usage.lerp_(outputs["usage"].mean(0), 0.05)
        metrics = {"usage": self.usage.mean()}
        if self.persistent:
            self.chain[outputs["slot"]] = outputs["model"]
            self.cursor.add_(len(outputs["slot"]))
            if self.cursor >= len(self.chain):
                self.cursor.remainder_(len(self.chain))
                self._extend_path()
        if len(self.ais_chain):
            log_z, effective = self._watch(batch)
            likelihood = -stats[f"{self.negative.negative}/free_energy"] - log_z
            metrics |= {"log_likelihood": likelihood, "effective_chains": effective}
        return metrics

    def _watch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Move some of the watching chains; log Z by their weights, and the share of them that these amount to."""
        machine, chains = self.machine, len(self.ais_chain)
        noise = batch.rng[: min(chains, -(-len(batch.rng) // _MOVED))]
        slot = (self.ais_cursor + torch.arange(len(noise), device=noise.device)) % chains
        self.ais_cursor.add_(len(noise)).remainder_(chains)
        v = self.ais_chain[slot]
        inputs = machine.inputs(v)
        self.ais_log_weight[slot] += (self.ais_energy[slot] - machine.free_energy(v, inputs)).double()
        v = machine.draw_visible(bernoulli(inputs.sigmoid(), noise), noise)
        self.ais_chain[slot], self.ais_energy[slot] = v, machine.free_energy(v)
        log_z = self.ais_log_weight.logsumexp(0) - math.log(chains)
        share = self.ais_log_weight.softmax(0)
        effective = 1 / share.square().sum() / chains
        if effective < _LEAST:  # systematic resampling
            at = (torch.arange(chains, device=share.device) + batch.shared.uniform(1)[0].double()) / chains
            index = torch.searchsorted(share.cumsum(0), at).clamp(max=chains - 1)
            self.ais_chain.copy_(self.ais_chain[index])
            self.ais_energy.copy_(self.ais_energy[index])
            self.ais_log_weight.fill_(log_z)
        return log_z.float(), effective.float()

    def _extend_path(self) -> None:
        """Add the present machine to the path where its swaps with the last one have become rare.

        Of a full path every second machine is dropped, and those to come are as far apart.
        """
        length = int(self.path_length)
        if not length:
            return
        ours, theirs = self.chain[: len(self.path_chain)], self.path_chain
        accepted = exchange(self.path[length - 1], self.machine, theirs, ours)  # type: ignore[arg-type]
        if accepted.clamp(max=0).exp().mean() >= self.path_rate:
            return
        if length == len(self.path):
            for index in range(0, length, 2):
                self.path[index // 2].load_state_dict(self.path[index].state_dict())
            length = (length + 1) // 2
            self.path_rate.square_()
        if length < len(self.path):
            self.path[length].load_state_dict(self.machine.state_dict())
            self.path_chain.copy_(ours)
            self.path_length.fill_(length + 1)
