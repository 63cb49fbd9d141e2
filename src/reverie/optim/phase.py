"""A phase is an optimiser and its loss; a stage is a list of phases that train together; training is a list of stages.

They describe everything a model needs from training. Both are plain data: building them changes nothing, so
``stages()`` can be called at any time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reverie.core.batch import Batch
from reverie.core.card import name_of
from reverie.core.errors import UsageError
from reverie.core.options import checked, method_parameters
from reverie.core.verbs import verbs_of

Outputs = Mapping[str, Any]  # a stage's ``forward`` passes these to its losses: tensors (B, ...) by name
Metrics = dict[str, Tensor]  # 0-dim tensors by name
Loss = Callable[[Batch, Any], Metrics]


@dataclass
class Phase:
    """An optimiser and its loss.

    Attributes:
        name: for logs and error messages ("D", "G", "elbo").
        optimizer: its tensors are the only ones that this phase may change. Phases may share an optimiser.
        loss: (batch, outputs) -> {"loss": scalar, **scalars}, a mean over rows or over complete groups of rows. All
            random numbers come from ``batch.rng``, a stream per phase.
        every: the phase is due when (step - first step of the stage) % every == 0.
        scale: factor on its loss, not on the logged loss (lazy regularisation: equal to ``every``).
        clip: largest gradient norm; None: the run's; 0: no clipping.
        graph: its loss backpropagates into the outputs of ``forward``; False detaches them and saves memory.
        closure: the optimiser evaluates the loss several times per step (L-BFGS).
        schedule: (step of the stage, progress) -> factor on the learning rate; None: the run's (closure: 1).
        eager: takes second derivatives, so it never uses compiled networks.
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
        """Its optimiser's tensors, without frozen ones (``requires_grad_(False)``)."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]


@dataclass
class Stage:
    """Phases that train together.

    Attributes:
        phases: in the order in which they run in every step.
        name: prefix of its log keys if a model has several stages.
        share: of training, relative to the shares of the other stages.
        prepare: (batches, fresh), called when the stage begins, never on resume, without gradients and in fp32:
            initialises existing parameters and buffers in place, from global batches (``batches.global_batch(step)``,
            ``batches.in_order(rows)``). ``fresh`` is False if the weights come from another run.
        forward: batch -> outputs, once per step; with accumulation once per phase and part, with equal random numbers.
        update: (batch, outputs, stats) -> metrics or None, after the optimisers, on every rank with the same inputs:
            the only function that changes state not trained by gradient, in buffers and in place. ``stats`` contains
            "phase/metric" of the phases that ran; ``batch`` and ``outputs`` the global rows of ``gather``.
        gather: columns and outputs that ``update`` uses.
        group: rows that a loss uses together: parts and ranks are multiples of it.
        precision: "fp32" for the arithmetic of this stage; None: the run's.
        verbs: for previews during this stage; None: all in the last stage, none before.
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
        """Without duplicates, in the order of the phases."""
        return list({id(phase.optimizer): phase.optimizer for phase in self.phases}.values())


def stages_of(model: Any, **options: Any) -> list[Stage]:
    """The model's stages in order; ``options`` are those of its ``stages`` (lr ...).

    Raises:
        UsageError: a model without stages, a stage without phases, phases with duplicate names or named "forward" or
            "update", a field out of its range.
    """
    kind = name_of(model)
    if "stages" not in verbs_of(model):
        raise UsageError(f"{kind} cannot be trained: it has no method stages() -> [Stage, ...].")
    parameters = method_parameters(type(model), "stages")
    options = {k: checked(kind, k, parameters[k], v) if k in parameters else v for k, v in options.items()}
    try:
        stages = model.stages(**options)
    except UsageError:
        raise
    except ValueError as error:  # from an optimiser: a negative learning rate ...
        values = ", ".join(f"{name} {value!r}" for name, value in options.items())
        raise UsageError(f"{kind}.stages() refuses its options{f' ({values})' if values else ''}: {error}.") from error
    if not _listed(stages, Stage):
        raise UsageError(f"{kind}.stages() must return a list of at least one Stage, not {stages!r:.80}.")
    for stage in stages:
        if not _listed(stage.phases, Phase):
            raise UsageError(f"A stage of {kind} needs a list of at least one Phase, not {stage.phases!r:.80}.")
        names = [phase.name for phase in stage.phases]
        if len({*names, "forward", "update"}) < len(names) + 2:  # the engine uses these two
            raise UsageError(f"The phases of a stage need unique names other than forward and update, not {names}.")
        _check(stage, verbs_of(model))
    return list(stages)


def _listed(value: Any, kind: type) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, kind) for item in value)


def _check(stage: Stage, verbs: Iterable[str]) -> None:
    """Raise a UsageError for the first field of a stage or of its phases that is out of range."""
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
    """Fused AdamW (Loshchilov and Hutter, ICLR 2019) without weight decay of biases and gains.

    The second beta is 0.99, not 0.999, because runs of minutes have only a few thousand steps.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=fused)
