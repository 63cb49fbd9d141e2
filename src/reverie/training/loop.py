"""The loop: train, resume, rerun. One story from a request to a finished run directory."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reverie import registry
from reverie.data import data as open_data
from reverie.data.augment import Augment
from reverie.data.batches import Batches
from reverie.data.types import Dataset
from reverie.errors import ReverieError, UsageError
from reverie.files import write_json
from reverie.recipes import recipe_for
from reverie.training import distributed, report
from reverie.training.checkpoint import Checkpoint, load_checkpoint, newest_whole, save_checkpoint
from reverie.training.fit import Fit
from reverie.training.options import Options, sort_options
from reverie.training.phase import stages_of
from reverie.training.plan import Budget, Plan
from reverie.training.precision import keep_memory, pick_device, pick_precision
from reverie.training.progress import TrainingBar
from reverie.training.run import Run, fresh_path, machine, versions
from reverie.verbs import verbs_of

_SAMPLE_AT = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # shares of progress at which a grid is drawn
_CHECKPOINT_SECONDS = 60.0


def train(
    model: str = "vae",
    data: str | Dataset = "fashion",
    size: int | None = None,
    out: Path | str | None = None,
    quiet: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Run:
    """Train a model and leave a run directory.

    Args:
        model: a name of ``registry.MODELS``.
        data: a data set, or what ``reverie.data`` opens.
        size: side of the pictures in pixels, where ``data`` is still to be opened.
        out: the run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        quiet: say nothing.
        progress: called while pictures are being read, (done, total, what).
        options: the model's own, its phases' and ``Options``' fields; the recipe's values where not given.
    Raises:
        UsageError: an unknown name or an unfit value.
        ReverieError: the data cannot be used, the disk refuses, or training diverged (what was kept is said).
    """
    registry.entry(model)
    spec = data if isinstance(data, str) else data.spec
    recipe = recipe_for(model, spec)
    kwargs, moves, training = sort_options(model, options)
    if "steps" in training or "minutes" in training:
        recipe_training = {k: v for k, v in recipe.get("training", {}).items() if k not in ("steps", "minutes")}
    else:
        recipe_training = {"minutes": 3.0} | recipe.get("training", {})
    chosen = Options(**recipe_training | training)
    with distributed.group():
        plan = Plan.of(chosen.steps, chosen.minutes)
        distributed.rows(chosen.batch_size)
        if isinstance(data, str):
            data = open_data(data, size=size, progress=progress)
        facts = {"spec": spec, "size": data.size, "channels": data.channels, "fingerprint": data.fingerprint}
        built = _build(model, recipe.get("model", {}) | kwargs, data, chosen.seed)
        info = {
            "reverie": versions()["reverie"],
            "model": built.config,
            "verbs": verbs_of(built),
            "phases": recipe.get("phases", {}) | moves,
            "data": facts | {"train": len(data.train), "held_out": len(data.held_out), "classes": data.classes},
            "training": asdict(chosen),
            "plan": asdict(plan),
            "versions": versions(),
            "machine": machine() | {"processes": distributed.world()},
            "status": "new",
            "seconds": 0.0,
        }
        path = Path(distributed.agree(str(out or fresh_path(model, spec))))
        runner = _Training(Run(path, info), built, data, chosen, plan, quiet)
        if distributed.rank() == 0:  # only now that every option has proved usable
            Run.create(path, info)
        return runner.go()


def resume(path: Path | str, quiet: bool = False) -> Run:
    """Continue a run from its newest whole checkpoint, bit for bit as if it had never stopped (same device).

    Raises:
        UsageError: there is no run, or it is finished.
        ReverieError: the pictures are not the ones it was trained on.
    """
    run = Run.open(path)
    if run.info["status"] == "finished":
        raise UsageError(f"{run.path} is finished. `reverie sample {run.path}` draws from it; a new --out trains anew.")
    with distributed.group():
        return _again(run, run.info, quiet).go()


def rerun(path: Path | str, out: Path | str | None = None, quiet: bool = False) -> Run:
    """Repeat a run from its run.json, with the very number of steps that its budget came to, in a new directory.

    Raises:
        UsageError: there is no run, or ``out`` is taken.
        ReverieError: the pictures are not the ones it was trained on.
    """
    old = Run.open(path).info
    keep = ("reverie", "model", "verbs", "phases", "data", "training", "plan")
    info = {key: old[key] for key in keep} | {
        "rerun_of": str(path),
        "versions": versions(),
        "machine": machine(),
        "status": "new",
        "seconds": 0.0,
    }
    with distributed.group():
        where = Path(distributed.agree(str(out or fresh_path(old["model"]["name"], old["data"]["spec"]))))
        runner = _again(Run(where, info), info, quiet)
        if distributed.rank() == 0:
            Run.create(where, info)
        return runner.go()


def _build(name: str, kwargs: dict[str, Any], data: Dataset, seed: int) -> nn.Module:
    """The model with the initial weights of this seed; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return registry.build(name, data, **kwargs)


def _again(run: Run, info: dict[str, Any], quiet: bool) -> _Training:
    """The training that run.json describes."""
    facts = info["data"]
    data = open_data(facts["spec"], size=facts["size"], channels=facts["channels"])
    if data.fingerprint != facts["fingerprint"]:
        raise ReverieError(
            f"The pictures of {facts['spec']!r} are not the ones that {run.path} was trained on (their fingerprint "
            "differs). Nothing was changed. Put the old pictures back, or train anew with `reverie train`."
        )
    chosen = Options(**info["training"])
    plan = Plan([(step, progress) for step, progress in info["plan"]["knots"]], info["plan"]["minutes"])
    return _Training(
        run, _build(info["model"]["name"], info["model"]["kwargs"], data, chosen.seed), data, chosen, plan, quiet
    )


class _Training:
    """One run in motion."""

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
                self.run.update(status="stopped", seconds=round(self.elapsed, 2))
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
            f"{self.run.info['model']['name']} ({count / 1e6:.2f} M parameters) on {self.data.spec}: "
            f"{len(self.data.train)} pictures of {self.data.size}x{self.data.size}x{self.data.channels}, "
            f"{len(self.data.held_out)} held out. {long}, batch {self.options.batch_size}, {self.precision}."
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
        reserve = min(6.0, 0.08 * 60 * (self.plan.minutes or 0))
        budget = Budget(self.plan, reserve)
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
        if not budget.corrections:
            return False
        changed = self.leader and budget.update(self.step, self.elapsed)
        knots = distributed.agree(self.plan.knots)
        changed = changed or knots != self.plan.knots
        self.plan.knots = knots
        return changed

    def _digest(self, window: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means over the window, in one transfer from the device; raises where a loss is not a number or runs away."""
        keys = [(place, name) for place, metrics in enumerate(window) for name in metrics]
        values = torch.stack([window[place][name].float() for place, name in keys])
        distributed.average([values])
        numbers = dict(zip(keys, values.tolist(), strict=True))
        losses = [(place, name, x) for (place, name), x in numbers.items() if name.rpartition("/")[2] == "loss"]
        for place, name, loss in losses:
            ran_away = self.typical is not None and abs(loss) > 1e6 * self.typical
            if not math.isfinite(loss) or ran_away:
                self._diverged(self.step - len(window) + place, name, loss)
        if self.typical is None:
            self.typical = 1e-3 + statistics.median(abs(loss) for *_, loss in losses)
        means: dict[str, float] = {}
        for name in {name: None for _, name in keys}:
            found = [numbers[place, name] for place in range(len(window)) if (place, name) in numbers]
            means[name] = sum(found) / len(found)
        return means

    def _diverged(self, step: int, name: str, loss: float) -> None:
        player = name.rpartition("/")[0] or self.fit.stages[self.fit.stage][0].name
        newest, _ = newest_whole(self.run.checkpoints)
        rate = max(g["lr"] for phase in self.fit.stages[self.fit.stage] for g in phase.optimizer.param_groups)
        raise ReverieError(
            f"Training diverged at step {step}: the loss of phase {player!r} is {loss:g}. "
            f"Kept: the last good checkpoint, {newest}. Try a lower --lr (it stood at {rate:.2g}), a longer --warmup, "
            "--clip 1, or --precision fp32."
        )

    def _log(self, metrics: dict[str, float], speed: float) -> None:
        if not self.leader:
            return
        rates = [g["lr"] for phase in self.fit.stages[self.fit.stage] for g in phase.optimizer.param_groups]
        line = {
            "step": self.step,
            "seconds": round(self.elapsed, 3),
            "images_per_second": round(speed, 1),
            "lr": max(rates),
        }
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.run.log(line | finite)
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
        if self.leader and "sample" in verbs_of(self.model):
            report.sample_grid(self.fit.best, self.run.path / "samples" / f"{self.step:08d}.png")

    def _finish(self) -> None:
        lines = self.run.metrics()
        scores = report.leave_behind(self.fit.best, self.data, lines, self.run.path)
        write_json(self.run.path / "metrics.json", {"step": self.step, "held_out": scores})
        seconds = self.elapsed
        result = {
            "run": str(self.run.path),
            "steps": self.step,
            "images_per_second": round(self.step * self.options.batch_size / seconds, 1),
            "seconds": round(seconds, 2),
        }
        self.run.update(status="finished", seconds=result["seconds"], result=result, held_out=scores)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._tell(f"Finished {self.step} steps in {seconds:.0f} s. Held-out pictures: {shown}.")

    def _tell(self, text: str) -> None:
        self.bar.say(text)

    def _ask_to_stop(self) -> None:
        self.stop = True
        self._tell("Stopping after this step (press again to stop at once; the last checkpoint stays).")


@contextlib.contextmanager
def _signals(ask: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks to stop; the second is as it was before."""
    names = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        for name, handler in before.items():
            signal.signal(name, handler)
        ask()

    try:
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
