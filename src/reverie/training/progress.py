"""Progress on stderr: the console, bars for work of a known length, the format of durations."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from reverie.core.cache import check_progress
from reverie.core.terminal import printable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

console = Console(stderr=True, highlight=False, markup=False, emoji=False)


def clock(seconds: float) -> str:
    """75 -> "1:15"."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def speed(images_per_second: float) -> str:
    """12.3 -> "12 images/s"; below 10 two significant digits: "0.31 images/s"."""
    return f"{images_per_second:{',.0f' if images_per_second >= 9.95 else '.2g'}} images/s"


class bar:
    """A bar on stderr for work of a known length, shown only when it takes more than a moment; without a terminal a
    line every few seconds.
    """

    QUIET_SECONDS = 10.0  # between lines without a terminal

    def __init__(self, show: bool):
        self.show = show

    def __enter__(self) -> Callable[[int, int, str], None] | None:
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            *Progress.get_default_columns()[1:3],
            TimeRemainingColumn(),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("reading")
        began = self.last = time.monotonic()

        def update(done: int, total: int, what: str) -> None:
            if done < total and console.is_terminal and time.monotonic() - began > 1:
                self.bar.start()
            if not console.is_terminal and time.monotonic() - self.last > self.QUIET_SECONDS:
                self.last = time.monotonic()
                console.print(printable(f"{what} {done}/{total}"), soft_wrap=True)
            self.bar.update(self.task, completed=done, total=total, description=printable(what))

        return update if self.show else None

    def __exit__(self, *error: Any) -> None:
        if self.bar.live.is_started:  # stopping a bar that never started would print an empty line
            self.bar.stop()


def shows_progress(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Give a function with an argument ``progress`` a bar where the caller passes none."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def with_bar(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        check_progress(bound.arguments.get("progress"))
        if bound.arguments.get("progress") is not None:
            return function(*args, **kwargs)
        with bar(True) as update:
            bound.arguments["progress"] = update
            return function(*bound.args, **bound.kwargs)

    return with_bar
