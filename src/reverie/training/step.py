"""The one training step: every phase of the current stage that is due, then ``update``, then the average.

What a step computes is a function of the weights, the optimisers' state and (seed, step): every random draw comes from
a stream that is named by them and by its purpose. So nothing needs saving to resume, and ranks and parts of a batch
draw what one process and a whole batch would.
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
from reverie.core.errors import UsageError
from reverie.core.noise import Noise, fold
from reverie.core.precision import Precision
from reverie.nets.layers.drawing import Drawing, drawing
from reverie.optim.phase import Metrics, Outputs, Phase, Stage
from reverie.training.ema import EMA
from reverie.training.plan import rate
from reverie.training.values import check_scalars, checked, detached, wide

CLIP = 1.0  # largest gradient norm of a phase that says nothing else


class Engine:
    """Model, stages and average, and how to move them by one step.

    Args:
        model: already on its device.
        stages: in order, each with its share of the progress. The learning rate's schedule, ``batch.progress`` and the
            average begin anew with each.
        batches: step -> this rank's rows of the step's global batch (see ``data.batches.Batches``).
        precision: format of the networks' arithmetic.
        ema: decay of the weights' average; 0 keeps none.
        clip: largest norm of every phase's gradient; None is the phase's own, else 1; 0 does not clip.
        accumulate: into how many parts a batch is cut to save memory (the result is the same to rounding).
        warmup, decay: the learning rate's schedule, see ``plan.rate``.
        fresh: False where the weights were supplied by another run.
        compiled: whether networks were compiled: phases with second derivatives then run them eagerly.

    Attributes:
        stage: index of the current stage, -1 before the first step.
        began: the step at which it began.

    Raises:
        UsageError: ranks or parts that cannot have whole groups of rows.
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
        self.ends = [sum(shares[:place]) / sum(shares) for place in range(len(stages) + 1)]
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
        """What to sample: the average where there is one, else the model."""
        return self.ema.model if self.ema else self.model

    def step(self, number: int, progress: float, warm: tuple[int, int] | None = None) -> Metrics:
        """One step of training.

        Args:
            warm: (steps since, length) of a warm-up that began anew where a finished run was extended.
        Returns:
            detached scalars by name: "metric", "phase/metric" of several phases, "stage/..." of several named stages.
        """
        with seeded(fold(self.batches.seed, number, "global", distributed.rank()), self.device):
            return self._step(number, progress, warm)

    def _step(self, number: int, progress: float, warm: tuple[int, int] | None) -> Metrics:
        place = min(bisect.bisect_right(self.ends, progress), len(self.stages)) - 1
        if place > self.stage:
            self._begin(place, number)
        place = self.stage  # by a rounding of progress no stage comes back
        progress = max(0.0, (progress - self.ends[place]) / (self.ends[place + 1] - self.ends[place]))
        stage = self.stages[place]
        due = [phase for phase in stage.phases if (number - self.began) % phase.every == 0]
        batch = self.batches(number)
        batch.progress = torch.full((), progress, device=batch.rng.device)  # made there: no copy, no wait
        batch.due = frozenset(phase.name for phase in due)
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

    def _begin(self, place: int, number: int) -> None:
        """Enter a stage: prepare it, restart the average from the model, drop the optimiser state of the one before.

        A stage too short for a step is prepared, too: the ones after it may build on that.
        """
        before, self.stage, self.began = self.stage, place, number
        self.model.eval()
        for stage in self.stages[before + 1 : place + 1]:
            if stage.prepare:
                with torch.no_grad():
                    stage.prepare(self.batches, self.fresh)
                self.check_in_place("prepare")
        self.model.train()
        if self.ema:  # what now stands still must be what the others see, not an average of it
            self.ema.restart()
        if before >= 0:
            for optimizer in self.stages[before].optimizers:
                optimizer.state.clear()

    def check_in_place(self, hook: str = "update") -> None:
        """What is no longer the tensor that it was, the average does not share and the optimiser does not move."""
        for name, tensor in _tensors(self.model).items():
            if self.tensors.get(name) is not tensor:
                raise UsageError(f"{hook} made {name!r} a new tensor: fill the old one in place ({name}.copy_(...)).")

    # State: with (seed, step) these are all that the next step depends on

    def state(self) -> dict[str, Any]:
        """Stage, its first step, and the state of its optimisers, for ``torch.load(weights_only=True)``."""
        optimizers = [one.state_dict() for one in self.stages[self.stage].optimizers] if self.stage >= 0 else []
        return {"optimizers": optimizers, "stage": (self.stage, self.began), "outline": self._outline()}

    def _outline(self) -> list[list[str]]:
        """The phases of each stage with the kind of their optimisers and the number of their tensors."""
        kinds = [[(phase.name, phase.optimizer) for phase in stage.phases] for stage in self.stages]
        return [
            [f"{name} ({type(o).__name__}, {sum(len(g['params']) for g in o.param_groups)} tensors)" for name, o in one]
            for one in kinds
        ]

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave.

        Raises:
            UsageError: the stages, phases or optimisers are others now.
        """
        before, now = state.get("outline", self._outline()), self._outline()
        if before != now:
            raise UsageError(
                f"This training had the stages {before}, and the model's stages() now gives {now}: it cannot go on "
                "from the state of other optimisers. Its weights can be the start of a new run: --init RUN."
            )
        self.stage, self.began = state["stage"]
        if self.stage >= 0:
            for optimizer, saved in zip(self.stages[self.stage].optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)


class _Step:
    """One step in progress: the batch, what ``forward`` made of it, and who still needs its graph."""

    def __init__(
        self, engine: Engine, stage: Stage, number: int, batch: Batch, due: list[Phase], warm: tuple[int, int]
    ):
        self.engine, self.stage, self.number, self.batch, self.due = engine, stage, number, batch, due
        self.warm = warm
        self.parts = parts_of(batch, engine.accumulate, stage.group)
        self.outputs: Outputs | None = None
        self.kept: Outputs = {}  # of ``forward``, for ``update``

    def run(self, progress: float) -> Metrics:
        shared = len(self.parts) == 1 and not any(phase.closure for phase in self.due)
        if shared and self.stage.forward:
            self.outputs = self._forward(*self.parts[0], any(phase.graph for phase in self.due))
            self.kept = self._gathered(self.outputs)
        metrics: Metrics = {}
        for place, phase in enumerate(self.due):
            later = any(other.graph for other in self.due[place + 1 :])
            self._move(phase, progress, metrics, retain=phase.graph and later)
            if self.outputs is not None and later:  # fused optimisers do not tell autograd that they moved weights,
                torch.autograd.graph.increment_version(phase.parameters)  # and it must refuse a graph across them
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
            default = 0.0 if phase.closure else CLIP  # a line search needs the gradient of the loss that it is given
            clip = next(one for one in (engine.clip, phase.clip, default) if one is not None)
            if clip:
                sums["gradient_norm"] = nn.utils.clip_grad_norm_(phase.parameters, clip)
            return sums

        if phase.closure:
            first: Metrics = {}

            def closure() -> Tensor:
                found = evaluate()
                if not first:
                    first.update(found)
                for p in phase.parameters:  # torch's L-BFGS flattens gradients by a view
                    p.grad = None if p.grad is None else p.grad.contiguous()
                loss = found["loss"].clone()
                distributed.average([loss])
                return loss * phase.scale

            phase.optimizer.step(closure)  # type: ignore[arg-type]
            found = first
        else:
            found = evaluate()
            with self._autocast():  # Muon's matrix products are of the networks' size
                phase.optimizer.step()
        phase.optimizer.zero_grad(set_to_none=True)
        metrics.update({f"{phase.name}/{name}": value for name, value in found.items()})

    def _gradients(self, phase: Phase, retain: bool) -> Metrics:
        """Backpropagate a phase's loss, part by part; its scalars as means over the rows."""
        name = f"phase:{phase.name}"
        batch = self.batch.replace(rng=self.engine.batches.stream(self.number, name), shared=self._shared(name))
        sums: Metrics = {}
        made = []
        for low, high in self.parts:
            outputs, share = self.outputs, (high - low) / batch.rows
            if outputs is None and self.stage.forward:
                outputs = self._forward(low, high, phase.graph)
                made.append(self._gathered(outputs))
            seen = outputs if phase.graph else detached(outputs)
            with self._eagerly(phase), drawing(self.engine.layers, self._layers(phase.name, low, high)):
                with self._autocast():
                    found = phase.loss(batch if share == 1 else batch.cut(low, high), seen)
                check_scalars(f"Phase {phase.name!r}: its loss", found)
                if "loss" not in found:
                    gave = ", ".join(found) or "nothing"
                    raise UsageError(f"Phase {phase.name!r}: its loss returned no value named 'loss'; it gave {gave}.")
                if not (found["loss"].requires_grad and phase.parameters):
                    raise UsageError(_no_gradient(phase))
                loss = wide(found["loss"]) * (phase.scale * share)
                loss.backward(inputs=phase.parameters, retain_graph=retain and share == 1)
            for name, value in found.items():
                value = wide(value.detach()) * share
                sums[name] = sums[name] + value if name in sums else value
        self.kept = self.kept or join(made)
        return sums

    def _forward(self, low: int, high: int, graph: bool) -> Outputs:
        assert self.stage.forward
        batch = self.batch.cut(low, high).replace(shared=self._shared("forward"))
        layers = drawing(self.engine.layers, self._layers("forward", low, high))
        with torch.set_grad_enabled(graph), layers, self._autocast():
            return checked("forward", self.stage.forward(batch))

    def _gathered(self, outputs: Outputs) -> Outputs:
        """Of the first forward of the step, what ``update`` will look at."""
        if not self.stage.update or self.kept:
            return {}
        return detached({name: outputs[name] for name in self.stage.gather if name in outputs})

    @torch.no_grad()
    def update(self, metrics: Metrics) -> Metrics:
        """What is not trained by gradient, from averaged scalars and global rows."""
        assert self.stage.update
        stats = {name: value.clone() for name, value in metrics.items()}
        distributed.average([*stats.values()])
        for name in self.stage.gather:
            if name not in self.batch and name not in self.kept:
                known = ", ".join([*self.batch, *(self.outputs or self.kept)])
                raise UsageError(f"gather names {name!r}, which is no column and no output of forward ({known}).")
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
        )
        found = self.stage.update(batch, outputs, stats)
        found = {} if found is None else found
        check_scalars("update", found)
        return {f"update/{name}": value.detach().clone() for name, value in found.items()}

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
    """Torch's global generators begin at ``key`` and are put back afterwards.

    So a module that draws from them (``nn.Dropout``, ``torch.randn``) resumes exactly, too, though its draws are not
    those of its rows: several ranks or parts then train another model than one does.
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
    graph = "" if phase.graph else " With graph=False it gets the outputs of forward without their graph."
    return f"Phase {phase.name!r}: its loss depends on none of its parameters.{graph}"


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_groups(group: int, batch_size: int, accumulate: int) -> None:
    world = distributed.world()
    unit = group * world
    if (world > 1 or accumulate > 1) and batch_size % unit:
        raise UsageError(
            f"This model's losses look at {group} rows together, so a batch of {batch_size} cannot be cut into parts "
            f"or shared by {world} processes. Try --batch-size {max(unit, round(batch_size / unit) * unit)}."
        )
