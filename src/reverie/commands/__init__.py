"""The verbs of the command line, each thin over the Python of the same name. Results to stdout, the rest to stderr."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from reverie.commands.codes import codes, pretrain
from reverie.commands.compress import compress, decompress
from reverie.commands.data import data
from reverie.commands.detect import anomalies, rates, search
from reverie.commands.distill import distill
from reverie.commands.dream import dream
from reverie.commands.evaluate import evaluate
from reverie.commands.exchange import export, import_
from reverie.commands.filters import filters
from reverie.commands.know import doctor, models, weights
from reverie.commands.look import forward, interpolate, mix, reconstruct, traverse, view
from reverie.commands.make import rerun, resume, train
from reverie.commands.restore import restore
from reverie.commands.runs import runs, show
from reverie.commands.sample import sample
from reverie.commands.shared import parse
from reverie.commands.stylize import stylize
from reverie.commands.translate import translate


def _parsed(verb: Callable[..., None]) -> Callable[[list[str]], None]:
    @functools.wraps(verb)
    def later(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(verb, *args, **kwargs)

    return lambda arguments: parse(later, arguments, _name(verb))()


def _name(verb: Callable[..., None]) -> str:
    return verb.__name__.rstrip("_")  # import_ is import, which Python keeps for itself


COMMANDS: dict[str, Callable[[list[str]], None]] = {  # whose flags depend on the model
    "train": train,
    "sample": sample,
    "translate": translate,
    "evaluate": evaluate,
} | {
    _name(verb): _parsed(verb)
    for verb in (
        resume,
        rerun,
        distill,
        view,
        forward,
        reconstruct,
        interpolate,
        traverse,
        mix,
        restore,
        dream,
        filters,
        stylize,
        codes,
        pretrain,
        anomalies,
        search,
        rates,
        compress,
        decompress,
        doctor,
        export,
        import_,
        models,
        runs,
        show,
        data,
        weights,
    )
}
