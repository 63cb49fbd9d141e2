"""Models by name. A name refers to a system (a class, or a function that returns a model); its signature is the model's
configuration.

Users add models by ``@register("mine")`` in any module, ``package.module:function`` as a model's name, the modules in
REVERIE_IMPORT, and the entry-point group ``reverie.models``. A file never chooses code: a name in run.json or in a
checkpoint is only looked up among the registered models.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib
import inspect
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from reverie.core import memory
from reverie.core.annotations import FromData, ImageFiles, SubRun, mark_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.options import (
    EMPTY,
    Parameters,
    call_system,
    checked,
    listed,
    method_parameters,
    model_class,
    sampling_options,
    some,
    system_parameters,
)
from reverie.core.verbs import verbs_of

if TYPE_CHECKING:
    from reverie.core.verbs import Model

Dataset = Any  # of reverie.data, which builds on this package
System = TypeVar("System", bound=Callable[..., Any])
_IMPORT, _GROUP = "REVERIE_IMPORT", "reverie.models"


@dataclass(frozen=True)
class Entry:
    """A registered system.

    Attributes:
        path: "package.module:name", imported lazily.
        title: its full name.
        taxonomy: how it models p(x).
        paper: its source.
        stages: overrides of the defaults of ``stages()``.
        without: verbs of the model class that this system does not have.
        registered: the system itself if it needs no import.
    """

    path: str
    title: str
    taxonomy: str = ""
    paper: str = ""
    stages: Mapping[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    registered: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def load(self) -> Callable[..., Any]:
        """The class, or the function that returns a model."""
        return self.registered or _imported(self.path)

    def kind(self) -> type[Model]:
        """The class of its models: it lists the verbs without building a model."""
        return model_class(self.load())

    @property
    def verbs(self) -> list[str]:
        """The verbs of its models."""
        return [verb for verb in verbs_of(self.kind()) if verb not in self.without]

    @property
    def sampling(self) -> Parameters:
        """Sampling or translation options of its models."""
        return sampling_options(self.kind())


def _built_in() -> dict[str, Entry]:
    table = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
    return {name: Entry(**row) for name, row in table.items()}


MODELS: dict[str, Entry] = _built_in()
BUILT_IN = frozenset(MODELS)


# Models of the user


def register(
    name: str, *, title: str = "", taxonomy: str = "", paper: str = "", stages: Mapping[str, Any] | None = None
) -> Callable[[System], System]:
    """Register a class, or a function that returns a model: ``@rv.register("mine")``.

    Opening its runs requires the module to be imported: REVERIE_IMPORT=module does that for every command.

    Args:
        name: for ``reverie train`` and run.json.
        title: for ``reverie models``; the first line of its docstring by default.
        stages: overrides of the defaults of ``stages()``, such as {"lr": 1e-3}.
    Raises:
        UsageError: no name, or the name of a built-in model.
    """
    if not isinstance(name, str) or not name or name.startswith("-"):
        raise UsageError(f"A model cannot be registered as {name!r}: a name is text without a dash in front.")
    if name in BUILT_IN:
        raise UsageError(f"A model cannot be registered as {name!r}: that is taken.")

    def add(system: System) -> System:
        lines = (inspect.getdoc(system) or "").splitlines()
        path = f"{system.__module__}:{system.__qualname__}"
        title_ = title or (lines[0] if lines else name)
        MODELS[name] = Entry(path, title_, taxonomy, paper, stages or {}, registered=system)
        return system

    return add


def accept(name: str) -> str:
    """A model's name as the user wrote it; ``package.module:function`` is imported and registered.

    For names from the command line, from Python and from REVERIE_IMPORT; never for a name from a file.

    Raises:
        UsageError: no such module or function.
    """
    if ":" in _text(name) and name not in MODELS:
        register(name)(_imported(name))
    return name


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise UsageError(f'A model has a name, such as "vae", not {name!r}. `reverie models` lists them.')
    return name


def names() -> list[str]:
    """All registered models."""
    _discover()
    return list(MODELS)


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern: ``list_models("*gan*")``."""
    return fnmatch.filter(names(), pattern)


def where(test: Callable[[Entry], bool]) -> list[str]:
    """The models that pass a test; models of packages that cannot be imported are omitted."""
    matches = []
    for name in names():
        with contextlib.suppress(ImportError, UsageError):
            matches += [name] * test(MODELS[name])
    return matches


def with_verb(verb: str) -> list[str]:
    """The models that have a verb."""
    return where(lambda entry: verb in entry.verbs)


def with_option(name: str) -> list[str]:
    """The models with this sampling or translation option."""
    return where(lambda entry: name in entry.sampling)


def no_option(owner: str, name: str, options: Iterable[str], general: Iterable[str] = ()) -> UsageError:
    """What to raise for an option that the model ``owner`` does not have when it samples.

    Args:
        options: that it has.
        general: those of the verb, which may be meant, too.
    """
    flags = [argument(option) for option in options]
    has = f"It has: {listed(flags)}." if flags else "It has none of its own."
    others = with_option(name)
    elsewhere = f" These models have it: {some(others)}." if others else ""
    close = suggest(argument(name), [*map(argument, general), *flags])
    return UsageError(f"{owner} has no option {argument(name)} when it samples.{close} {has}{elsewhere}")


def entry(name: str) -> Entry:
    """The registry's entry.

    Raises:
        UsageError: no such model (the message suggests the closest name), or code that is not registered.
    """
    if _text(name) not in MODELS:
        _discover()
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        raise UsageError(
            f"The model {name} is code outside reverie, and a file never chooses code. If you trust it, register it: "
            f"set {_IMPORT}={name} for a command, or call reverie.core.registry.accept({name!r}) in Python."
        )
    raise UsageError(
        f"There is no model {name!r}.{suggest(name, list(MODELS))} Known: {', '.join(MODELS)}. For your own set "
        f"{_IMPORT}=MODULE, the module that registers it, or name it package.module:function."
    )


def code_of(name: str) -> dict[str, str]:
    """{"code": module} of a model registered outside reverie; stored in run.json for messages only."""
    return {} if name in BUILT_IN or name not in MODELS else {"code": MODELS[name].path.partition(":")[0]}


def check_known(name: str, info: Mapping[str, Any]) -> None:
    """Raise a UsageError unless a run's model is registered; the message names the module that registered it."""
    if ":" not in name and name not in names() and (module := info.get("code")):
        raise UsageError(
            f"This is a run of {name!r}, which the module {module} registered: code outside reverie, and a file never "
            f"chooses code. If you trust it, set {_IMPORT}={module} for the command, or import it in Python."
        )


def _discover() -> None:
    """Register, once, the models of REVERIE_IMPORT and of entry points; existing names are kept."""
    if not _WAITING:
        return
    _WAITING.clear()  # first: the imported modules may call names()
    for item in filter(None, (item.strip() for item in os.environ.get(_IMPORT, "").split(","))):
        try:
            accept(item) if ":" in item else _module(item)
        except UsageError as error:
            raise UsageError(f"{_IMPORT}: {error}") from error
    for point in metadata.entry_points(group=_GROUP):
        MODELS.setdefault(point.name, Entry(point.value, f"of the package {point.value.partition('.')[0]}"))


_WAITING = [True]  # emptied by the first call of ``_discover``


def _module(name: str) -> Any:
    """Import a module; the current folder is searched last."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
    sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"The module {name!r} cannot be imported: {error}.") from error


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    value: Any = _module(module)
    for part in name.split("."):
        if not hasattr(value, part):
            raise UsageError(f"The module {module} has no {name!r}.")
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(f"{path} is neither a class nor a function.")
    return value


# Signatures and building


def signature(name: str) -> Parameters:
    """A system's parameters by name: the model's configuration."""
    return system_parameters(entry(name).load())


def stage_options(name: str) -> Parameters:
    """The arguments of ``stages()`` with the system's defaults (learning rate ...)."""
    system = entry(name)
    parameters = method_parameters(system.kind(), "stages")
    return {key: p.replace(default=system.stages.get(key, p.default)) for key, p in parameters.items()}


def stage_defaults(name: str) -> dict[str, Any]:
    """The system's defaults of ``stages()``; {} for an unregistered model."""
    return dict(MODELS[name].stages) if name in MODELS else {}


def sub_runs(name: str) -> dict[str, SubRun]:
    """The parameters of a system that take a trained model."""
    return {key: mark for key, p in signature(name).items() if (mark := mark_of(p, SubRun))}


def image_files(name: str, kwargs: Mapping[str, Any]) -> dict[str, ImageFiles]:
    """The parameters of a system that take image files.

    Raises:
        UsageError: one of them is missing.
    """
    marks = {key: mark for key, p in signature(name).items() if (mark := mark_of(p, ImageFiles))}
    for key, mark in marks.items():
        if not kwargs.get(key):
            raise UsageError(
                f"{name} needs {argument(key)}: {'a folder of images' if mark.folder else 'an image file'}."
            )
    return marks


def from_data(name: str) -> dict[str, str]:
    """The parameters of a system that are read from the data, each with its ``FromData.fact``."""
    return {key: mark.fact for key, p in signature(name).items() if (mark := mark_of(p, FromData))}


def facts_of(data: Dataset) -> dict[str, Any]:
    """The properties of a data set by ``FromData.fact``; only square images have a side."""
    values: dict[str, Any] = {"shape": data.spec.shape, "channels": data.spec.channels, "classes": len(data.classes)}
    if data.spec.square:
        values["side"] = data.spec.square
    if "source" in data.train:
        values["source_channels"] = data.train["source"].shape[-1]
    return values


def build(name: str, data: Dataset | None = None, **kwargs: Any) -> Model:
    """A fresh model; ``model.config`` is the ``{"name", "kwargs"}`` that rebuilds it.

    Args:
        name: of a registered model (see ``accept``).
        data: fills the arguments that are annotated as its properties (``rv.Shape`` ...).
        kwargs: the system's arguments.
    Raises:
        UsageError: unknown model, unknown or invalid argument.
    """
    parameters, decided = signature(name), from_data(name)
    for key in kwargs:
        if key not in parameters:
            raise UsageError(
                f"{name} has no option {key!r}.{suggest(key, list(parameters))} It has: {', '.join(parameters)}."
            )
    if data is not None:
        values = facts_of(data)
        if not data.spec.square and any(fact == "side" and key not in kwargs for key, fact in decided.items()):
            raise UsageError(f"{name} generates square images, but these are {data.spec.medium}s of {data.spec}.")
        kwargs = {key: values[fact] for key, fact in decided.items() if fact in values} | kwargs
    kwargs = {key: checked(name, key, parameters[key], value) for key, value in kwargs.items()}
    defaults = {key: p.default for key, p in parameters.items() if p.default is not EMPTY}
    kwargs = defaults | kwargs  # store the defaults too: they may change in a later release
    if missing := [key for key in parameters if key not in kwargs]:
        annotate = "" if set(missing) <= set(decided) else " Annotate properties of the data: shape: rv.Shape ..."
        raise UsageError(f"{name} cannot be built without {listed(map(argument, missing))}.{annotate}")
    image_files(name, kwargs)
    model = _built(name, kwargs)
    if not issubclass(type(model), nn.Module):
        raise UsageError(f"{name} returns a {type(model).__name__}, but a model must be a torch.nn.Module.")
    model.config = {"name": name, "kwargs": kwargs}
    return model


_FAR = 16  # times its default, from where an option is suspected to make a model too large
_TYPICAL = 4096  # of an option without a default, such as classes


def _built(name: str, kwargs: dict[str, Any]) -> Any:
    """Call the system, within ``memory.limits``. A suspected model is first counted on the meta device, without memory.

    Raises:
        TooLarge: it would have more weights.
    """
    system, limits = entry(name).load(), memory.limits()
    times = {key: _times_default(parameter, kwargs[key]) for key, parameter in signature(name).items()}
    culprit = max(times, key=times.__getitem__, default="")
    try:
        if name in BUILT_IN and culprit and times[culprit] > _FAR:
            with memory.counted(*limits), memory.on_meta():
                call_system(system, kwargs)
        with memory.counted(*limits):
            return call_system(system, kwargs)
    except memory.TooLarge as error:
        if memory.is_counting():
            raise
        reduce = f" Reduce {argument(culprit)}." if culprit else ""
        raise memory.TooLarge(f"{name} with these options has {error}: too many for this machine.{reduce}") from error


def _times_default(parameter: inspect.Parameter, value: Any) -> float:
    """How many times its default the largest whole number of an option is."""
    largest, default = (
        max((abs(n) for n in (v if isinstance(v, tuple | list) else [v]) if type(n) is int), default=0)
        for v in (value, parameter.default)
    )
    return largest / (_TYPICAL if parameter.default is EMPTY else max(1, default))
