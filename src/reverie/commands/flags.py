"""The flags of ``reverie train MODEL``, made from the model's own signature, its phases' and the training options."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated, Any, Literal

import tyro
from docstring_parser import parse as parse_docstring

from reverie import registry
from reverie.core.precision import pick_device
from reverie.recipes import recipe_for
from reverie.training.options import Options, phase_options


@dataclasses.dataclass(frozen=True)
class Request:
    """Which pictures, and where the run goes.

    Attributes:
        data: a folder, fashion, emoji, mnist, fashion-mnist, cifar10, stacked-mnist, FILE.npz, SHARD.tar or
            hf:owner/name.
        size: side of square images in pixels, or HEIGHTxWIDTH such as 48x64; by default their own where they agree and
            are square, else 64.
        fit: crop fills the size and keeps the centre of an image of another shape, pad keeps all of it.
        background: colour behind transparent pixels and in the padding: a name, "#ff8800" or 10,20,30.
        held_out: share of the data to hold out, where it has no split of its own.
        channels: 1 (grey) or 3 (RGB); by default 1 where every image is grey.
        medium: what the rows of an .npz are, where their shape does not tell it.
        out: run directory; by default the first free of runs/MODEL-DATA, runs/MODEL-DATA-2 ...
        json: end with one line of JSON.
    """

    data: str = "fashion"
    size: str | None = None
    fit: Literal["crop", "pad"] = "crop"
    background: str = "white"
    held_out: float = 0.1
    channels: int | None = None
    medium: Literal["image", "video", "volume", "sequence"] | None = None
    out: str | None = None
    json: bool = False


def _documentation(*texts: str | None) -> dict[str, str]:
    """Argument -> what its docstring says of it; the first text that speaks of an argument wins."""
    found: dict[str, str] = {}
    for text in texts:
        for parameter in parse_docstring(text or "").params:
            for name in parameter.arg_name.split(", "):
                found.setdefault(name, " ".join((parameter.description or "").split()))
    return found


def _fields(
    parameters: dict[str, inspect.Parameter], documentation: dict[str, str], defaults: dict[str, Any]
) -> list[Any]:
    made = []
    for name, parameter in parameters.items():
        default = defaults.get(name, parameter.default)
        if isinstance(parameter.default, tuple):
            default = tuple(default)
        hint = str if name in registry.RUN_ARGUMENTS else parameter.annotation
        kind: Any = Annotated[hint, tyro.conf.arg(help=documentation.get(name, ""))]
        made.append((name, kind, dataclasses.field(default=default)))
    return made


def train_flags(model: str, data: str, arguments: list[str], doc: str) -> tuple[dict[str, Any], Request]:
    """Parse what follows ``reverie train MODEL``.

    Returns:
        options for ``reverie.train`` (model's, phases' and training's), and the rest of the request.
    """
    kind = registry.entry(model).load()
    named = re.search(r"--device[= ](\S+)", " ".join(arguments))
    recipe = recipe_for(model, data, pick_device(named[1] if named else "auto").type == "cuda")
    ours = [one for one in kind.__mro__ if one.__module__.startswith("reverie.")]
    documentation = _documentation(*(one.__doc__ for one in ours))
    moves = [vars(one)[name].__doc__ for one in ours for name in ("stages", "phases") if callable(vars(one).get(name))]
    usual = {"lr": "peak learning rate", "weight_decay": "AdamW's weight decay; biases are spared"}
    mine = {name: p for name, p in registry.signature(model).items() if name not in registry.DATA_ARGUMENTS}
    own = _fields(mine, documentation, recipe.get("model", {}))
    own += _fields(phase_options(model), usual | documentation | _documentation(*moves), recipe.get("phases", {}))
    length = {k: v for k, v in recipe.get("training", {}).items() if k in ("steps", "minutes")} or {"minutes": 3.0}
    said = " ".join(f"--{k} {v:g}" for k, v in length.items())
    training = Options(**{k: v for k, v in recipe.get("training", {}).items() if k not in length})
    options_of_model: Any = dataclasses.make_dataclass(model.replace("-", "_"), own)
    flags = dataclasses.make_dataclass(
        "train",
        [
            ("request", Request, dataclasses.field(default_factory=Request)),
            ("model", options_of_model, dataclasses.field(default_factory=options_of_model)),
            ("training", Options, dataclasses.field(default=training)),
        ],
    )
    flags.__doc__ = f"{doc}\n\nModel: {model}. Length by default: {said}."
    parsed: Any = tyro.cli(flags, args=arguments, prog=f"reverie train {model}", config=(tyro.conf.OmitArgPrefixes,))
    chosen = dataclasses.asdict(parsed.training)
    if chosen["steps"] is None and chosen["minutes"] is None:
        del chosen["steps"], chosen["minutes"]
    options = {f.name: getattr(parsed.model, f.name) for f in dataclasses.fields(parsed.model)} | chosen
    return options, parsed.request
