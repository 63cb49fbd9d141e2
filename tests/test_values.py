"""Wrong, extreme and non-finite values of every option of every command: exit 2, the option's name, nothing left."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import reverie as rv
from reverie import commands
from reverie.cli import main
from reverie.commands.evaluate import EvaluateFlags
from reverie.commands.flags import Request
from reverie.commands.sample import SampleFlags
from reverie.commands.translate import TranslateFlags
from reverie.core import registry
from reverie.core.annotations import Range, marks_of
from reverie.core.options import _kinds, has_flag, type_of
from reverie.training.options import Options
from run_cases import SMALL

LONG = "x" * 5000
PATHS = ("out", "plot", "sheet", "stream")
MODELS = ("vae", "ddpm-textbook", "autoencoder-kl", "stylegan2")


def fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def own(model: str) -> dict[str, Any]:
    """The options of a system and of its stages: name -> type."""
    decided = registry.from_data(model)
    parameters = registry.signature(model) | registry.stage_options(model)
    return {name: type_of(p) for name, p in parameters.items() if has_flag(p) and name not in decided}


def sampling(model: str) -> dict[str, Any]:
    return {name: type_of(p) for name, p in registry.entry(model).sampling.items() if has_flag(p)}


def of_function(verb: Any) -> dict[str, Any]:
    """The flags of a command that is a function; its positional arguments have none."""
    hints = typing.get_type_hints(verb, include_extras=True)
    parameters = inspect.signature(verb).parameters.values()
    return {p.name.rstrip("_"): hints[p.name] for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


def wrong(name: str, hint: Any) -> Iterator[str]:
    """Values that an option of this type can never have."""
    kinds, numbers = _kinds(hint), {int, float}
    if numbers & set(kinds):
        yield from ("nan", "1e400", "")
        yield str(10**30) if int in kinds else "1e300"
        if name == "seed":
            yield from (str(2**63), str(-(2**63) - 1))
        for bounds in (mark for mark in marks_of(hint) if isinstance(mark, Range)):
            yield from ["-1"] * (bounds.low >= 0) + ["0"] * (bounds.open and bounds.low == 0)
    elif any(typing.get_origin(kind) in (tuple, Literal) for kind in kinds) and str not in _entries(kinds):
        yield from ("nan", "")
    elif name in PATHS:
        yield from ("/proc/zz", LONG, "x" * 300, "taken/below.png")
    elif name == "device":
        yield from ("meta", "", "tpu", *(["mps"] * (not torch.backends.mps.is_available())), "cuda:99")


def _entries(kinds: tuple[Any, ...]) -> list[Any]:
    return [entry for kind in kinds if typing.get_origin(kind) is tuple for entry in typing.get_args(kind)]


@pytest.fixture(scope="module")
def folder(bars, tmp_path_factory):
    """Three runs, and a file where a folder would be needed."""
    path = tmp_path_factory.mktemp("values")
    (path / "taken").write_text("mine")
    for model in ("vae", "ddpm", "stylegan2"):
        rv.train(model, bars, out=path / model, steps=1, width=8, **SMALL)
    return path


def refusals(verb: str, options: dict[str, Any], base: list[str], capsys: Any) -> list[str]:
    """What is wrong with the refusals of a command's options."""
    faults = []
    for name, hint in options.items():
        flag = f"--{name.replace('_', '-')}"
        for value in wrong(name, hint):
            before = {path.name for path in Path.cwd().iterdir()}
            try:
                main([verb, *base, f"{flag}={value}"])
            except SystemExit as ended:
                code = ended.code
            err = capsys.readouterr().err
            left = {path.name for path in Path.cwd().iterdir()} - before
            if code != 2 or (flag not in err and name not in err) or left:
                faults.append(f"{verb} {flag}={value[:20]}: exit {code}, left {left}, {err.strip()[-150:]}")
    return faults


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_values_that_train_can_never_take_are_refused_by_name_before_a_run_exists(here, bars, capsys):
    options, faults = fields(Request) | fields(Options), []
    seen: set[tuple[str, str]] = set()
    for model in MODELS:
        new = {n: h for n, h in (options | own(model)).items() if (n, str(h)) not in seen}
        seen |= {(name, str(hint)) for name, hint in new.items()}
        faults += refusals("train", new, [model, "--data", bars], capsys)
    assert not faults


@pytest.mark.parametrize(
    ("verb", "options", "base"),
    [
        ("sample", lambda: fields(SampleFlags) | sampling("ddpm"), ["ddpm"]),
        ("sample", lambda: sampling("stylegan2"), ["stylegan2"]),
        ("translate", lambda: fields(TranslateFlags), ["vae"]),
        ("evaluate", lambda: fields(EvaluateFlags), ["vae"]),
        *(
            (name, lambda name=name: of_function(getattr(commands, name.replace("import", "import_"))), base)
            for name, base in {
                "resume": ["vae"],
                "rerun": ["vae"],
                "distill": ["ddpm"],
                "view": ["vae", "samples"],
                "forward": ["ddpm"],
                "reconstruct": ["vae"],
                "interpolate": ["vae", "seed:1", "seed:2"],
                "traverse": ["vae"],
                "mix": ["stylegan2"],
                "restore": ["ddpm", "denoise"],
                "doctor": ["stylegan2"],
                "export": ["ddpm", "folder"],
                "import": ["nothing"],
                "models": [],
                "runs": ["."],
                "show": ["vae"],
                "data": ["emoji"],
                "weights": [],
            }.items()
        ),
    ],
)
def test_values_that_a_command_can_never_take_are_refused_by_name_and_write_nothing(verb, options, base, here, capsys):
    hints = {name: hint for name, hint in options().items() if name not in ("run", "images")}
    assert not refusals(verb, hints, base, capsys)
