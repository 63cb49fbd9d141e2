"""The training loop: a generator of steps that fixes their order. Everything else is a callback."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reverie.core import distributed, registry
from reverie.core.card import config_of, networks_of
from reverie.core.errors import UsageError
from reverie.core.layout import to_device_layout
from reverie.core.precision import pick_device, pick_precision
from reverie.core.schema import fault_of
from reverie.data import open_data
from reverie.data.augment import Augment
from reverie.data.batches import Batches, NoData
from reverie.data.types import Dataset
from reverie.optim.phase import Phase, stages_of
from reverie.training.callbacks import CHECKPOINT, LOG, SHOW, Callback, Outcome, as_list
from reverie.training.digest import Digest, Metrics
from reverie.training.options import Options, split_options
from reverie.training.plan import Budget, Plan
from reverie.training.record import LoopRecord, PlanRecord
from reverie.training.step import Engine
from reverie.training.values import check_plain


def fit(
    model: nn.Module,
    data: Any = None,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    plan: Plan | None = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    batch_size: int | None = None,
    **options: Any,
) -> Generator[Step, None, None]:
    """Train a model, step by step: ``for step in fit(model, data, steps=1000): ...``

    The caller may leave the loop at any step; callbacks are then closed. Nothing global is installed.

    Args:
        model: any ``nn.Module`` with ``stages()``. It is moved to the device.
        data: a data set, or anything ``open_data`` opens; an object with the methods of ``Batches``; or None: rows
            without columns.
        steps, minutes, plan: length of training, one of the three.
        callbacks: see ``Callback``.
        batch_size: rows per step; by default 128, or 1 without data.
        options: fields of ``Options``, and arguments of the model's ``stages()`` (lr ...).
    Yields:
        a ``Step`` after each step.
    Raises:
        UsageError: an unknown or invalid option.
        ReverieError: training diverged.
    """
    stage_options, training = split_options(model, options)
    plan = Plan.of(steps, minutes) if plan is None else plan
    if not (data is None or isinstance(data, Dataset) or hasattr(data, "in_order")):  # in_order: already batches
        data = open_data(data)
    size = batch_size or int(getattr(data, "batch_size", 1 if data is None else Options.batch_size))
    chosen = Options(**training, seed=seed, batch_size=size)
    return Loop(model, data, plan, chosen, stage_options, callbacks).run()


class Step:
    """A training step, before or after it runs.

    Attributes:
        number: from 1.
        progress: of the run after this step, in [0, 1].
        metrics: "metric", or "phase/metric" with several phases; empty before the step.
        logs: whether the log gets a line after this step.
        line: that line, once complete.
    """

    def __init__(self, loop: Loop, number: int):
        self.loop, self.number = loop, number
        self.metrics = Metrics({})
        self.logs = False
        self.line: dict[str, Any] | None = None

    @property
    def progress(self) -> float:
        return self.loop.plan.progress(self.number)

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self.loop.model

    @property
    def best(self) -> nn.Module:
        """The model to sample from: the weights' average, else the model."""
        return self.loop.engine.best

    def log(self, **numbers: float) -> None:
        """Add numbers of a callback to the next line of the log.

        Raises:
            UsageError: a value is not a number.
        """
        for name, value in numbers.items():
            try:
                self.loop.numbers[name] = float(value)
            except (TypeError, ValueError) as error:
                raise UsageError(f"step.log({name}=...) takes a number, not {value!r:.60}.") from error

    def __repr__(self) -> str:
        return f"Step({self.number}, progress={self.progress:.4f}, metrics={self.metrics!r})"


class Loop:
    """Model, engine, plan and callbacks of a training.

    Attributes:
        step: steps completed.
        engine: runs a step.
        finished: whether the plan's end is reached.
        elapsed: seconds of training, including those before a resume.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset | Batches | None,
        plan: Plan,
        options: Options,
        stage_options: Mapping[str, Any],
        callbacks: Sequence[Callback],
        init: bool = False,
    ):
        self.data, self.plan, self.options = data, plan, options
        self.leader = distributed.rank() == 0
        self.device = pick_device(options.device)
        self.precision = pick_precision(options.precision, self.device)
        self.model = to_device_layout(model, self.device)
        callbacks = as_list(callbacks)
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise UsageError(f"callbacks must be a list of reverie.callbacks.Callback, not {callback!r:.80}.")
        self.callbacks = sorted(callbacks, key=lambda callback: callback.order)
        self.engine = Engine(
            self.model,
            stages_of(self.model, **registry.stage_defaults(config_of(self.model)["name"]) | {**stage_options}),
            self._batches(),
            self.precision,
            options.ema,
            options.clip,
            options.accumulate,
            options.warmup,
            options.decay,
            fresh=not init,
        )
        self.step = 0
        self.extensions: list[dict[str, Any]] = []
        self.stopping = False
        self.outcome: Outcome = "failed"
        self.newest_checkpoint: Callable[[], Path | None] = lambda: None
        self.numbers: dict[str, float] = {}
        self.worked = 0.0  # seconds of this process in steps, without callbacks
        self._first = 0  # first step of this process
        self._spent = 0.0  # seconds of training before this process
        self._began: float | None = None  # when this process began to train
        self._stage_began = 0.0  # seconds of training before the current stage
        self._worked_at_line = 0.0
        self.digest = Digest()

    def _batches(self) -> Any:
        options = self.options
        if self.data is not None and not isinstance(self.data, Dataset):
            return self.data
        start, rows = distributed.rows(options.batch_size)
        if self.data is None:
            return NoData(options.batch_size, options.seed, start, rows, self.device)
        augment = Augment.parse(options.augment)
        return Batches(self.data.train, options.batch_size, options.seed, start, rows, augment, self.device)

    @property
    def elapsed(self) -> float:
        return self._spent + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def step_seconds(self) -> float:
        """Mean seconds per step in this process."""
        return self.worked / max(1, self.step - self._first)

    @property
    def finished(self) -> bool:
        return self.plan.finished(self.step) and not self.extensions

    def say(self, text: str) -> None:
        """Print a message for the user."""
        for callback in self.callbacks:
            callback.say(text)

    def stop(self) -> None:
        """Request a clean stop after the current step; with several processes, at the next log point."""
        self.stopping = True

    # State

    def state(self) -> dict[str, Any]:
        """Everything besides the weights that the next step depends on; for ``torch.load(weights_only=True)``."""
        line = {"digest": self.digest.state(), "numbers": self.numbers, "worked": self.worked - self._worked_at_line}
        progress = {"seconds": self.elapsed, "stage_seconds": self._stage_began, "line": line}
        callbacks = {key: state for key, callback in self._named() if (state := callback.state()) is not None}
        for key, state in callbacks.items():
            check_plain(state, key)
        return self.engine.state() | {"plan": self.plan.state(), "loop": progress, "callbacks": callbacks}

    def load_state(self, step: int, state: dict[str, Any]) -> None:
        """Restore the ``state`` of step ``step``.

        Raises:
            ValueError: it is damaged; so may be KeyError, TypeError and the like.
        """
        if reason := fault_of(state["plan"], PlanRecord, "plan") or fault_of(state["loop"], LoopRecord, "loop", False):
            raise ValueError(reason)
        self.step = step
        self.engine.load_state(state)
        self.plan = Plan.from_state(state["plan"])
        progress = state["loop"]
        self._spent, self._stage_began = progress["seconds"], progress["stage_seconds"]
        if line := progress.get("line"):  # the steps since the last line of the log
            self.digest.load_state(line["digest"])
            self.numbers, self._worked_at_line = line["numbers"], -line["worked"]
        else:  # before checkpoints were written between two lines
            self.digest.typical = progress.get("typical_losses", {})
        for key, callback in self._named():
            if key in state["callbacks"]:
                callback.load_state(state["callbacks"][key])

    def _named(self) -> list[tuple[str, Callback]]:
        kinds = [type(callback).__name__ for callback in self.callbacks]
        return [(f"{kind}-{kinds[:index].count(kind)}", self.callbacks[index]) for index, kind in enumerate(kinds)]

    # Steps

    def run(self) -> Generator[Step, None, None]:
        """Run the remaining steps and yield each; callbacks are started before and closed after them."""
        self._began, self._first = time.monotonic(), self.step
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:
                stack.callback(self._close, callback)
                callback.start(self)
            nets = self._compile()
            self._warn_of_mixed_rows()
            try:
                yield from self._steps()
                self.outcome = "finished" if self.finished else "stopped"
            except GeneratorExit:
                self.outcome = "finished" if self.finished else "stopped"
                raise
            finally:
                for net in nets:
                    net._compiled_call_impl = None

    def _close(self, callback: Callback) -> None:
        callback.close(self.outcome)

    def _steps(self) -> Iterator[Step]:
        early = [callback for callback in self.callbacks if callback.order < LOG]
        late = [callback for callback in self.callbacks if LOG <= callback.order <= CHECKPOINT]
        shows = [callback for callback in self.callbacks if callback.order >= SHOW]
        self._extend()
        budget = self._budget()
        while not self.finished:
            step = Step(self, self.step + 1)
            for callback in self.callbacks:
                callback.before(step)
            before, since = self.elapsed, time.monotonic()
            progress = self.plan.progress(self.step)
            metrics = self.engine.step(self.step, progress, self.plan.warm(self.step, self.options.warmup))
            if self.engine.began == self.step:
                self._stage_began = before
                self.digest.begin_stage()
            self.step += 1
            self.digest.window.append(metrics)
            step.metrics = Metrics(metrics)
            if budget and budget.due(self.step, self.elapsed):
                self._look(budget, since)
            self.worked += time.monotonic() - since
            step.logs = self.step % self.options.log_every == 0 or self.plan.finished(self.step)
            for callback in early:
                callback.after(step)
            if step.logs:
                self.settle()
                step.line = self._line()
            for callback in late:
                callback.after(step)
            votes = step.logs or distributed.world() == 1
            if votes:
                self.stopping = distributed.any_rank(self.stopping, self.device)
            for callback in shows:
                callback.after(step)
            yield step
            if votes and self.stopping:
                return
            if self._extend():
                budget = self._budget()

    def _budget(self) -> Budget | None:
        if self.plan.clock is None or self.plan.end is not None:
            return None
        return Budget(self.plan, self.step, self.elapsed, self.worked, alone=distributed.world() == 1)

    def _look(self, budget: Budget, since: float) -> None:
        """Update the plan by the leader's clock; all ranks use its plan and the step of its next update."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        count = len(self.plan.knots)
        if self.leader:
            budget.look(self.step, self.elapsed, self.worked + time.monotonic() - since)
        knots, self.plan.end, budget.next = distributed.agree((self.plan.knots[count:], self.plan.end, budget.next))
        self.plan.knots[count:] = knots

    def _extend(self) -> bool:
        """Apply the extensions of ``resume`` that are due at this step; returns whether there were any."""
        before = len(self.extensions)
        while self.extensions and (self.extensions[0]["step"] <= self.step or self.plan.finished(self.step)):
            extension = self.extensions.pop(0)
            low = self.engine.ends[-2]
            trained = (self.step - self.engine.began, self.elapsed - self._stage_began)
            self.plan.extend(self.step, self.elapsed, extension.get("steps"), extension.get("seconds"), low, trained)
            self.plan = Plan.from_state(distributed.agree(self.plan.state()))
        return len(self.extensions) < before

    def _compile(self) -> list[nn.Module]:
        """Compile the model's networks if enabled and supported; returns those compiled."""
        if not self.options.compile:
            return []
        try:
            torch.compile(lambda x: x * 2 + 1)(torch.ones(2, device=self.device))
        except Exception as error:  # a missing compiler raises one of many types
            reason = str(error).strip().splitlines()[0][:160]
            self.say(f"torch.compile does not work here ({reason}); training without it.")
            return []
        nets = networks_of(self.model)
        for net in nets:
            net.compile()
        self.engine.compiled = True
        return nets

    def _warn_of_mixed_rows(self) -> None:
        """Warn of layers that mix rows: parts of a batch and ranks then differ from the full batch."""
        if self.options.accumulate == 1 and distributed.world() == 1:
            return
        mixing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
        kinds = sorted({type(m).__name__ for m in self.model.modules() if isinstance(m, mixing) and m.training})
        if kinds:
            self.say(
                f"Warning: {', '.join(kinds)} in this model depends on the rows of the batch, so training with parts "
                "of a batch or several processes differs from training with full batches."
            )

    # The line of the log

    def settle(self) -> None:
        """Check the steps since the last line of the log for divergence; all ranks must call it.

        Raises:
            ReverieError: a loss is NaN or infinite, or diverges.
        """
        since = time.monotonic()
        self.digest.settle(self.step, self._first_phase(), self.newest_checkpoint)
        self.worked += time.monotonic() - since  # this waits for the device

    def _line(self) -> dict[str, Any]:
        phase = self._first_phase()
        if self.engine.stages[self.engine.stage].update:
            self.engine.check_in_place()
        steps, means = self.digest.means()
        speed = steps * self.options.batch_size / max(1e-9, self.worked - self._worked_at_line)
        numbers, self.numbers, self._worked_at_line = self.numbers, {}, self.worked
        line = {
            "step": self.step,
            "seconds": round(self.elapsed, 3),
            "images_per_second": round(speed, 3),
            "lr": float(phase.optimizer.param_groups[0]["lr"]),
        }
        logged = means | numbers
        if taken := sorted(line.keys() & logged.keys()):
            raise UsageError(f"The log already has {taken[0]!r}: rename that metric of the model.")
        return line | {name: value for name, value in logged.items() if math.isfinite(value)}

    def _first_phase(self) -> Phase:
        return self.engine.stages[self.engine.stage].phases[0]
