"""The card of a model: properties beyond its verbs, as plain data in run.json, readable without weights."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from reverie.core.errors import UsageError, argument
from reverie.core.values import integer
from reverie.core.verbs import Model, verbs_of

# Columns that can be conditions. An argument with such a name is never a sampling option.
COLUMNS = ("label", "text", "source", "attributes", "mask", "tokens")


@dataclass(frozen=True)
class Output:
    """The output of a model: medium, shape in pixels (or voxels, samples) and channels."""

    medium: str
    shape: tuple[int, ...]
    channels: int

    def __post_init__(self) -> None:
        _settle(self, shape=_integers, channels=integer)

    def __str__(self) -> str:
        return "x".join(map(str, (*self.shape, self.channels)))


@dataclass(frozen=True)
class Space:
    """A latent space.

    Attributes:
        shape: of a latent.
        prior: the distribution that ``sample`` draws from; "model": latents that the model computes from noise; None:
            no prior.
        encode: how ``encode`` computes a latent: "exact" (a function), "mean" (of a posterior), "invert" (an iterative
            search); None: it cannot.
        kind: type of the values.
        evaluations: network evaluations per ``encode``.
        codes: number of different tokens; 0 of other kinds.
    """

    shape: tuple[int, ...]
    prior: Literal["normal", "uniform", "bernoulli", "model"] | None = None
    encode: Literal["exact", "mean", "invert"] | None = None
    kind: Literal["real", "binary", "tokens"] = "real"
    evaluations: int = 1
    codes: int = 0

    def __post_init__(self) -> None:
        _settle(self, shape=_integers, evaluations=integer, codes=integer)

    @property
    def lossless(self) -> bool:
        """Whether it is that of a flow: the image's exact function and inverse, with a normal prior."""
        return self.encode == "exact" and self.prior == "normal"


@dataclass(frozen=True)
class Likelihood:
    """A method to compute the likelihood. Entries of equal name compute the same number, the cheapest first.

    Attributes:
        verb: computes it, in nats per row.
        kind: "exact", "bound" (from below) or "estimate". A density of dequantised data is a lower bound of 8-bit
            probabilities.
        of: "8-bit" or "binary" values, the "density" of floats, or "tokens".
        dequantised: whether noise turns 8-bit values into continuous ones for a density.
        dequantisation: distribution of that noise: "uniform", or "variational" (learned).
        suffix: of the score's name ("iw32", "ode").
        evaluations: network evaluations per row.
        options: of the verb.
        rows: largest number of held-out rows, evenly spaced, that are evaluated; 0 is all.
    """

    verb: Literal["log_prob", "elbo", "estimate"]
    kind: Literal["exact", "bound", "estimate"]
    of: Literal["8-bit", "binary", "density", "tokens"]
    dequantised: bool = False
    suffix: str = ""
    evaluations: int = 1
    options: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    dequantisation: Literal["uniform", "variational"] = "uniform"

    def __post_init__(self) -> None:
        _settle(self, evaluations=integer, options=_counts, rows=integer)

    @property
    def name(self) -> str:
        """Suffix of the score's name: "" if exact, "-bound", "-bound-iw32", "-ode" ..."""
        kind = {"exact": "", "bound": "-bound", "estimate": "" if self.suffix else "-estimate"}[self.kind]
        return kind + (f"-{self.suffix}" if self.suffix else "")

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of its scores: in nats ("nll", "nll-bound-tokens"), and of 8-bit values in bits per dimension."""
        if self.of == "8-bit":
            return f"nll{self.name}", f"bits-per-dim{self.name}"
        return (f"nll{self.name}-{self.of}",)


@dataclass(frozen=True)
class Card:
    """A model's card.

    Attributes:
        output: medium, shape and channels of its samples.
        conditions: columns that ``sample`` and the other verbs take, each with a size: "label": classes, "source":
            channels, "text": 0.
        columns: columns that training requires: names, or a mapping from names to what to do if the data lacks one.
        latents: latent spaces by name, the default first.
        likelihoods: methods to compute the likelihood.
        evaluations: network evaluations per sample with default options.
        at_once: samples computed at once by default, fewer where they are large.
        monitors: training monitors: "gan" (the doctor), "classes" (class coverage of samples).
        weights: pretrained networks that it needs (see ``reverie weights``).
        networks: sub-modules that ``--compile`` compiles; by default direct children with parameters.
        restores: tasks of ``reverie.restoration`` that it can solve.
        serves: the purpose of an auxiliary model; THIS stands for the run.
        caution: a warning to print with its samples.
        reads: how it reads the values of its data; printed when training starts.
        origin: runs that it builds on, by argument.
    Raises:
        UsageError: a field of the wrong type or value; the message names the field.
    """

    output: Output | None = None
    conditions: Mapping[str, int] = field(default_factory=dict)
    columns: Collection[str] = ()
    latents: Mapping[str, Space] = field(default_factory=dict)
    likelihoods: tuple[Likelihood, ...] = ()
    evaluations: int = 1
    at_once: int = 64
    monitors: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    restores: tuple[str, ...] = ()
    serves: str = ""
    caution: str = ""
    reads: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _settle(
            self,
            output=lambda name, value: value if value is None else _of(Output, name, value),
            conditions=_counts,
            columns=_columns,
            latents=lambda name, value: {key: _of(Space, name, entry) for key, entry in _mapping(name, value).items()},
            likelihoods=lambda name, value: tuple(_of(Likelihood, name, entry) for entry in _several(name, value)),
            evaluations=integer,
            at_once=lambda name, value: integer(name, value, least=1),
            monitors=_names,
            weights=_names,
            networks=_names,
            restores=_names,
            serves=_text,
            caution=_text,
            reads=_text,
            origin=_texts,
        )

    @property
    def remedies(self) -> dict[str, str]:
        """The columns that training requires, each with what to do if the data lacks it."""
        return dict(self.columns) if isinstance(self.columns, Mapping) else {}

    @property
    def classes(self) -> int:
        """Number of classes of a conditional model, else 0."""
        return self.conditions.get("label", 0)

    @property
    def space(self) -> Space | None:
        """The default latent space."""
        return next(iter(self.latents.values()), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Card:
        """The card from ``to_json``; unknown fields are ignored."""
        output = content.get("output")
        parts = {
            "output": None if output is None else _read(Output, output),
            "latents": {name: _read(Space, entry) for name, entry in content.get("latents", {}).items()},
            "likelihoods": tuple(_read(Likelihood, entry) for entry in content.get("likelihoods", ())),
        }
        return _read(cls, {**content, **parts})


# Fields. Each function returns a field as plain values, or raises a UsageError that names the field.


def _settle(part: Any, **fields: Callable[[str, Any], Any]) -> None:
    """Check fields of a frozen dataclass and store them as plain Python values."""
    for name, settled in fields.items():
        owner = "Card" if isinstance(part, Card) else f"Card: {type(part).__name__}"
        object.__setattr__(part, name, settled(f"{owner}: {name}", getattr(part, name)))


def _of(kind: type, name: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be of type {kind.__name__}, not {value!r}.")
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    return {_text(name, key): entry for key, entry in _of(Mapping, name, value).items()}


def _counts(name: str, value: Any) -> dict[str, int]:
    return {key: integer(f"{name}: {key}", entry) for key, entry in _mapping(name, value).items()}


def _several(name: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise UsageError(f"{name} must be a tuple or list, not {value!r}.")
    return list(value)


def _integers(name: str, value: Any) -> tuple[int, ...]:
    return tuple(integer(name, entry) for entry in _several(name, value))


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, entry) for entry in _several(name, value))


def _text(name: str, value: Any) -> str:
    return str(_of(str, name, value))


def _texts(name: str, value: Any) -> dict[str, str]:
    return {key: _text(name, entry) for key, entry in _mapping(name, value).items()}


def _columns(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return _texts(name, value)
    return dict.fromkeys(sorted(_names(name, value)), "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _read(kind: Any, content: Mapping[str, Any]) -> Any:
    """A dataclass from JSON: lists become tuples, unknown fields are ignored."""
    present = {f.name: content[f.name] for f in dataclasses.fields(kind) if f.name in content}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in present.items()})


def check_space(space: str | None, spaces: Mapping[str, Space], owner: str = "this model") -> str:
    """The name of a latent space; by default the first.

    Raises:
        UsageError: unknown name.
    """
    if space is None:
        return next(iter(spaces))
    if not isinstance(space, str) or space not in spaces:
        names = ", ".join(spaces)
        raise UsageError(f"{argument('space')} must be one of {names}, not {space!r} (latent spaces of {owner}).")
    return space


def reconstructs(model: Model) -> bool:
    """Whether a model encodes samples without a search and decodes them."""
    space = card_of(model).space
    return {"encode", "decode"} <= set(verbs_of(model)) and (space is None or space.encode in ("exact", "mean"))


def card_of(model: Model) -> Card:
    """A model's card, or a default from its verbs, with the runs that the model builds on.

    Raises:
        UsageError: it is not a Card, or names verbs, arguments or sub-modules that the model does not have.
    """
    attribute = getattr(type(model), "card", None)
    # call the property directly: nn.Module.__getattr__ would hide an AttributeError inside it
    card = attribute.__get__(model) if isinstance(attribute, property) else getattr(model, "card", None)
    if card is None:
        card = _default(model)
    elif not isinstance(card, Card):
        raise UsageError(f"The card of {name_of(model)} is a {type(card).__name__}; it must be a reverie.Card.")
    else:
        _check(card, model)
    arguments = config_of(model)["kwargs"] or {}
    runs = {name: value["run"] for name, value in arguments.items() if isinstance(value, dict) and "run" in value}
    return dataclasses.replace(card, origin={**runs, **card.origin}) if runs else card


def _check(card: Card, model: Model) -> None:
    """Raise a UsageError if a card names verbs, arguments or sub-modules that its model does not have."""
    verbs, named = verbs_of(model), f"The card of {name_of(model)}"
    if absent := [likelihood.verb for likelihood in card.likelihoods if likelihood.verb not in verbs]:
        raise UsageError(f"{named}: likelihoods names {absent[0]}, but the model has no such method.")
    if "sample" in verbs and (odd := [name for name in card.conditions if not _takes(model.sample, name)]):
        raise UsageError(f"{named}: conditions has {odd[0]}, but sample() does not take it: add {odd[0]}=None.")
    modules = dict(model.named_modules()) if card.networks else {}
    if odd := [name for name in card.networks if name not in modules]:
        raise UsageError(f"{named}: networks names {odd[0]}, but the model has no such sub-module.")


def _takes(method: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(method).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _default(model: Model) -> Card:
    """A card with only the likelihoods that the verbs imply: densities of the inputs, in nats."""
    kinds = {"log_prob": "exact", "elbo": "bound", "estimate": "estimate"}
    verbs = verbs_of(model)
    likelihoods = tuple(Likelihood(verb, kind, "density") for verb, kind in kinds.items() if verb in verbs)  # type: ignore[arg-type]
    return Card(likelihoods=likelihoods)


def name_of(model: Model) -> str:
    """The registry's name of a model, else its class name."""
    config = getattr(model, "config", None)
    return config["name"] if isinstance(config, dict) and "name" in config else type(model).__name__


def config_of(model: nn.Module) -> dict[str, Any]:
    """The {"name", "kwargs"} that rebuilds a model; kwargs is None if the registry did not build it."""
    module = type(model).__module__.replace("__mp_main__", "__main__")  # the script's name in child processes
    return getattr(model, "config", None) or {"name": f"{module}:{type(model).__qualname__}", "kwargs": None}


def info_of(model: Model) -> dict[str, Any]:
    """The run.json of a model that was loaded from a run, else {}."""
    return getattr(model, "run", None) or {}


def checkpoint_of(model: Model) -> int | None:
    """The step of the checkpoint that a model was loaded from, or None."""
    return getattr(model, "checkpoint", None)


def data_with(model: Model) -> Any:
    """The data set that came with a model when it was loaded, or None."""
    return getattr(model, "data", None)


def weights_of(model: Model) -> dict[str, Any] | None:
    """Which weights a model was loaded with, see ``rv.load``; None of a model that was not."""
    return getattr(model, "loaded_from", None)


def networks_of(model: nn.Module) -> list[nn.Module]:
    """The sub-modules to compile: those on the card, or direct children with trainable parameters."""
    if names := card_of(model).networks:
        return [model.get_submodule(name) for name in names]
    return [net for net in model.children() if any(p.requires_grad for p in net.parameters())]
