"""The callback interface of training, and the callbacks that write files.

A callback never changes weights or the training mode, and draws random numbers from separate seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reverie.core import distributed
from reverie.core.card import config_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import disk_errors
from reverie.training.checkpoint import Checkpoint, newest_whole, prune, save_checkpoint
from reverie.training.run import Run

if TYPE_CHECKING:
    from reverie.training.loop import Loop, Step

Outcome = Literal["finished", "stopped", "failed"]

USER, MONITOR, LOG, CHECKPOINT, SHOW = range(5)


class Callback:
    """Hooks of the training loop; every method is optional.

    Attributes:
        order: when ``after`` runs within a step: USER and MONITOR before the log line is complete (to add numbers to
            it), LOG, CHECKPOINT and SHOW after it. Callbacks of equal order keep the order of the list.
    """

    order = USER

    def start(self, loop: Loop) -> None:
        """Before the first step of this process; ``loop.step`` is above 0 in a resumed run."""

    def before(self, step: Step) -> None:
        """Before the engine runs the step."""

    def after(self, step: Step) -> None:
        """After the step. At a log point ``step.logs`` is true, and ``step.line`` is the log line once complete."""

    def say(self, text: str) -> None:
        """A message to the user."""

    def state(self) -> Any:
        """State to store in a checkpoint, of plain values and tensors; None for no state."""

    def load_state(self, state: Any) -> None:
        """Restore ``state``."""

    def close(self, outcome: Outcome) -> None:
        """At the end, in reverse order of the list. "stopped": also if the caller leaves the loop early."""


def as_list(callbacks: Any) -> list[Any]:
    """Callbacks as a list, whatever they are; a single one as a list of one."""
    return list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]


class Log(Callback):
    """Write a line of ``folder``/metrics.jsonl at every log point."""

    order = LOG

    def __init__(self, folder: Path | str):
        self.run = Run(Path(folder), {})

    def start(self, loop: Loop) -> None:
        self.leader = loop.leader
        if self.leader:
            with disk_errors(self.run.path):
                self.run.path.mkdir(parents=True, exist_ok=True)
            self.run.forget_after(loop.step)

    def before(self, step: Step) -> None:
        if self.leader:  # else a preview would make a directory anew that was moved or deleted
            self.run.check_exists()

    def after(self, step: Step) -> None:
        if self.leader and step.line is not None:
            self.run.log(step.line)


class Checkpoints(Callback):
    """Write ``folder/STEP/`` at the start, every so many steps, and at the end.

    Args:
        every: steps between checkpoints; by default a minute passes (with several processes, until a log point).
        keep: number of checkpoints to keep.
        saved: called after each.
    """

    order = CHECKPOINT
    SECONDS = 60.0

    def __init__(
        self,
        folder: Path | str,
        every: int | None = None,
        keep: int = 2,
        saved: Callable[[Loop], None] = lambda loop: None,
    ):
        self.folder, self.every, self.keep, self.saved = Path(folder), every, keep, saved

    def start(self, loop: Loop) -> None:
        self.loop, self.step, self.at = loop, loop.step if loop.step else -1, time.monotonic()
        loop.newest_checkpoint = lambda: newest_whole(self.folder)[0]
        if loop.leader:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                if loop.step:  # a kill may have come between a save and this
                    prune(self.folder, loop.step, self.keep)
        if self.step < 0:
            self._save()

    def after(self, step: Step) -> None:
        if self.every:
            due = step.number % self.every == 0
        else:  # the clocks of several processes differ, but all must take part in reading the metrics
            due = (step.logs or distributed.world() == 1) and time.monotonic() - self.at > self.SECONDS
        if due or step.loop.finished:
            step.loop.settle()  # what has diverged is not saved
            self._save()

    def close(self, outcome: Outcome) -> None:
        if outcome != "failed":
            if distributed.world() == 1 and self.step != self.loop.step:
                self.loop.settle()
            self._save()

    def _save(self) -> None:
        loop = self.loop
        if self.step == loop.step:
            return
        self.step, self.at = loop.step, time.monotonic()
        if loop.leader:
            ema = loop.engine.ema.state_dict() if loop.engine.ema else None
            content = Checkpoint(loop.step, config_of(loop.model), loop.model.state_dict(), ema, loop.state())
            save_checkpoint(self.folder, content, self.keep)
            self.saved(loop)


class TensorBoard(Callback):
    """Write the log as TensorBoard event files.

    Raises:
        UsageError: the extra is not installed.
    """

    order = LOG

    def __init__(self, folder: Path | str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"{argument('tensorboard')} needs an extra: pip install 'reverie[tensorboard]'."
            ) from error
        self.open = lambda: SummaryWriter(str(folder))
        self.writer: Any = None

    def start(self, loop: Loop) -> None:
        self.writer = self.open() if loop.leader else None

    def after(self, step: Step) -> None:
        if self.writer and step.line is not None:
            for name in step.line.keys() - {"step", "seconds"}:
                self.writer.add_scalar(name, step.line[name], step.number)

    def close(self, outcome: Outcome) -> None:
        if self.writer:
            self.writer.close()
