"""Flags made from signatures: of ``reverie train MODEL`` from the system's, its phases' and the training options, and
of the commands that sample a run from its model's own ``sample``, ``stream`` or ``translate``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from docstring_parser import parse as parse_docstring

from reverie.commands.shared import parse
from reverie.core import registry
from reverie.core.annotations import SubRun, mark_of
from reverie.core.errors import UsageError
from reverie.core.files import is_file
from reverie.core.options import EMPTY, Parameters, check_names, has_flag, listed, option_groups, type_of
from reverie.core.precision import pick_device
from reverie.media.formats import PIXEL_LIMIT
from reverie.recipes import recipe_for
from reverie.training.options import Options
from reverie.training.run import Run, locate

General = TypeVar("General")


@dataclasses.dataclass(frozen=True)
class Opening:
    """How data is opened: arguments of ``open_data``.

    Attributes:
        size: side of square images in pixels, or HEIGHTxWIDTH such as 48x64; by default their own where they agree and
            are square, else 64.
        fit: crop fills the size and keeps the centre of an image of another shape, pad keeps all of it.
        background: colour behind transparent pixels and in the padding: a name, "#ff8800" or 10,20,30.
        held_out: share of the data to hold out, where it has no split of its own; 0: nothing.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA: transparency is kept); by default 1 where every image is grey.
        medium: what the rows of an .npz are, where their shape does not tell it; video reads a folder of films, volume
            one of volumes.
        low: value of an .npz, of 16-bit and of float images that maps to -1 in the model; by default decided from
            all values.
        high: value that maps to 1.
        layout: how to read a folder or zip, where the report of reverie data names a wrong one: stylegan, unpaired,
            pairs, restoration, names, side-by-side, leaves, classes, prefixes or images.
        classes: only these classes: a,b.
        where: only images whose columns fulfil a condition: "age >= 18 and style == 'ink'".
        limit: at most so many images, chosen by their content.
        resolution_at_least: only files whose image's shorter side has so many pixels.
        dedupe: of images that look the same, keep one.
        max_pixels: most pixels of an image file, such as 200000000 for panoramas; larger ones are skipped.
        frames: of the clips that films are cut into (by default 16), with --medium video.
        stride: of the frames of a clip within the film (by default 1).
        masks: yes reads every file with the folder or name of a mask as one, no reads all as images; by default those
            that are recognised.
        mask_values: grey values or indices of palettes that mark, as 15 or 1,15; by default decided from all masks.
        columns: which columns of a table, Parquet or hf: set are used: image=img,label=fine_label,text=alt_text.
    """

    size: str | None = None
    fit: Literal["crop", "pad"] = "crop"
    background: str = "white"
    held_out: float = 0.1
    channels: int | None = None
    medium: Literal["image", "video", "volume", "sequence"] | None = None
    low: float | None = None
    high: float | None = None
    layout: str | None = None
    classes: str | None = None
    where: str | None = None
    limit: int | None = None
    resolution_at_least: int | None = None
    dedupe: bool = False
    max_pixels: int = PIXEL_LIMIT
    frames: int | None = None
    stride: int | None = None
    masks: Literal["yes", "no"] | None = None
    mask_values: str | None = None
    columns: str | None = None

    def changed(self) -> dict[str, Any]:
        """The arguments that are not the default."""
        return {name: value for name, value in vars(self).items() if value != getattr(type(self), name)}


@dataclasses.dataclass(frozen=True)
class Request(Opening):
    """Which data, and where the run goes.

    Attributes:
        data: a folder or zip, fashion, emoji, mnist, binary-mnist, fashion-mnist, cifar10, stacked-mnist, photos,
            FILE.npz, SHARD.tar or hf:owner/name; none for a model that learns from no data.
        out: run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        json: end with one line of JSON.
    """

    data: str = "fashion"
    out: str | None = None
    json: bool = False


def _documentation(*texts: str | None) -> dict[str, str]:
    """Argument -> what its docstring says of it; the first text that speaks of an argument wins."""
    documented: dict[str, str] = {}
    for text in texts:
        for parameter in parse_docstring(text or "").params:
            for name in parameter.arg_name.split(", "):
                documented.setdefault(name, " ".join((parameter.description or "").replace("``", "").split()))
    return documented


def _fields(parameters: Parameters, documentation: dict[str, str], defaults: dict[str, Any]) -> list[Any]:
    """A dataclass field for each parameter; one that is a trained model takes a run's name."""
    fields = []
    for name, parameter in parameters.items():
        default = defaults.get(name, parameter.default)
        if isinstance(parameter.default, tuple):
            default = tuple(default)
        kind: Any = Annotated[type_of(parameter), tyro.conf.arg(help=documentation.get(name, ""))]
        if mark_of(parameter, SubRun):
            hint = str | None if default is None else str
            kind = Annotated[hint, tyro.conf.arg(metavar="RUN", help=documentation.get(name, ""))]
        required = default is EMPTY
        fields.append((name, kind) if required else (name, kind, dataclasses.field(default=default)))
    return sorted(fields, key=len)  # those without a default come first


def _classes(kind: type) -> list[type]:
    """A model's class and the bases that are no part of torch or Python."""
    return [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins", "typing")]


def _documents(kind: type, *methods: str) -> list[str | None]:
    """The docstrings of some methods, along the bases."""
    functions = [vars(base).get(name) for base in _classes(kind) for name in methods]
    return [method.__doc__ for method in functions if callable(method)]


def train_flags(model: str, data: str, arguments: list[str], doc: str) -> tuple[dict[str, Any], Request]:
    """Parse what follows ``reverie train MODEL``.

    Returns:
        options for ``reverie.train`` (model's, phases' and training's), and the rest of the request.
    Raises:
        UsageError: an argument of the model's own that is named as one of another group.
    """
    system = registry.entry(registry.accept(model)).load()
    kind = registry.entry(model).kind()
    named = re.search(r"--device[= ](\S+)", " ".join(arguments))
    recipe = recipe_for(model, data, pick_device(named[1] if named else "auto").type == "cuda")
    documentation = _documentation(
        system.__doc__, *(group.__doc__ for group in option_groups(system)), *(base.__doc__ for base in _classes(kind))
    )
    phases = {name: p for name, p in registry.stage_options(model).items() if has_flag(p)}
    usual = {"lr": "peak learning rate", "weight_decay": "AdamW's weight decay; biases are spared"}
    decided = registry.from_data(model)
    arguments_ = {name: p for name, p in registry.signature(model).items() if name not in decided and has_flag(p)}
    check_names(model, arguments_, phases, "its stages()")
    check_names(model, [*arguments_, *phases], _names(Request, Options), "reverie train")
    model_fields = _fields(arguments_, documentation, recipe.get("model", {}))
    model_fields += _fields(
        phases, usual | documentation | _documentation(*_documents(kind, "stages")), recipe.get("phases", {})
    )
    length = {k: v for k, v in recipe.get("training", {}).items() if k in ("steps", "minutes")} or {"minutes": 3.0}
    default_length = " ".join(f"--{k} {v:g}" for k, v in length.items())
    training = Options(**{k: v for k, v in recipe.get("training", {}).items() if k not in length})
    options_of_model: Any = _options(model, model_fields)
    flags = dataclasses.make_dataclass(
        "train",
        [
            ("request", Request, dataclasses.field(default_factory=Request)),
            ("model", options_of_model, dataclasses.field(default_factory=options_of_model)),
            ("training", Options, dataclasses.field(default=training)),
        ],
    )
    others = listed(name for name in registry.names() if name != model)
    flags.__doc__ = (
        f"{doc}\n\nModel: {model}. Length by default: {default_length}. Others (reverie train NAME --help): {others}."
    )
    parsed: Any = parse(flags, arguments, f"train {model}", config=(tyro.conf.OmitArgPrefixes,))
    chosen = dataclasses.asdict(parsed.training)
    if chosen["steps"] is None and chosen["minutes"] is None:
        del chosen["steps"], chosen["minutes"]
    options = {f.name: getattr(parsed.model, f.name) for f in dataclasses.fields(parsed.model)} | chosen
    return options, parsed.request


# Flags of a run's model


def run_flags(general: type[General], verb: str, arguments: list[str], doc: str) -> tuple[General, dict[str, Any]]:
    """Parse what follows ``reverie sample`` and its like.

    Args:
        general: a dataclass of the flags that do not depend on the run, which is its field ``run``.
        verb: of the command line.
        doc: of the command.
    Returns:
        the general flags, and the options of the run's model; None for one that was left out.
    Raises:
        UsageError: no such run, an option that its model does not have, or one named as a general flag.
    """
    name, options, documentation = "run", Parameters(), dict[str, str]()
    if run := named_run(arguments):
        name, options, documentation = _of_run(run)
        check_names(name, options, {*_names(general), *_OF_SAMPLE}, f"reverie {verb}")
    kind = _options(name, _fields(options, documentation, {}))
    flags = dataclasses.make_dataclass(verb, [("general", general), (kind.__name__, kind)])
    flags.__doc__ = doc if run else f"{doc}\n\nMore flags depend on the model: reverie {verb} RUN --help."
    config = (tyro.conf.OmitArgPrefixes,)
    parsed: Any
    parsed, unknown = parse(flags, arguments, verb, config=config, return_unknown_args=True)
    if odd := [item for item in unknown if item.startswith("-")]:
        raise registry.no_option(name, _name(odd[0]), options, vars(parsed.general))
    if unknown:
        raise UsageError(f"{listed(unknown)}: too much. See reverie {verb} --help.")
    return parsed.general, vars(getattr(parsed, kind.__name__))


_OF_SAMPLE = ("model", "n", "chunk", "progress", "shard")  # arguments of rv.sample with other names than the flags


def _names(*groups: Any) -> list[str]:
    """The flags of some dataclasses, and the one that every command has."""
    return ["help", *(f.name for group in groups for f in dataclasses.fields(group))]


def _options(name: str, fields: Sequence[Any]) -> Any:
    return dataclasses.make_dataclass(re.sub(r"\W", "_", name), fields)


def named_run(arguments: list[str]) -> str | None:
    """The argument that is the run, wherever it stands; one that follows a flag may be that flag's value."""
    words = [word for word in arguments if not word.startswith("-")]
    free = [word for before, word in zip(["", *arguments], arguments, strict=False) if not before.startswith("-")]
    runs = [word for word in [*free, *words] if _is_run(word)]
    return runs[0] if runs else arguments[0] if words and words[0] == arguments[0] else None


def _is_run(word: str) -> bool:
    path = Path(word)
    inside = path.name.isdigit() and path.parent.name == "checkpoints"
    return is_file((path.parent.parent if inside else path) / "run.json")


def _of_run(run: str) -> tuple[str, Parameters, dict[str, str]]:
    """The model of a run, the options of its verbs beside conditions, and their documentation."""
    info = Run.open(locate(run)[0]).info
    entry = registry.entry(info["model"]["name"])
    conditions = info.get("card", {}).get("conditions", {})
    options = {name: p for name, p in entry.sampling.items() if name not in conditions and has_flag(p)}
    return info["model"]["name"], options, _documentation(*_documents(entry.kind(), "sample", "stream", "translate"))


def _name(flag: str) -> str:
    """The name of the option that a word of the command line sets: "--top-k=5" sets top_k."""
    return flag.lstrip("-").partition("=")[0].replace("-", "_")
