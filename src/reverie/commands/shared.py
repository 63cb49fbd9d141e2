"""What the verbs share: where results and progress go."""

from __future__ import annotations

import json as json_
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from rich.progress import Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

from reverie.core.errors import UsageError
from reverie.training.progress import console

# positional arguments, by the names that the manual gives them
RunName = Positional[Annotated[str, arg(metavar="RUN")]]
PictureName = Positional[Annotated[str, arg(metavar="IMAGE")]]


def out(text: str) -> None:
    """A result, on stdout."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something beside the result, on stderr."""
    print(text, file=sys.stderr, flush=True)


def dump(value: Any) -> None:
    """A result for machines, on one line."""
    out(json_.dumps(value))


def told(json: bool, result: dict[str, Any], text: str) -> None:
    """The result, for a machine or a person."""
    if json:
        dump(result)
    else:
        out(text)


def target(where: str) -> Path:
    """An output path, refused early when nothing can be written there: before the work, not after it."""
    path = Path(where)
    if path.suffix and path.is_dir():
        raise UsageError(f"{path} is a folder.")
    return path


class bar:
    """A bar on stderr for work of a known length, shown only when it takes more than a moment."""

    def __init__(self, show: bool):
        self.show = show

    def __enter__(self) -> Callable[[int, int, str], None] | None:
        self.bar = Progress(
            "{task.description}",
            *Progress.get_default_columns()[1:3],
            TimeRemainingColumn(),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("reading")
        began = time.monotonic()

        def update(done: int, total: int, what: str) -> None:
            if done < total and console.is_terminal and time.monotonic() - began > 1:
                self.bar.start()
            self.bar.update(self.task, completed=done, total=total, description=what)

        return update if self.show else None

    def __exit__(self, *error: Any) -> None:
        if self.bar.live.is_started:  # stopping a bar that never started would print an empty line
            self.bar.stop()
