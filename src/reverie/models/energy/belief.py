"""Stacks of restricted Boltzmann machines as models of images; a single machine is the simplest of them.

Hinton, Osindero and Teh, "A fast learning algorithm for deep belief nets", Neural Computation 2006. The likelihood:
Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reverie.core.annotations import Count, Range, Weight
from reverie.core.batch import Batch
from reverie.core.cache import Progress
from reverie.core.card import Card, Likelihood, Output, Space
from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold, mix
from reverie.core.verbs import Frame
from reverie.models.energy.contrastive import Ascent, Learner, Negative, Sparsity
from reverie.models.energy.machine import Machine, Units, bernoulli, draw_units, log_mean
from reverie.models.energy.tempering import gibbs, spaced, tempered
from reverie.optim.phase import Stage
from reverie.probability.conditioning import check_label

_ANNEALED = (256, 2000)  # chains and steps of the estimate of the partition function
_SAMPLES = 16  # of the layers' posterior in a likelihood
_DESCENT = fold("descent")


class BeliefNet(nn.Module):
    """Machines on top of one another: each learns the hidden units of the one below.

    p(v, h1, h2 ...) = p(v | h1) p(h1 | h2) ... p(top two layers): the last machine is undirected, those below generate
    downwards. q(h1 | v) q(h2 | h1) ... goes upwards; below a machine that still learns it is that machine's own.

    Args:
        machines: from the image upwards; the last may have units of a label.
        output: its images.
        units: of the pixels.
        wake_sleep: share of the training, relative to a layer's, in which all layers are trained together.
    """

    def __init__(
        self,
        machines: Sequence[Machine],
        output: Output,
        units: Units = Units(),
        negative: Negative = Negative(),
        sparsity: Sparsity = Sparsity(),
        wake_sleep: float = 0.0,
    ):
        super().__init__()
        self.layers = nn.ModuleList(Learner(machine, negative, sparsity) for machine in machines)
        self.up = nn.ModuleList(nn.Linear(*machine.units) for machine in machines[:-1])
        self.output, self.units, self.wake_sleep = output, units, wake_sleep if len(machines) > 1 else 0.0
        self._cache: dict[str, tuple[Any, Any]] = {}
        self.without = ("log_prob",) if self.up else ("elbo",)
        for depth in range(len(self.up)):
            self._recognise(depth)

    @property
    def machines(self) -> list[Machine]:
        """From the image upwards."""
        return [layer.machine for layer in self.learners]

    @property
    def learners(self) -> list[Learner]:
        """A machine each, with its chains."""
        return list(self.layers)  # type: ignore[arg-type]

    @property
    def recognition(self) -> list[nn.Linear]:
        """Logits of the hidden units of every machine but the last, from the image upwards."""
        return list(self.up)  # type: ignore[arg-type]

    @property
    def top(self) -> Learner:
        """The undirected machine and its chains."""
        return self.learners[-1]

    @property
    def classes(self) -> int:
        """Number of classes of the label, 0 without."""
        return self.top.machine.classes

    @property
    def card(self) -> Card:
        of: Any = "binary" if self.units.visible == "binary" else "density"
        if not self.top.machine.enumerable:
            samples = {"samples": _SAMPLES} if self.up else {}
            likelihood = Likelihood("estimate", "estimate", of, suffix="ais", evaluations=_SAMPLES, options=samples)
        else:
            likelihood = Likelihood("elbo", "bound", of) if self.up else Likelihood("log_prob", "exact", of)
        return Card(
            output=self.output,
            conditions={"label": self.classes} if self.classes else {},
            columns=("label",) if self.classes else (),
            latents={"h": Space((self.top.machine.units[1],), "model", "mean", kind="binary")},
            likelihoods=(likelihood,),
            restores=("complete",),
            reads=self.units.reads,
        )

    # Training

    def stages(
        self, lr: Weight = 0.05, momentum: Annotated[float, Range(0, 0.999)] = 0.5, weight_decay: Weight = 1e-5
    ) -> list[Stage]:
        """Gradient ascent of the likelihood, layer by layer, then of all together.

        Args:
            lr: step on the gradient's mean over rows; a tenth for a layer that starts as a mirror and for all together.
            momentum: of the gradient.
            weight_decay: of the weights, not of the biases.
        """
        ascent, stages = Ascent(lr, momentum, weight_decay), []
        slow = replace(ascent, lr=lr / 10)  # for what has been learned: at the full rate its chains cannot follow
        for depth, learner in enumerate(self.learners):
            steps = slow if self._mirrors(depth) else ascent
            stage = learner.stage(partial(self.rows, depth=depth), steps, f"layer{depth + 1}")
            stages.append(replace(stage, prepare=partial(self._prepare, depth)))
        if self.wake_sleep:
            stages.append(self._fine_tuning(slow))
        return stages

    def _prepare(self, depth: int, batches: Any, fresh: bool) -> None:
        below = self.learners[depth - 1] if self._mirrors(depth) else None
        if depth:
            self._recognise(depth - 1)
        self.learners[depth].start(partial(self.rows, depth=depth), batches, fresh, below)

    def _mirrors(self, depth: int) -> bool:
        return depth > 0 and self.machines[depth].mirrors(self.machines[depth - 1])

    @torch.no_grad()
    def _recognise(self, depth: int) -> None:
        """From now on this layer is recognised as its machine's posterior is at present."""
        machine, up = self.machines[depth], self.recognition[depth]
        up.weight.copy_(machine.weight.T)
        up.bias.copy_(machine.hidden_bias - machine.offset @ machine.weight)

    @torch.no_grad()
    def rows(self, batch: Batch, depth: int) -> Tensor:
        """Visible units (B, V) of the machine at a depth: draws from the image upwards, and labels at the top."""
        v = self._states(batch, depth)[-1]
        return self._labelled(v, batch.get("label")) if depth == len(self.up) else v

    def _states(self, batch: Batch, depth: int) -> list[Tensor]:
        """Draws of the visible units of the machines up to a depth, from the image upwards, without label."""
        states = [self.units.draw(batch["x"], batch.rng)]
        for up in self.recognition[:depth]:
            states.append(bernoulli(up(states[-1]).sigmoid(), batch.rng))
        return states

    def _fine_tuning(self, ascent: Ascent) -> Stage:
        """Up-down training: generative weights learn from draws upwards, recognition weights from draws downwards."""
        lower, ups, top = self.machines[:-1], self.recognition, self.top.machine
        weights = [*(machine.weight for machine in self.machines), *(up.weight for up in ups)]
        biases = [top.visible_bias, top.hidden_bias, *(m.visible_bias for m in lower), *(up.bias for up in ups)]
        stage = self.top.stage(partial(self.rows, depth=len(ups)), ascent, "wake-sleep")
        (phase,), optimizer = stage.phases, ascent.optimizer(weights, biases)
        return replace(
            stage,
            phases=[replace(phase, optimizer=optimizer, loss=self._wake_sleep_loss)],
            share=self.wake_sleep,
            prepare=None,
            forward=self._up_and_down,
        )

    def _up_and_down(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            states = self._states(batch, len(self.up))
            rows = self._labelled(states[-1], batch.get("label"))
        outputs = self.top.gibbs(rows, batch)
        pairs = zip(self.machines, states, states[1:], strict=False)
        outputs["wake"] = torch.stack([machine.nll(v, h) for machine, v, h in pairs]).sum(0)
        with torch.no_grad():
            fantasies = [self._unlabelled(outputs["model"])]
            for machine in reversed(self.machines[:-1]):
                fantasies.append(draw_units(machine.visible(fantasies[-1]), machine.kind, batch.rng))
        ups = zip(reversed(self.recognition), fantasies[:-1], fantasies[1:], strict=True)
        outputs["sleep"] = torch.stack([-_log_bernoulli(h, up(v)) for up, h, v in ups]).sum(0)
        return outputs

    def _wake_sleep_loss(self, batch: Batch, outputs: Any) -> dict[str, Tensor]:
        metrics, wake, sleep = self.top.loss(batch, outputs), outputs["wake"].mean(), outputs["sleep"].mean()
        return metrics | {"loss": metrics["loss"] + wake + sleep, "wake": wake.detach(), "sleep": sleep.detach()}

    # Labels

    def _labelled(self, v: Tensor, label: Tensor | None) -> Tensor:
        """v with the units of the label: 1 at each; all 1 / classes where there is none."""
        classes = self.classes
        if not classes:
            return v
        if label is None:
            return torch.cat([v, v.new_full((len(v), classes), 1 / classes)], 1)
        units = F.one_hot(label.clamp(min=0), classes).to(v.dtype)
        return torch.cat([v, torch.where(label[:, None] < 0, 1 / classes, units)], 1)

    def _unlabelled(self, v: Tensor) -> Tensor:
        return v[:, : v.shape[1] - self.classes]

    def _clamped(self, v: Tensor, label: Tensor | None) -> Tensor:
        """v with the units of the label held at it, where it is not -1."""
        if label is None or not self.classes:
            return v
        return torch.where(label[:, None] < 0, v, self._labelled(self._unlabelled(v), label))

    # Latents

    def encode(self, image: Tensor, **condition: Any) -> Tensor:
        """(B, C, H, W) to p(h = 1 | image) of the top layer, by the means of those below, (B, hidden)."""
        v = self.units.values(image)
        for up in self.recognition:
            v = up(v).sigmoid()
        return self.top.machine(self._labelled(v, condition.get("label"))).sigmoid()

    def features(self, image: Tensor) -> Tensor:
        """As ``encode``; the layers are the logits of the hidden units."""
        return self.encode(image)

    def decode(self, latent: Tensor, **condition: Any) -> Tensor:
        """Hidden units (B, hidden) of the top layer to an image (B, C, H, W), by the means of the layers below."""
        v = self._unlabelled(self.top.machine.visible(latent))
        for machine in reversed(self.machines[:-1]):
            v = machine.visible(v)
        return self._image(v)

    def _image(self, values: Tensor) -> Tensor:
        return self.units.pixels(values).unflatten(1, (self.output.channels, *self.output.shape))

    # Samples

    def stream(
        self,
        noise: Noise,
        label: Tensor | None = None,
        sweeps: Count = 200,
        method: Literal["gibbs", "tempering"] = "gibbs",
    ) -> Iterator[Frame]:
        """A Markov chain of the top machine; frames show the pixels' probabilities after each sweep.

        It starts at a persistent chain of the training, chosen by ``noise``, or at independent units without one.

        Args:
            label: (B,) clamps the units of the label; -1 leaves them free.
            sweeps: of all hidden and visible units. In float64, so that no rounding of a batch flips a draw.
            method: "gibbs" sampling, or "tempering": chains of machines between independent units and the top that
                swap states, so that a chain comes to all classes.
        """
        check_label(label, self.classes)
        machine, start, clamp = self.top.machine, self.top.draw(noise).double(), partial(self._clamped, label=label)
        if method == "tempering":
            chain = tempered(self._cached("rungs", lambda: spaced(machine)), start, noise, sweeps, clamp)
        else:
            chain = gibbs(machine, start, noise, sweeps, clamp)
        for sweep, h in enumerate(chain, 1):
            yield Frame(sweep / sweeps, {"h": h.float()}, partial(self._render, h, noise))

    def _render(self, h: Tensor, noise: Noise) -> dict[str, Tensor]:
        return {"image": self._image(self._generated(h, noise))}

    def _generated(self, h: Tensor, noise: Noise) -> Tensor:
        """Pixels' means (B, V) of hidden units of the top layer, by draws of the layers below."""
        rng = Noise(mix(noise.keys ^ _DESCENT))
        v = self._unlabelled(self.top.machine.visible(h))
        for machine in reversed(self.machines[:-1]):
            v = machine.visible(bernoulli(v, rng))
        return v

    def sample(
        self,
        noise: Noise,
        label: Tensor | None = None,
        sweeps: Count = 200,
        method: Literal["gibbs", "tempering"] = "gibbs",
    ) -> Tensor:
        """Images (B, C, H, W) in [-1, 1]: the last frame of ``stream``."""
        *_, last = self.stream(noise, label, sweeps, method)
        return last.render()["image"]

    def complete(
        self, image: Tensor, mask: Tensor, noise: Noise, sweeps: int = 200, **condition: Any
    ) -> Iterator[Frame]:
        """Images whose pixels under ``mask`` (1 or B, 1, H, W) are kept; a frame shows the others after each sweep.

        Known units are clamped at their probabilities. With several layers each sweep goes up, through the top machine
        and down again, which is exact for a single machine only.
        """
        label = condition.get("label")
        keep = mask.expand(len(image), *image.shape[1:]).flatten(1)
        values, base = self.units.values(image).double(), self.machines[0].base()
        half = values.new_full((len(values), base.units[1]), 0.5)
        means = base.visible(half)[:, : values.shape[1]]
        for sweep in range(1, sweeps + 1):
            v = torch.where(keep, values, draw_units(means, self.units.visible, noise))
            for up in self.recognition:
                v = bernoulli(_logits(up, v).sigmoid(), noise)
            v = self._clamped(self._labelled(v, label), label)
            h = self.top.machine.draw_hidden(v, noise)
            means = self._unlabelled(self.top.machine.visible(h))
            for machine in reversed(self.machines[:-1]):
                means = machine.visible(bernoulli(means, noise))
            yield Frame(sweep / sweeps, {"h": h.float()}, partial(self._completed, means, image, mask))

    def _completed(self, means: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"image": torch.where(mask, image, self._image(means))}

    # Likelihood

    def log_prob(self, batch: Batch) -> Tensor:
        """log p(image) of a single machine of few hidden units, exactly, in nats (B,)."""
        if self.up or not self.top.machine.enumerable:
            raise UsageError("log p(image) is exact for a single machine of few units; this model has a bound.")
        return self._log_p(batch, 1)

    def elbo(self, batch: Batch, samples: Count = 1) -> Tensor:
        """A lower bound of log p(image) with the exact partition function of few hidden units, in nats (B,).

        Args:
            samples: of the layers' posterior; several are importance-weighted (Burda et al., arXiv:1509.00519).
        """
        if not self.top.machine.enumerable:
            raise UsageError("With this many hidden units the partition function is an estimate, and so is the bound.")
        return self._log_p(batch, samples)

    def estimate(self, batch: Batch, samples: Count = 1) -> Tensor:
        """As ``elbo``, or log p(image) of a single machine, with log Z by annealed importance sampling, nats (B,)."""
        return self._log_p(batch, samples)

    @torch.no_grad()
    def _log_p(self, batch: Batch, samples: int) -> Tensor:
        pixels = self.units.draw(batch["x"], batch.rng).double()
        log_weights = []
        for _ in range(samples if self.up else 1):
            v, log_weight = pixels, pixels.new_zeros(len(pixels))
            for machine, up in zip(self.machines, self.recognition, strict=False):
                logits = _logits(up, v)
                h = bernoulli(logits.sigmoid(), batch.rng)
                log_weight, v = log_weight - machine.nll(v, h) - _log_bernoulli(h, logits), h
            log_weights.append(log_weight + self._log_top(v))
        scale = 0.0 if self.units.visible == "binary" else pixels.shape[1] * math.log(self.units.sigma)
        log_sum = torch.stack(log_weights).logsumexp(0) - math.log(len(log_weights))
        return log_sum - self.log_partition()[0] - scale

    def _log_top(self, v: Tensor) -> Tensor:
        """log p(v) + log Z of the top machine's visible units without label, summed over the labels, (B,)."""
        machine = self.top.machine
        if not self.classes:
            return -machine.free_energy(v)
        labels = torch.arange(self.classes, device=v.device)
        return torch.stack(
            [-machine.free_energy(self._labelled(v, label.expand(len(v)))) for label in labels]
        ).logsumexp(0)

    def log_partition(self, progress: Progress | None = None) -> tuple[float, float, float]:
        """log Z of the top machine and its 95 % interval: exact for few hidden units, else by annealed importance
        sampling. Computed once for these weights.
        """
        return self._cached("log_partition", partial(self._partition, progress))

    def _partition(self, progress: Progress | None) -> tuple[float, float, float]:
        machine, (chains, steps) = self.top.machine, _ANNEALED
        if machine.enumerable:
            value = float(machine.log_partition().detach())
            return value, value, value
        return log_mean(machine.anneal(Noise.of_seeds(range(chains), machine.weight.device), steps, progress)[1])

    def _cached(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result that is computed once for the top machine's present weights."""
        machine = self.top.machine
        versions = [(id(x), x._version) for x in (*machine.parameters(), *machine.buffers())]
        if self._cache.get(name, (None,))[0] != versions:
            self._cache[name] = versions, compute()
        return self._cache[name][1]


def _logits(up: nn.Linear, v: Tensor) -> Tensor:
    """A layer in the type of its input."""
    return F.linear(v, up.weight.to(v.dtype), up.bias.to(v.dtype))


def _log_bernoulli(h: Tensor, logits: Tensor) -> Tensor:
    """log of the probability of binary units (B, H), (B,)."""
    return -F.binary_cross_entropy_with_logits(logits, h, reduction="none").sum(1)
