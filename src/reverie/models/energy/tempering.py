"""Markov chains of a restricted Boltzmann machine: Gibbs sampling, and tempering between independent units and it.

Parallel tempering: Swendsen and Wang, Physical Review Letters 1986; of restricted Boltzmann machines: Desjardins et
al., AISTATS 2010.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from reverie.core.noise import Noise
from reverie.models.energy.machine import Machine, bernoulli

_CHAINS, _STEPS = 64, 200  # of the annealing that spaces machines
_SPACING = 1.0  # standard deviation of the difference of neighbours' energies, nats

Clamp = Callable[[Tensor], Tensor]  # visible units (B, V) with those replaced that are held fixed


def gibbs(machine: Machine, v: Tensor, noise: Noise, sweeps: int, clamp: Clamp) -> Iterator[Tensor]:
    """The hidden units (B, H) of each sweep of Gibbs sampling from v (B, V) on, in v's type."""
    v = clamp(v)
    for _ in range(sweeps):
        h = machine.draw_hidden(v, noise)
        v = clamp(machine.draw_visible(h, noise))
        yield h


@torch.no_grad()
def spaced(machine: Machine) -> list[Machine]:
    """Machines in float64 from independent units to this one, between which chains swap about half of the time.

    They are equally far apart by the standard deviation of the difference of neighbours' energies, measured while
    chains are annealed in small steps.
    """
    noise = Noise.of_seeds(range(_CHAINS), machine.weight.device)
    before = machine.base()
    v, spreads = before.draw_visible(before.weight.new_full((_CHAINS, machine.units[1]), 0.5), noise), []
    for step in range(1, _STEPS + 1):
        rung = machine.scaled(step / _STEPS)
        spreads.append((before.free_energy(v) - rung.free_energy(v)).std())
        v, before = rung.sweep(v, noise), rung
    length = torch.stack(spreads).cumsum(0)
    count = max(2, math.ceil(float(length[-1]) / _SPACING))
    goals = length[-1] * torch.arange(1, count, device=length.device) / count
    steps = [0, *(torch.searchsorted(length, goals) + 1).tolist(), _STEPS]
    return [machine.scaled(step / _STEPS).double() for step in sorted({*steps})]


def tempered(rungs: Sequence[Machine], v: Tensor, noise: Noise, sweeps: int, clamp: Clamp) -> Iterator[Tensor]:
    """The hidden units (B, H) of the last of several machines in each sweep, in v's type.

    Each machine has a chain. In a sweep neighbours swap their states with the probability that leaves both
    distributions as they are, alternately the even and the odd pairs, then every chain makes a step of Gibbs sampling.
    The first machine, whose units are independent, is drawn anew, so states come up that no chain has seen.

    Args:
        rungs: machines, the first without weights, see ``spaced``.
        v: (B, V), the last machine's first state.
    """
    half = v.new_full((len(v), rungs[0].units[1]), 0.5)
    states = [clamp(rungs[0].draw_visible(half, noise)) for _ in rungs[1:]] + [clamp(v)]
    for sweep in range(sweeps):
        yield ladder(rungs, states, noise, sweep % 2, clamp)


def ladder(rungs: Sequence[Machine], states: list[Tensor], noise: Noise, parity: int, clamp: Clamp) -> Tensor:
    """One sweep of ``tempered``: changes the states (B, V) of all machines, and returns the last one's h (B, H)."""
    logits = [rung.inputs(v) for rung, v in zip(rungs, states, strict=True)]
    for low in range(parity, len(rungs) - 1, 2):
        (a, b), (v, w) = rungs[low : low + 2], states[low : low + 2]
        crossed = a.inputs(w), b.inputs(v)
        ratio = exchange(a, b, v, w, (logits[low], logits[low + 1]), crossed)
        swap = noise.uniform(1).to(ratio.dtype).log() < ratio[:, None]
        states[low], states[low + 1] = torch.where(swap, w, v), torch.where(swap, v, w)
        logits[low], logits[low + 1] = (
            torch.where(swap, new, old) for new, old in zip(crossed, logits[low : low + 2], strict=True)
        )
    h = logits[-1]
    for index, rung in enumerate(rungs):
        h = bernoulli(logits[index].sigmoid(), noise)
        states[index] = clamp(rung.draw_visible(h, noise))
    return h


def exchange(
    a: Machine,
    b: Machine,
    v: Tensor,
    w: Tensor,
    logits: tuple[Tensor | None, Tensor | None] = (None, None),
    crossed: tuple[Tensor | None, Tensor | None] = (None, None),
) -> Tensor:
    """log of p_a(w) p_b(v) / (p_a(v) p_b(w)), (B,): the Metropolis ratio for a swap of the states v of a and w of b.

    Args:
        logits: of a's hidden units for v, and b's for w, where they are there already.
        crossed: a's for w, and b's for v.
    """
    before = a.free_energy(v, logits[0]) + b.free_energy(w, logits[1])
    return before - a.free_energy(w, crossed[0]) - b.free_energy(v, crossed[1])
