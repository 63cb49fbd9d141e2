"""Helpers of the verbs: where results and progress go."""

from __future__ import annotations

import contextlib
import functools
import io
import json as json_
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from reverie.core.errors import to_stdout
from reverie.core.files import first_free
from reverie.core.terminal import printable, say
from reverie.core.values import is_finite
from reverie.core.verbs import Model
from reverie.training.progress import bar as bar

# positional arguments, by the names that the manual gives them
RunName = Positional[Annotated[str, arg(metavar="RUN")]]
ImageNames = Positional[Annotated[tuple[str, ...], arg(metavar="[IMAGE ...]")]]


_TYPES = ConstructorRegistry()


def _finite(text: str) -> float:
    number = float(text)
    if not is_finite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _word(text: str) -> int:
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{text} is beyond 64 bits")
    return number


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError(f"{text!r} names nothing")
    return text


_WORDS: dict[type, Callable[[str], Any]] = {float: _finite, int: _word, str: _text}  # of one word on the command line


def _alternatives(kind: Any) -> tuple[list[Any], bool]:
    """The types of a union without None, and whether None is among them."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return [kind], False
    kinds = [part for part in typing.get_args(kind) if part is not type(None)]
    return kinds, len(kinds) < len(typing.get_args(kind))


@_TYPES.primitive_rule
def _one_word(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A finite number, an integer of 64 bits, or one of these or text that may be None; help does not print None."""
    kinds, optional = _alternatives(info.type)
    if len(kinds) != 1 or kinds[0] not in _WORDS or (kinds[0] is str and not optional):
        return None
    kind, parse = kinds[0], _WORDS[kinds[0]]
    accepted = (float, int) if kind is float else kind
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: None if optional and words[0] in ("None", []) else parse(words[0]),
        is_instance=lambda value: isinstance(value, accepted) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


@_TYPES.primitive_rule
def _choice_or_none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``Literal[...] | None`` and ``bool | None``; help does not print None."""
    kinds, optional = _alternatives(info.type)
    if not optional or len(kinds) != 1 or not (kinds[0] is bool or typing.get_origin(kinds[0]) is Literal):
        return None
    values = {str(value): value for value in ((True, False) if kinds[0] is bool else typing.get_args(kinds[0]))}
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(values) + "}",
        instance_from_str=lambda words: values[words[0]],
        is_instance=lambda value: value is None or value in values.values(),
        str_from_instance=lambda value: [str(value)],
        choices=tuple(values),
    )


_MORE = {  # where a verb's other options are
    "distill": "All options of the training: reverie train STUDENT --teacher RUN, where STUDENT is distilled (of "
    "diffusion models), learned-inverse (of flows) or editor (of StyleGANs)."
}


def parse(function: Any, arguments: list[str], verb: str, **how: Any) -> Any:
    """``tyro.cli`` for ``reverie VERB``; its messages quote arguments, and are printable too."""
    message = io.StringIO()
    try:
        stdout = sys.stdout or io.StringIO()  # None where it is closed, which tyro does not expect
        with _TYPES, contextlib.redirect_stderr(message), contextlib.redirect_stdout(stdout), to_stdout():
            return tyro.cli(function, args=arguments, prog=f"reverie {verb}", **how)
    except SystemExit:
        note(*re.sub(r"\x1b\[[0-9;]*m", "", message.getvalue()).splitlines())  # without tyro's colours
        if message.getvalue() and verb in _MORE:
            note(_MORE[verb])
        raise


def out(*lines: str) -> None:
    """Lines of a result, on stdout."""
    with to_stdout():
        say(sys.stdout, *lines)


def note(*lines: str) -> None:
    """Something beside the result, on stderr."""
    say(sys.stderr, *lines)


def dump(value: Any) -> None:
    """A result for machines, on one line."""
    out(json_.dumps(value).replace("\x7f", "\\u007f"))


def report(json: bool, result: dict[str, Any], *lines: str) -> None:
    """The result, for a machine or a person."""
    if json:
        dump(result)
    else:
        out(*lines)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()) -> None:
    """A table on stdout, 100 to 160 columns wide where its rows need that.

    Args:
        right: columns that are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        grid.add_column(name, justify="right" if name in right else "left", no_wrap=name not in ("scores", "why"))
    for row in rows:
        grid.add_row(*(printable(cell, sys.stdout) for cell in row))
    console = functools.partial(Console, markup=False, emoji=False)
    natural = grid.__rich_measure__(console(width=160), console(width=160).options).maximum
    with to_stdout():
        console(width=max(100, natural, console().width)).print(grid)


def target(
    where: str | None,
    default: str = "",
    overwrite: bool = False,
    endings: Collection[str] = (".npz",),
    flag: str = "out",
    verb: str = "",
    others: Collection[str | Path | None] = (),
) -> Path:
    """An output path; one that would replace what reverie did not write is refused: before the work, not after it.

    Args:
        where: the user's; None is the first free of ``default``, as samples.png, samples-2.png ...
        overwrite: replace a file, whatever it is.
        endings: beside those of images; with "" a name that ends in no file format is a folder.
        flag: that names it.
        verb: whose folders are replaced.
        others: inputs and other outputs, which it must not be.
    Raises:
        UsageError: nothing can be written there, or something that reverie did not write is there.
    """
    from reverie.media.montage import check_film_ending
    from reverie.media.target import check_output

    path = first_free(Path(default)) if where is None else Path(where)
    if flag == "film":
        check_film_ending(path)
    check_output(path, overwrite, endings, flag, verb, others)
    return path


def load(run: str, data: str | None = None) -> Model:
    """The model of a run; a line on stderr names its weights."""
    from reverie.inference.load import load as open_run

    model = open_run(run, data=data)
    name_weights(model.loaded_from)
    return model


def name_weights(weights: Mapping[str, Any]) -> None:
    """Name weights on stderr; odd ones were named in a warning as they were loaded."""
    from reverie.training.weights import sentence

    if not sentence(weights, healthy=False):
        note(sentence(weights))
