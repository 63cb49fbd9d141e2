"""Exceptions for the user: the command line prints their text without a traceback."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from reverie.core.terminal import printable


class ReverieError(Exception):
    """An error that the user can act on. Its text: what happened, what was kept (if relevant), what to do next.

    Each argument is a line.
    """

    def __str__(self) -> str:
        return "\n".join(map(printable, self.args))


class UsageError(ReverieError, ValueError):
    """A wrong call: an unknown name, an option out of range. The command line exits with 2."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in work of which a part is done.

    Attributes:
        result: that part, of the type of the finished work; its origin has "stopped", such as "step 12 of 96".
    """

    def __init__(self, result: Any):
        super().__init__()
        self.result = result


def suggest(word: object, candidates: list[str]) -> str:
    """' Did you mean "vae"?' for a misspelt name, or "" if no candidate is close."""
    import difflib

    close = difflib.get_close_matches(str(word), candidates, n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


@contextlib.contextmanager
def of_argument(name: str) -> Iterator[None]:
    """Name an argument in the errors of a block that do not."""
    try:
        yield
    except ReverieError as error:
        if argument(name) not in str(error):
            error.args = (f"{argument(name)}: {error.args[0]}", *error.args[1:])
        raise


class _Style:
    flags = False  # whether messages name command-line flags or Python arguments


def speak_of_flags(flags: bool) -> bool:
    """Whether messages name flags (command line) or arguments (Python); returns the previous setting."""
    before, _Style.flags = _Style.flags, flags
    return before


def argument(name: str, value: object = None) -> str:
    """An argument in a message: ``--size 32`` on the command line, ``size=32`` in Python; without a value its name."""
    if _Style.flags:
        flag = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        return flag if value is None else f"{flag} {shlex.quote(str(value))}"
    return name if value is None else f"{name}={value!r}"


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Errors of writing to the standard output as a ReverieError; one of a closed pipe stays."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # closed
                sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ReverieError(f"The result cannot be written to the standard output: {error.strerror or error}.") from None
