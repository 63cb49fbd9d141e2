"""One run in motion: the loop around ``Fit``, and everything it keeps on the disk."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from reverie.core import distributed
from reverie.core.errors import ReverieError, UsageError
from reverie.core.files import write_json
from reverie.core.precision import keep_memory, pick_device, pick_precision
from reverie.data.augment import Augment
from reverie.data.batches import Batches
from reverie.data.types import Dataset
from reverie.optim.phase import stages_of
from reverie.training import report
from reverie.training.checkpoint import Checkpoint, load_checkpoint, newest_whole, save_checkpoint
from reverie.training.doctor import examine
from reverie.training.fit import Fit
from reverie.training.options import Options
from reverie.training.plan import Budget, Plan
from reverie.training.progress import TrainingBar
from reverie.training.run import Run

_SAMPLE_AT = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # shares of progress at which a grid is drawn
_CHECKPOINT_SECONDS = 60.0


class Training:
    """A model, its data and its plan, from the first step (or the newest checkpoint) to the last."""

    def __init__(self, run: Run, model: nn.Module, data: Dataset, options: Options, plan: Plan, quiet: bool):
        self.run, self.data, self.options, self.plan = run, data, options, plan
        self.leader = distributed.rank() == 0
        self.bar = TrainingBar(self.leader and not quiet)
        self.device = pick_device(options.device)
        self.precision = pick_precision(options.precision, self.device)
        self.began = time.monotonic() - run.info["seconds"]
        if self.device.type == "cpu":
            keep_memory()
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # resume is exact to the bit
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        start, rows = distributed.rows(options.batch_size)
        batches = Batches(
            data.train, options.batch_size, options.seed, start, rows, Augment.parse(options.augment), self.device
        )
        if getattr(model, "texts", False) and not data.train.get("text"):
            raise UsageError(
                f"{data.source} has no captions to learn from. NAME.txt beside NAME.png is one; --conditional label "
                "uses classes, and --data emoji has captions."
            )
        stages = stages_of(self.model, **run.info["phases"])
        self.fit = Fit(
            self.model,
            stages,
            batches,
            self.precision,
            options.ema,
            options.clip,
            options.accumulate,
            options.warmup,
            options.decay,
        )
        self.step = 0
        self.saved_at = self.began
        self.stop = False
        self.typical: float | None = None
        self.checkup, self.checked = report.Checkup(data), dict[str, float]()
        self.lines: list[dict[str, Any]] = []
        self.found = {finding["kind"]: finding for finding in run.info.get("findings", [])}
        self.writer = _tensorboard() if options.tensorboard and self.leader else None
        self.board: Any = None

    @property
    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return time.monotonic() - self.began

    # From start to end

    def go(self) -> Run:
        """Train to the end of the plan, or to a clean stop."""
        self._restore()
        self.lines = self.run.metrics() if self.leader else []
        self._announce()
        if self.writer:
            self.board = self.writer(str(self.run.path / "tensorboard"))
        self._compile()
        with _signals(self._ask_to_stop), self.bar:
            try:
                self._loop()
            except ReverieError:
                if self.leader:
                    self.run.update(status="failed", seconds=round(self.elapsed, 2))
                raise
            self._save()
        if not self._finished():
            self._tell(
                f"Stopped at step {self.step}; everything is kept. Continue with: reverie resume {self.run.path}"
            )
            if self.leader:
                self._close("stopped")
        elif self.leader:
            self._finish()
        return self.run

    def _restore(self) -> None:
        newest, passed = newest_whole(self.run.checkpoints)
        for line in passed:
            self._tell(f"Warning: {line}.")
        if newest is None:
            return
        saved = load_checkpoint(newest, training=True, device=self.device)
        self.model.load_state_dict(saved.weights)
        if self.fit.ema and saved.ema:
            self.fit.ema.model.load_state_dict(saved.ema)
        self.fit.load_state(saved.training or {})
        self.step = saved.step
        self.typical = (saved.training or {}).get("typical_loss")
        if self.leader:
            self.run.forget_after(self.step)
        self._tell(f"Continuing {self.run.path} from step {self.step}.")

    def _announce(self) -> None:
        count = sum(p.numel() for p in self.model.parameters())
        long = f"{self.options.minutes:g} minutes" if self.plan.minutes else f"{self.plan.steps} steps"
        self._tell(
            f"{self.run.info['model']['name']} ({count / 1e6:.2f} M parameters) on {self.data.source}: "
            f"{len(self.data.train)} {self.data.spec.medium}s of {self.data.spec}, "
            f"{len(self.data.held_out)} held out. {long}, batch {self.options.batch_size}, {self.precision}."
        )
        if met := self.data.report.counts():
            kinds = ", ".join(f"{count} {kind}" for kind, count in met.items())
            self._tell(
                f"Met while reading the pictures: {kinds}. `reverie data {self.data.source}` tells file by file."
            )
        self._tell(f"Run directory: {self.run.path}")
        if self.leader:
            self.run.update(status="running", precision=str(self.precision))

    def _compile(self) -> None:
        if not self.options.compile:
            return
        try:
            torch.compile(lambda x: x * 2 + 1)(torch.ones(2, device=self.device))
        except Exception as error:  # a missing compiler surfaces as any of a dozen types; the reason is told
            self._tell(
                f"torch.compile does not work here ({str(error).strip().splitlines()[0][:160]}); training without it."
            )
            return
        for net in self.model.children():
            net.compile()

    # The loop

    def _loop(self) -> None:
        if self.step == 0:
            self._save()
        reserve = min(4.0, 0.25 * 60 * (self.plan.minutes or 0))  # seconds for the last pictures and scores
        budget = Budget(self.plan, reserve)
        self.measuring = bool(self.plan.minutes) and not self.plan.measured
        window: list[dict[str, Tensor]] = []
        since = time.monotonic()
        images = 0
        grids = [share for share in _SAMPLE_AT if share > self.plan.progress(self.step)]
        while not self._finished():
            meeting = self.step % self.options.log_every == 0  # where ranks may talk; a lone process always may
            if (meeting or distributed.world() == 1) and self._measure(budget):
                self.run.info["plan"] = asdict(self.plan)
                if self.leader:
                    self.run.save()
            window.append(self.fit.step(self.step, self.plan.progress(self.step)))
            self.step += 1
            images += self.options.batch_size
            if (
                self.step % self.options.log_every
                and not self._finished()
                and not (self.stop and distributed.world() == 1)
            ):
                continue
            metrics = self._digest(window)
            speed = images / max(1e-9, time.monotonic() - since)
            self._log(metrics, speed)
            window, images, since = [], 0, time.monotonic()
            if (
                grids
                and self.plan.measured
                and self.plan.progress(self.step) >= grids[0]
                and not self.options.sample_every
            ):
                grids = [share for share in grids if share > self.plan.progress(self.step)]
                self._grid()
            if self.options.sample_every and self.step % self.options.sample_every < self.options.log_every:
                self._grid()
            if self._due():
                self._save()
            self.stop = distributed.any_rank(self.stop, self.device)
            if self.stop:
                return

    def _finished(self) -> bool:
        return self.plan.measured and self.step >= (self.plan.steps or 0)

    def _measure(self, budget: Budget) -> bool:
        """The leader looks at the clock; every rank takes its word for the plan, and for whether it will look again."""
        if not self.measuring:
            return False
        changed = self.leader and budget.update(self.step, self.elapsed)
        verdict = (changed, self.plan.knots, bool(budget.corrections))
        changed, self.plan.knots, self.measuring = distributed.agree(verdict)
        return changed

    def _digest(self, window: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means over the window, in one transfer from the device; raises where a loss is not a number or runs away."""
        keys = [(place, name) for place, metrics in enumerate(window) for name in metrics]
        if not keys:  # every phase of the window is a lazy one that was not due
            return {}
        values = torch.stack([window[place][name].float() for place, name in keys])
        distributed.average([values])
        numbers = dict(zip(keys, values.tolist(), strict=True))
        losses = [(place, name, x) for (place, name), x in numbers.items() if name.rpartition("/")[2] == "loss"]
        for place, name, loss in losses:
            ran_away = self.typical is not None and abs(loss) > 1e6 * self.typical
            if not math.isfinite(loss) or ran_away:
                self._diverged(self.step - len(window) + place, name, loss)
        if self.typical is None and losses:
            self.typical = 1e-3 + statistics.median(abs(loss) for *_, loss in losses)
        means: dict[str, float] = {}
        for name in {name: None for _, name in keys}:
            found = [numbers[place, name] for place in range(len(window)) if (place, name) in numbers]
            means[name] = sum(found) / len(found)
        return means

    def _diverged(self, step: int, name: str, loss: float) -> None:
        player = name.rpartition("/")[0] or self.fit.stages[self.fit.stage][0].name
        newest, _ = newest_whole(self.run.checkpoints)
        rate = self.fit.stages[self.fit.stage][0].optimizer.param_groups[0]["lr"]
        raise ReverieError(
            f"Training diverged at step {step}: the loss of phase {player!r} is {loss:g}. "
            f"Kept: the last good checkpoint, {newest}. Try a lower --lr (it stood at {rate:.2g}), a longer --warmup, "
            "--clip 1, or --precision fp32."
        )

    def _log(self, metrics: dict[str, float], speed: float) -> None:
        if not self.leader:
            return
        first = self.fit.stages[self.fit.stage][0]
        line = {
            "step": self.step,
            "seconds": round(self.elapsed, 3),
            "images_per_second": round(speed, 1),
            "lr": first.optimizer.param_groups[0]["lr"],
        }
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)} | self.checked
        self.checked = {}
        self.run.log(line | finite)
        self.lines.append(line | finite)
        self._examine()
        if self.board:
            for name, value in finite.items():
                self.board.add_scalar(name, value, self.step)
        progress = self.plan.progress(self.step)
        left: float | None = None
        if self.plan.measured:
            left = ((self.plan.steps or 0) - self.step) * self.options.batch_size / max(speed, 1e-9)
        self.bar.update(self.step, self.plan.steps, progress, left, speed, metrics)

    # What is kept

    def _due(self) -> bool:
        if self.options.checkpoint_every:
            return self.step % self.options.checkpoint_every < self.options.log_every
        return time.monotonic() - self.saved_at > _CHECKPOINT_SECONDS

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if not self.leader:
            return
        ema = self.fit.ema.model.state_dict() if self.fit.ema else None
        state = self.fit.state() | {"typical_loss": self.typical}
        content = Checkpoint(self.step, self.run.info["model"], self.model.state_dict(), ema, state)
        save_checkpoint(self.run.checkpoints, content, self.options.keep)
        self.run.update(seconds=round(self.elapsed, 2))

    def _grid(self) -> None:
        if self.leader:
            report.preview(self.fit.best, self.data, self.run.path / "samples" / f"{self.step:08d}.png")
            self.checked = self.checkup(self.model)
            self.model.train()

    def _examine(self) -> None:
        """Tell what the doctor finds, once for each kind of trouble."""
        for finding in examine(self.lines):
            if finding.kind not in self.found:
                self.found[finding.kind] = asdict(finding)
                self.run.update(findings=list(self.found.values()))
                self._tell(f"The doctor: {finding}")

    def _finish(self) -> None:
        lines = self.run.metrics()
        scores = report.leave_behind(self.fit.best, self.data, lines, self.run.path)
        write_json(self.run.path / "metrics.json", {"step": self.step, "held_out": scores})
        self._close("finished", held_out=scores)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        shown = f" Held-out pictures: {shown}." if shown else ""
        self._tell(f"Finished {self.step} steps in {self.elapsed:.0f} s.{shown}")

    def _close(self, status: str, **facts: Any) -> None:
        """The last words of run.json."""
        seconds = self.elapsed
        result = {
            "run": str(self.run.path),
            "steps": self.step,
            "images_per_second": round(self.step * self.options.batch_size / seconds, 1),
            "seconds": round(seconds, 2),
        }
        self.run.update(status=status, seconds=result["seconds"], result=result, **facts)

    def _tell(self, text: str) -> None:
        self.bar.say(text)

    def _ask_to_stop(self) -> None:
        self.stop = True
        self._tell("Stopping after this step (press again to stop at once; the last checkpoint stays).")


@contextlib.contextmanager
def _signals(ask: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks to stop, the second is as it was before; what nohup ignores stays ignored."""

    def handle(number: int, frame: Any) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        ask()

    try:
        names = [name for name in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(name) != signal.SIG_IGN]
        before = {name: signal.signal(name, handle) for name in names}
    except ValueError:  # not the main thread: signals belong to somebody else
        yield
        return
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--tensorboard needs an extra: pip install 'reverie[tensorboard]'.") from error
    return SummaryWriter
