"""What a person sees while a run trains: a bar on a terminal, a line now and then elsewhere. All of it on stderr."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


class TrainingBar:
    """Step, images per second, losses, time left.

    Args:
        show: False is silent (other ranks, library use).
    """

    def __init__(self, show: bool = True):
        self.show = show
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not (show and console.is_terminal),
            transient=False,
        )
        self.task = self.bar.add_task("training", total=1.0, said="")
        self.last = 0.0

    def __enter__(self) -> TrainingBar:
        if not self.bar.disable:
            self.bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if not self.bar.disable:  # stopping a disabled bar would print an empty line
            self.bar.stop()

    def update(
        self, step: int, steps: int | None, progress: float, left: float | None, speed: float, metrics: dict[str, float]
    ) -> None:
        """After a log point. ``left``: seconds still to go, ``speed``: images per second."""
        shown = "  ".join(
            f"{name} {value:.4g}" for name, value in metrics.items() if name not in ("lr", "gradient_norm")
        )
        said = f"step {step}/{steps or '?'}  {speed:,.0f} images/s  {shown}"
        said += f"  {clock(left)} left" if left is not None else "  measuring the speed"
        if self.bar.disable:
            now = time.monotonic()
            if self.show and now - self.last > 10:
                self.last = now
                console.print(said, soft_wrap=True)
        else:
            self.bar.update(self.task, completed=progress, said=said)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self.show:
            self.bar.console.print(text, soft_wrap=True)
