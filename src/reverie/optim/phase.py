"""A phase is one optimiser and its loss; a stage is a list of phases that train together; training is a list of stages.

Everything a model needs from training is said here. Both are plain data: building them changes nothing, so ``stages()``
may be called at any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.errors import UsageError
from reverie.core.options import checked, method_parameters
from reverie.core.verbs import verbs_of

Outputs = Mapping[str, Any]  # what a stage's ``forward`` hands to its losses: tensors (B, ...) by name
Metrics = dict[str, Tensor]  # 0-dim tensors by name
Loss = Callable[[Batch, Any], Metrics]


@dataclass
class Phase:
    """One optimiser and the loss that it follows.

    Attributes:
        name: for logs and error messages ("D", "G", "elbo").
        optimizer: owns the only tensors that this phase may change. Phases may share one.
        loss: (batch, outputs) -> {"loss": scalar, **scalars}, a mean over rows or over whole groups of rows. Every
            random draw comes from ``batch.rng``, a stream of the phase's own.
        every: the phase is due when (step - first step of the stage) % every == 0.
        scale: its loss is multiplied by this; the logged loss is not (lazy regularisation: the same as ``every``).
        clip: largest norm of its gradient; None is the run's, 0 does not clip.
        graph: its loss backpropagates into the outputs of ``forward``; False gets them detached: less memory.
        closure: the optimiser evaluates the loss several times a step (L-BFGS).
        schedule: (step of the stage, progress) -> factor on the learning rate; None is the run's (closure: 1).
        eager: takes second derivatives, so it never goes through compiled networks.
    """

    name: str
    optimizer: torch.optim.Optimizer
    loss: Loss
    every: int = 1
    scale: float = 1.0
    clip: float | None = None
    graph: bool = True
    closure: bool = False
    schedule: Callable[[int, float], float] | None = None
    eager: bool = False

    @property
    def parameters(self) -> list[Tensor]:
        """What it moves: its optimiser's tensors, less those that are frozen (``requires_grad_(False)``)."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]


@dataclass
class Stage:
    """Phases that train together.

    Attributes:
        phases: in the order in which they run in every step.
        name: prefix of its log keys where a model has several stages.
        share: of training, next to the shares of the other stages.
        prepare: (batches, fresh), once when the stage begins, never on resume, without gradients and in fp32: fills
            existing parameters and buffers in place, from global batches (``batches.whole(step)``,
            ``batches.in_order(rows)``). ``fresh`` is False where the weights were supplied by another run.
        forward: batch -> outputs, once a step; with accumulation once per phase and part, to the same random numbers.
        update: (batch, outputs, stats) -> metrics or None, after the optimisers, on every rank with the same inputs:
            the only place where state that is not trained by gradient changes, in buffers and in place. ``stats`` holds
            "phase/metric" of the phases that ran; ``batch`` and ``outputs`` what ``gather`` names, as global rows.
        gather: columns and outputs that ``update`` looks at.
        group: rows that a loss looks at together: parts and ranks are cut at multiples of it.
        precision: "fp32" for the arithmetic of this stage, whatever the run's is.
        verbs: what previews may use during it; None: all in the last stage, none before.
    """

    phases: list[Phase]
    name: str = ""
    share: float = 1.0
    prepare: Callable[[Any, bool], None] | None = None
    forward: Callable[[Batch], Outputs] | None = None
    update: Callable[[Batch, Any, Metrics], Metrics | None] | None = None
    gather: tuple[str, ...] = ()
    group: int = 1
    precision: Literal["fp32"] | None = None
    verbs: tuple[str, ...] | None = None

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Each once, in the order of the phases."""
        return list({id(phase.optimizer): phase.optimizer for phase in self.phases}.values())


def stages_of(model: Any, **options: Any) -> list[Stage]:
    """The model's stages in order; ``options`` are those of its ``stages`` (lr ...).

    Raises:
        UsageError: a model without stages, a stage without phases, two phases of one name, or of "forward" or "update",
            a field out of its range.
    """
    kind = type(model).__name__
    if "stages" not in verbs_of(model):
        raise UsageError(f"{kind} cannot be trained: it has no method stages() -> [Stage, ...].")
    known = method_parameters(type(model), "stages")
    given = {k: checked(kind, k, known[k], v) if k in known else v for k, v in options.items()}
    try:
        stages = model.stages(**given)
    except UsageError:
        raise
    except ValueError as error:  # of an optimiser: a negative learning rate ...
        told = ", ".join(f"{name} {value!r}" for name, value in given.items())
        raise UsageError(f"{kind}.stages() refuses its options{f' ({told})' if told else ''}: {error}.") from error
    if not _listed(stages, Stage):
        raise UsageError(f"{kind}.stages() must return a list of at least one Stage, not {stages!r:.80}.")
    for stage in stages:
        if not _listed(stage.phases, Phase):
            raise UsageError(f"A stage of {kind} needs a list of at least one Phase, not {stage.phases!r:.80}.")
        names = [phase.name for phase in stage.phases]
        if len({*names, "forward", "update"}) < len(names) + 2:  # the two are the engine's own
            raise UsageError(f"A stage needs phases with names of their own, not {names}.")
        _check(stage, verbs_of(model))
    return list(stages)


def _listed(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, kind) for one in value)


def _check(stage: Stage, verbs: Iterable[str]) -> None:
    """Raise a UsageError that names the first field of a stage or of its phases that is out of its range."""
    unknown = [verb for verb in stage.verbs or () if verb not in verbs]
    wrong: dict[str, tuple[Any, str, bool]] = {
        "share": (stage.share, "above 0", not 0 < stage.share < math.inf),
        "group": (stage.group, "at least 1", stage.group < 1),
        "precision": (stage.precision, "None or 'fp32'", stage.precision not in (None, "fp32")),
        "verbs": (stage.verbs, "verbs that the model has", bool(unknown)),
    }
    for phase in stage.phases:
        owner = phase.optimizer
        lbfgs = isinstance(owner, torch.optim.LBFGS) and not phase.closure
        wrong |= {
            f"{phase.name}.optimizer": (owner, "a torch optimiser", not isinstance(owner, torch.optim.Optimizer)),
            f"{phase.name}.closure": (phase.closure, "True, since L-BFGS evaluates its loss several times", lbfgs),
            f"{phase.name}.every": (phase.every, "at least 1", phase.every < 1),
            f"{phase.name}.scale": (phase.scale, "a number", not math.isfinite(phase.scale)),
        }
    for name, (value, must, bad) in wrong.items():
        if bad:
            raise UsageError(f"Stage {stage.name!r}: {name} must be {must}, not {value!r:.60}.")


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form; biases and gains are not decayed.

    The second beta is 0.99, not 0.999: a budget of minutes is a few thousand steps.
    """
    owned = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in owned if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in owned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in owned)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)
