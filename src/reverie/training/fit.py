"""The one training step: every phase of the current stage moves, then the average follows."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core import distributed
from reverie.core.batch import Batch, parts_of
from reverie.core.noise import Noise, fold
from reverie.core.precision import Precision
from reverie.data.batches import Batches
from reverie.optim.phase import Phase, Stage
from reverie.training.ema import EMA
from reverie.training.plan import rate


class Fit:
    """Model, phases and average, and how to move them by one step.

    Args:
        model: already on its device.
        stages: lists of phases in playing order, each with its share of the progress (see ``Stage``). The learning
            rate's schedule, ``batch.progress`` and the average begin anew with each.
        batches: this rank's rows of each step's global batch.
        precision: format of the networks' arithmetic.
        ema: decay of the weights' average; 0 keeps none.
        clip: largest norm of each phase's gradient; 0 does not clip.
        accumulate: into how many parts a batch is cut to save memory (the result is the same to rounding).
        warmup, decay: the learning rate's schedule, see ``plan.rate``.
        init: the weights were supplied by another run: what prepares a stage leaves them.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[list[Phase]],
        batches: Batches,
        precision: Precision,
        ema: float = 0.999,
        clip: float = 1.0,
        accumulate: int = 1,
        warmup: int = 100,
        decay: str = "cosine",
        init: bool = False,
    ):
        self.init = init
        self.model, self.stages, self.batches, self.precision = model, stages, batches, precision
        self.clip, self.accumulate, self.warmup, self.decay = clip, accumulate, warmup, decay
        self.ema = EMA(model, ema) if ema else None
        shares = [stage.share if isinstance(stage, Stage) else 1.0 for stage in stages]
        self.ends = [sum(shares[:place]) / sum(shares) for place in range(len(stages) + 1)]
        self.stage, self.began = 0, 0  # the current stage, and the step at which it began
        for phase in (phase for stage in stages for phase in stage):
            for group in phase.optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        distributed.same_start([*model.parameters(), *model.buffers()])

    @property
    def best(self) -> nn.Module:
        """What to sample: the average where there is one, else the model."""
        return self.ema.model if self.ema else self.model

    def step(self, step: int, progress: float, warm: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """One move of every phase that is due. Returns detached metrics, "phase/metric" where players are several.

        Args:
            warm: (steps since, length) of a warm-up that began anew where a finished run was extended.
        """
        stage = min(bisect.bisect_right(self.ends, progress), len(self.stages)) - 1
        if stage != self.stage:
            self.stage, self.began = stage, step
            if self.ema:  # what now stands still must be what the others see, not an average of it
                self.ema.restart(self.model)
        progress = (progress - self.ends[stage]) / (self.ends[stage + 1] - self.ends[stage])
        phases = self.stages[self.stage]
        batch = self.batches(step)
        batch.progress = torch.full((), progress, device=self.batches.device)  # made there: no copy, no wait
        metrics: dict[str, Tensor] = {}
        since, warmup = warm or (step - self.began, self.warmup)
        for phase in phases:
            if step % phase.every == 0:
                factor = rate(since, progress, warmup, self.decay)
                found = self._move(phase, batch, fold(self.batches.seed, step, 1), factor)  # the same noise for all
                metrics |= {
                    (name if len(phases) == 1 else f"{phase.name}/{name}"): value for name, value in found.items()
                }
        if self.ema:
            self.ema.update(self.model, step - self.began)
        return metrics

    def _move(self, phase: Phase, batch: Batch, key: int, factor: float) -> dict[str, Tensor]:
        parameters = phase.parameters
        alone = len(self.stages) == 1 and len(self.stages[0]) == 1
        if not alone:  # the other players stand still, and no gradient is computed for them
            self.model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        batch.rng = Noise.of_step(key, self.batches.start, self.batches.rows, self.batches.device)
        sums: dict[str, Tensor] = {}
        for part in [batch.cut(*ends) for ends in parts_of(batch, self.accumulate)] if self.accumulate > 1 else [batch]:
            share = part.rows / batch.rows
            with self.precision.autocast():
                found = phase.loss(part)
            (found["loss"] * (phase.every * share)).backward()
            for name, value in found.items():
                if not value.ndim:
                    sums[name] = sums.get(name, 0) + value.detach().float() * share
                elif self.accumulate == 1:
                    batch[name] = value  # for the moves after this one, with its graph
        gradients = [p.grad for p in parameters if p.grad is not None]
        distributed.average(gradients)
        if self.clip:
            sums["gradient_norm"] = nn.utils.clip_grad_norm_(parameters, self.clip)
        for group in phase.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with self.precision.autocast():  # Muon's matrix products are of the networks' size
            phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
        return sums

    # State: with (seed, step) these are all that the next step depends on

    def state(self) -> dict[str, Any]:
        """Optimiser states of every stage, and which stage it is, for ``torch.load(weights_only=True)``."""
        optimizers = [[phase.optimizer.state_dict() for phase in stage] for stage in self.stages]
        return {"optimizers": optimizers, "stage": (self.stage, self.began)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self.stage, self.began = state["stage"]
        for stage, saved in zip(self.stages, state["optimizers"], strict=True):
            for phase, optimizer in zip(stage, saved, strict=True):
                phase.optimizer.load_state_dict(optimizer)
