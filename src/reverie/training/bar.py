"""The progress of a training on stderr: a bar on a terminal, elsewhere a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from reverie.core.terminal import printable
from reverie.training.callbacks import SHOW, Callback, Outcome
from reverie.training.progress import clock, console, speed

if TYPE_CHECKING:
    from reverie.training.loop import Loop, Step


BITS = "bits_per_dim"  # a metric of models of 8-bit images: their loss, in this unit


def same_as_loss(names: Collection[str]) -> set[str]:
    """The losses among the names of metrics that are there in bits per dimension, too."""
    return {name for name in names if name.rpartition("/")[2] == "loss" and name[: -len("loss")] + BITS in names}


class Bar(Callback):
    """Time left, losses, step, images per second; all other metrics are in the log.

    Args:
        show: False is silent (other ranks, library use).
    """

    order = SHOW
    QUIET_SECONDS = 10.0  # between lines without a terminal

    def __init__(self, show: bool = True):
        self.show = show
        self.bar = Progress(
            BarColumn(12),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not (show and console.is_terminal),
            transient=False,
        )
        self.task = self.bar.add_task("training", total=1.0, status="")
        self.last = 0.0

    def start(self, loop: Loop) -> None:
        if not self.bar.disable:
            self.bar.start()

    def after(self, step: Step) -> None:
        if not self.show or step.line is None:
            return
        if self.bar.disable and time.monotonic() - self.last <= self.QUIET_SECONDS:
            return
        self.last = time.monotonic()
        if self.bar.disable:
            console.print(self._status(step), soft_wrap=True)
        else:
            self.bar.update(self.task, completed=step.progress, status=self._status(step))

    def close(self, outcome: Outcome) -> None:
        if not self.bar.disable:  # stopping a disabled bar would print an empty line
            self.bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.show:
            self.bar.console.print(printable(text), soft_wrap=True)

    def _status(self, step: Step) -> str:
        assert step.line is not None
        loop, rate = step.loop, step.line["images_per_second"]
        names = [name for name in step.line if name.rpartition("/")[2] in ("loss", BITS)]
        losses = [name for name in names if name not in same_as_loss(names)]
        numbers = "  ".join(f"{' '.join(dict.fromkeys(name.split('/')))} {step.line[name]:.4g}" for name in losses)
        if loop.plan.expected is None:
            left = "measuring the speed"
        elif loop.plan.clock and loop.plan.end is None:
            left = f"{clock(max(0.0, loop.plan.clock[0] + loop.plan.clock[2] - loop.elapsed))} left"
        else:
            steps = loop.plan.expected - step.number
            left = f"{clock(steps * loop.options.batch_size / max(rate, 1e-9))} left"
        return printable(f"{left}  {numbers}  step {step.number}/{loop.plan.expected or '?'}  {speed(rate)}")
