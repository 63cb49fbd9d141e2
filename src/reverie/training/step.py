"""The training step: every due phase of the current stage, then ``update``, then the moving average.

A step is a function of the weights, the optimisers' state and (seed, step): every random number comes from a stream
keyed by (seed, step) and its purpose. So resuming needs no generator state, and ranks and parts of a batch draw the
same numbers as one process with the full batch.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core import distributed
from reverie.core.batch import Batch, join, parts_of
from reverie.core.errors import UsageError, argument
from reverie.core.noise import Noise, fold
from reverie.core.precision import Precision
from reverie.nets.layers.dropout import Drawing, drawing
from reverie.optim.phase import Metrics, Outputs, Phase, Stage
from reverie.optim.state import load_optimizer
from reverie.training.ema import EMA
from reverie.training.plan import rate
from reverie.training.values import check_scalars, checked, detached, wide

CLIP = 1.0  # default gradient norm limit of a phase


class Engine:
    """Runs training steps on a model, its stages and its moving average.

    Args:
        model: already on its device.
        stages: in order, each with its share of the progress. Each restarts the learning rate's schedule,
            ``batch.progress`` and the average.
        batches: step -> this rank's rows of the step's global batch (see ``data.batches.Batches``).
        precision: arithmetic of the networks.
        ema: decay of the weights' average; 0: no average.
        clip: largest gradient norm of every phase; None: the phase's, else 1; 0: no clipping.
        accumulate: number of parts of a batch, to save memory (same result up to rounding).
        warmup, decay: the learning rate's schedule, see ``plan.rate``.
        fresh: False if the weights come from another run.
        compiled: whether networks were compiled: phases with second derivatives then run them eagerly.

    Attributes:
        stage: index of the current stage, -1 before the first step.
        began: its first step.

    Raises:
        UsageError: ranks or parts would split a group of rows.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: Sequence[Stage],
        batches: Any,
        precision: Precision,
        ema: float = 0.999,
        clip: float | None = None,
        accumulate: int = 1,
        warmup: int = 100,
        decay: str = "cosine",
        fresh: bool = True,
        compiled: bool = False,
    ):
        self.model, self.stages, self.batches, self.precision = model.train(), list(stages), batches, precision
        self.clip, self.accumulate, self.warmup, self.decay = clip, accumulate, warmup, decay
        self.fresh, self.compiled = fresh, compiled
        trained = {id(p): p for stage in stages for phase in stage.phases for p in phase.parameters}
        self.ema = EMA(model, ema, trained.values()) if ema else None
        shares = [stage.share for stage in stages]
        self.ends = [sum(shares[:index]) / sum(shares) for index in range(len(stages) + 1)]
        self.stage, self.began = -1, 0
        self.tensors = _tensors(model)
        self.device = next((tensor.device for tensor in self.tensors.values()), torch.device("cpu"))
        self.layers = [module for module in model.modules() if isinstance(module, Drawing)]
        for stage in stages:
            _check_groups(stage.group, batches.batch_size, accumulate)
            for optimizer in stage.optimizers:
                for group in optimizer.param_groups:
                    group.setdefault("initial_lr", group["lr"])
        distributed.same_start([*model.parameters(), *model.buffers()])

    @property
    def best(self) -> nn.Module:
        """The model to sample from: the weights' average, else the model."""
        return self.ema.model if self.ema else self.model

    def step(self, number: int, progress: float, warm: tuple[int, int] | None = None) -> Metrics:
        """One step of training.

        Args:
            warm: (steps since, length) of the warm-up after an extension of a finished run.
        Returns:
            detached scalars by name: "metric", "phase/metric" of several phases, "stage/..." of several named stages.
        """
        with seeded(fold(self.batches.seed, number, "global", distributed.rank()), self.device):
            return self._step(number, progress, warm)

    def _step(self, number: int, progress: float, warm: tuple[int, int] | None) -> Metrics:
        index = min(bisect.bisect_right(self.ends, progress), len(self.stages)) - 1
        if index > self.stage:
            self._begin(index, number)
        index = self.stage  # rounding of progress never returns to an earlier stage
        progress = max(0.0, (progress - self.ends[index]) / (self.ends[index + 1] - self.ends[index]))
        stage = self.stages[index]
        due = [phase for phase in stage.phases if (number - self.began) % phase.every == 0]
        batch = self.batches(number)
        batch.progress = torch.full((), progress, device=batch.rng.device)  # created on the device: no copy, no wait
        batch.due, batch.step = frozenset(phase.name for phase in due), number - self.began
        step = _Step(self, stage, number, batch, due, warm or (number - self.began, self.warmup))
        metrics = step.run(progress)
        if stage.update:
            metrics |= step.update(metrics)
            if number == self.began:
                self.check_in_place("update")
        if self.ema:
            self.ema.update(number - self.began)
        return self._named(stage, metrics)

    def _named(self, stage: Stage, metrics: Metrics) -> Metrics:
        alone = f"{stage.phases[0].name}/" if len(stage.phases) == 1 else None
        front = f"{stage.name}/" if stage.name and len(self.stages) > 1 else ""
        return {front + (name.removeprefix(alone) if alone else name): v.float() for name, v in metrics.items()}

    def _begin(self, index: int, number: int) -> None:
        """Enter a stage: prepare it, restart the average from the model, drop the previous optimisers' state.

        Skipped stages, too short for a step, are prepared too: later stages may depend on that.
        """
        before, self.stage, self.began = self.stage, index, number
        self.model.eval()
        for stage in self.stages[before + 1 : index + 1]:
            if stage.prepare:
                with torch.no_grad():
                    stage.prepare(self.batches, self.fresh)
                self.check_in_place("prepare")
        self.model.train()
        if self.ema:  # weights that are now frozen must equal the model's, not their average
            self.ema.restart()
        if before >= 0:
            for optimizer in self.stages[before].optimizers:
                optimizer.state.clear()

    def check_in_place(self, hook: str = "update") -> None:
        """Raise a UsageError if a hook replaced a tensor: average and optimiser would keep the old one."""
        for name, tensor in _tensors(self.model).items():
            if self.tensors.get(name) is not tensor:
                raise UsageError(f"{hook} replaced the tensor {name!r}: change it in place ({name}.copy_(...)).")

    # State: with (seed, step) and the weights, everything that the next step depends on

    def state(self) -> dict[str, Any]:
        """Stage, its first step, and the state of its optimisers, for ``torch.load(weights_only=True)``."""
        optimizers = self.stages[self.stage].optimizers if self.stage >= 0 else []
        states = [optimizer.state_dict() for optimizer in optimizers]
        return {"optimizers": states, "stage": (self.stage, self.began), "outline": self._outline()}

    def _outline(self) -> list[list[str]]:
        """The phases of each stage, with the type and the number of tensors of their optimisers."""

        def line(phase: Phase) -> str:
            count = sum(len(group["params"]) for group in phase.optimizer.param_groups)
            return f"{phase.name} ({type(phase.optimizer).__name__}, {count} tensors)"

        return [[line(phase) for phase in stage.phases] for stage in self.stages]

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore ``state``.

        Raises:
            UsageError: the stages, phases or optimisers have changed.
            ValueError: the state is damaged.
        """
        before, now = state.get("outline", self._outline()), self._outline()
        if before != now:
            raise UsageError(
                f"This training had the stages {before}, but the model's stages() now returns {now}: it cannot go on "
                f"from the state of other optimisers. A new run can start from its weights: {argument('init', 'RUN')}."
            )
        self.stage, self.began = state["stage"]
        if self.stage >= 0:
            for optimizer, saved in zip(self.stages[self.stage].optimizers, state["optimizers"], strict=True):
                load_optimizer(optimizer, saved)


class _Step:
    """A step in progress: the batch, the outputs of ``forward``, and whether later phases need their graph."""

    def __init__(
        self, engine: Engine, stage: Stage, number: int, batch: Batch, due: list[Phase], warm: tuple[int, int]
    ):
        self.engine, self.stage, self.number, self.batch, self.due = engine, stage, number, batch, due
        self.warm = warm
        self.parts = parts_of(batch, engine.accumulate, stage.group)
        self.outputs: Outputs | None = None
        self.kept: Outputs = {}  # outputs of ``forward`` for ``update``

    def run(self, progress: float) -> Metrics:
        shared = len(self.parts) == 1 and not any(phase.closure for phase in self.due)
        if shared and self.stage.forward:
            self.outputs = self._forward(*self.parts[0], any(phase.graph for phase in self.due))
            self.kept = self._gathered(self.outputs)
        metrics: Metrics = {}
        for index, phase in enumerate(self.due):
            later = any(other.graph for other in self.due[index + 1 :])
            self._move(phase, progress, metrics, retain=phase.graph and later)
            if self.outputs is not None and later:  # fused optimisers do not bump the version of the weights, but
                torch.autograd.graph.increment_version(phase.parameters)  # autograd must reject a graph across them
            elif self.outputs is not None:
                self.outputs = detached(self.outputs)
        return metrics

    def _move(self, phase: Phase, progress: float, metrics: Metrics, retain: bool) -> None:
        engine = self.engine
        factor = 1.0
        if phase.schedule:
            factor = phase.schedule(self.number - engine.began, progress)
        elif not phase.closure:
            factor = rate(self.warm[0], progress, self.warm[1], engine.decay)
        for group in phase.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

        def evaluate() -> Metrics:
            phase.optimizer.zero_grad(set_to_none=True)
            sums = self._gradients(phase, retain)
            grads = [p.grad for p in phase.parameters if p.grad is not None]
            if not grads:
                raise UsageError(_no_gradient(phase))
            distributed.average(grads)
            default = 0.0 if phase.closure else CLIP  # a line search needs the exact gradient of its loss
            clip = next(norm for norm in (engine.clip, phase.clip, default) if norm is not None)
            if clip:
                sums["gradient_norm"] = nn.utils.clip_grad_norm_(phase.parameters, clip)
            return sums

        if phase.closure:
            first: Metrics = {}

            def closure() -> Tensor:
                scalars = evaluate()
                if not first:
                    first.update(scalars)
                for p in phase.parameters:  # torch's L-BFGS flattens gradients by a view
                    p.grad = None if p.grad is None else p.grad.contiguous()
                loss = scalars["loss"].clone()
                distributed.average([loss])
                return loss * phase.scale

            phase.optimizer.step(closure)  # type: ignore[arg-type]
            scalars = first
        else:
            scalars = evaluate()
            with self._autocast():  # for Muon's matrix products
                phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
        metrics.update({f"{phase.name}/{name}": value for name, value in scalars.items()})

    def _gradients(self, phase: Phase, retain: bool) -> Metrics:
        """Backpropagate a phase's loss, part by part; its scalars as means over the rows."""
        name = f"phase:{phase.name}"
        batch = self.batch.replace(rng=self.engine.batches.stream(self.number, name), shared=self._shared(name))
        sums: Metrics = {}
        gathered = []
        for low, high in self.parts:
            outputs, share = self.outputs, (high - low) / batch.rows
            if outputs is None and self.stage.forward:
                outputs = self._forward(low, high, phase.graph)
                gathered.append(self._gathered(outputs))
            seen = outputs if phase.graph else detached(outputs)
            with self._eagerly(phase), drawing(self.engine.layers, self._layers(phase.name, low, high)):
                with self._autocast():
                    scalars = phase.loss(batch if share == 1 else batch.cut(low, high), seen)
                check_scalars(f"Phase {phase.name!r}: its loss", scalars)
                if "loss" not in scalars:
                    names = ", ".join(scalars) or "nothing"
                    raise UsageError(f"Phase {phase.name!r}: its loss must return a value named 'loss', not {names}.")
                if not (scalars["loss"].requires_grad and phase.parameters):
                    raise UsageError(_no_gradient(phase))
                loss = wide(scalars["loss"]) * (phase.scale * share)
                loss.backward(inputs=phase.parameters, retain_graph=retain and share == 1)
            for name, value in scalars.items():
                value = wide(value.detach()) * share
                sums[name] = sums[name] + value if name in sums else value
        self.kept = self.kept or join(gathered)
        return sums

    def _forward(self, low: int, high: int, graph: bool) -> Outputs:
        assert self.stage.forward
        batch = self.batch.cut(low, high).replace(shared=self._shared("forward"))
        layers = drawing(self.engine.layers, self._layers("forward", low, high))
        with torch.set_grad_enabled(graph), layers, self._autocast():
            return checked("forward", self.stage.forward(batch))

    def _gathered(self, outputs: Outputs) -> Outputs:
        """The outputs of the step's first ``forward`` that ``update`` gathers."""
        if not self.stage.update or self.kept:
            return {}
        return detached({name: outputs[name] for name in self.stage.gather if name in outputs})

    @torch.no_grad()
    def update(self, metrics: Metrics) -> Metrics:
        """Run the stage's ``update`` on averaged scalars and global rows."""
        assert self.stage.update
        stats = {name: value.clone() for name, value in metrics.items()}
        distributed.average([*stats.values()])
        for name in self.stage.gather:
            if name not in self.batch and name not in self.kept:
                names = ", ".join([*self.batch, *(self.outputs or self.kept)])
                raise UsageError(f"gather names {name!r}, which is no column and no output of forward ({names}).")
        columns = {name: self.batch[name] for name in self.stage.gather if name in self.batch}
        columns, outputs = distributed.gather(columns), distributed.gather(dict(self.kept))
        batches = self.engine.batches
        key, device = fold(batches.seed, self.number, "update"), self.batch.rng.device
        batch = Batch(
            columns,
            rng=Noise.of_step(key, 0, batches.batch_size, device),
            shared=self._shared("update"),
            progress=self.batch.progress,
            due=self.batch.due,
            step=self.batch.step,
        )
        updates = self.stage.update(batch, outputs, stats)
        updates = {} if updates is None else updates
        check_scalars("update", updates)
        return {f"update/{name}": value.detach().clone() for name, value in updates.items()}

    # Streams and contexts

    def _shared(self, name: str) -> Noise:
        key = fold(self.engine.batches.seed, self.number, "shared", name)
        return Noise.of_step(key, 0, 1, self.batch.rng.device)

    def _layers(self, name: str, low: int, high: int) -> Noise | None:
        if not self.engine.layers:
            return None
        return self.engine.batches.stream(self.number, f"layers:{name}")[low:high]

    def _autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.stage.precision == "fp32" else self.engine.precision.autocast()

    @contextlib.contextmanager
    def _eagerly(self, phase: Phase) -> Iterator[None]:
        if not (phase.eager and self.engine.compiled):
            yield
            return
        with torch.compiler.set_stance("force_eager"):
            yield


@contextlib.contextmanager
def seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators with ``key`` within the block, then restore them.

    So a module that uses them (``nn.Dropout``, ``torch.randn``) resumes exactly, too; but its random numbers are not
    per row, so training with several ranks or parts differs.
    """
    if device.type != "cpu":
        with torch.random.fork_rng([device.index or 0], device_type=device.type):
            torch.manual_seed(key)
            yield
        return
    generator = torch.default_generator  # a tenth of the time of fork_rng
    before = generator.get_state()
    try:
        generator.manual_seed(key)
        yield
    finally:
        generator.set_state(before)


def _no_gradient(phase: Phase) -> str:
    graph = "" if phase.graph else " With graph=False it receives detached outputs of forward."
    return f"Phase {phase.name!r}: its loss depends on none of its parameters.{graph}"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_groups(group: int, batch_size: int, accumulate: int) -> None:
    world = distributed.world()
    unit = group * world
    if (world > 1 or accumulate > 1) and batch_size % unit:
        raise UsageError(
            f"This model's losses use groups of {group} rows, so a batch of {batch_size} cannot be split into parts or "
            f"shared by {world} processes. Try {argument('batch_size', max(unit, round(batch_size / unit) * unit))}."
        )
