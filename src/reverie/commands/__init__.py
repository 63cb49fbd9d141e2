"""The verbs of the command line, each thin over the Python of the same name. Results to stdout, the rest to stderr."""

from __future__ import annotations

from collections.abc import Callable

import tyro

from reverie.commands.draw import interpolate, reconstruct, restore, sample, traverse
from reverie.commands.judge import evaluate
from reverie.commands.know import data, models, weights
from reverie.commands.make import rerun, resume, train


def _parsed(verb: Callable[..., None]) -> Callable[[list[str]], None]:
    return lambda arguments: tyro.cli(verb, args=arguments, prog=f"reverie {verb.__name__}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {"train": train} | {
    verb.__name__: _parsed(verb)
    for verb in (resume, rerun, sample, reconstruct, interpolate, traverse, restore, evaluate, models, data, weights)
}
