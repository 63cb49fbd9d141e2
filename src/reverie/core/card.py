"""What shared code must know of a model beyond its verbs: plain data, stored in run.json, read without weights."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from reverie.core.errors import UsageError
from reverie.core.values import integer
from reverie.core.verbs import Model, verbs_of

# Columns that may be conditions. An argument of these names is never an option of sampling.
COLUMNS = ("label", "text", "source", "attributes", "mask", "tokens")


@dataclass(frozen=True)
class Output:
    """What a model makes: the medium, its shape in pixels (or voxels, samples) and its channels."""

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
        shape: of one latent.
        prior: what ``sample`` draws from; "model": what the model itself makes of noise; None: nothing.
        encode: how ``encode`` finds a latent: "exact" (a function), "mean" (of a posterior), "invert" (a search).
        kind: of the numbers.
        evaluations: of networks, for one ``encode``.
    """

    shape: tuple[int, ...]
    prior: Literal["normal", "uniform", "bernoulli", "model"] | None = None
    encode: Literal["exact", "mean", "invert"] | None = None
    kind: Literal["real", "binary", "tokens"] = "real"
    evaluations: int = 1

    def __post_init__(self) -> None:
        _settle(self, shape=_integers, evaluations=integer)


@dataclass(frozen=True)
class Likelihood:
    """One way to a likelihood. Several of one name are the same number at different costs, the cheapest first.

    Attributes:
        verb: what computes it, nats per row.
        kind: "exact", "bound" (from below) or "estimate". A density of dequantised data is a bound of 8-bit
            probabilities.
        of: "8-bit" values, "binary" ones, a "density" of the floats themselves, or "tokens".
        dequantised: whether 8-bit values are spread over their bins, because a density is asked.
        suffix: what it adds to the name of a score ("iw32", "ode").
        evaluations: of networks, for one row.
        options: of the verb.
        rows: at most so many held-out rows, evenly spread, are looked at; 0 is all.
    """

    verb: Literal["log_prob", "elbo", "estimate"]
    kind: Literal["exact", "bound", "estimate"]
    of: Literal["8-bit", "binary", "density", "tokens"]
    dequantised: bool = False
    suffix: str = ""
    evaluations: int = 1
    options: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0

    def __post_init__(self) -> None:
        _settle(self, evaluations=integer, options=_counts, rows=integer)

    @property
    def name(self) -> str:
        """What it adds to the name of a score: "" for an exact one, "-bound", "-bound-iw32", "-ode" ..."""
        kind = {"exact": "", "bound": "-bound", "estimate": "" if self.suffix else "-estimate"}[self.kind]
        return kind + (f"-{self.suffix}" if self.suffix else "")


@dataclass(frozen=True)
class Card:
    """A model's card.

    Attributes:
        output: what it makes.
        conditions: columns that ``sample`` and the other verbs take, each with a size: "label": classes, "source":
            channels, "text": 0.
        columns: columns that training cannot do without: names, or a mapping to what to do where the data has none.
        latents: latent spaces by name, the default one first.
        likelihoods: the ways to a likelihood.
        evaluations: of networks, for one sample with default options.
        monitors: what to watch in training: "gan" (the doctor), "classes" (those found among samples).
        weights: pretrained networks that it needs (see ``reverie weights``).
        networks: sub-modules that ``--compile`` compiles; by default direct children that hold parameters.
        serves: what it is for, where it is an auxiliary model; THIS stands for the run.
        caution: what a user must know before looking at its samples.
        origin: runs that it was made from, by argument.
    Raises:
        UsageError: a field that holds something else; it names the field.
    """

    output: Output | None = None
    conditions: Mapping[str, int] = field(default_factory=dict)
    columns: Collection[str] = ()
    latents: Mapping[str, Space] = field(default_factory=dict)
    likelihoods: tuple[Likelihood, ...] = ()
    evaluations: int = 1
    monitors: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    serves: str = ""
    caution: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _settle(
            self,
            output=lambda name, value: value if value is None else _of(Output, name, value),
            conditions=_counts,
            columns=_columns,
            latents=lambda name, value: {key: _of(Space, name, one) for key, one in _mapping(name, value).items()},
            likelihoods=lambda name, value: tuple(_of(Likelihood, name, one) for one in _several(name, value)),
            evaluations=integer,
            monitors=_names,
            weights=_names,
            networks=_names,
            serves=_text,
            caution=_text,
            origin=_texts,
        )

    @property
    def remedies(self) -> dict[str, str]:
        """The columns that training cannot do without, each with what to do where there is none."""
        return dict(self.columns) if isinstance(self.columns, Mapping) else {}

    @property
    def classes(self) -> int:
        """How many classes it can be asked for; 0 is none."""
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
        """The card of ``to_json``; fields that this version does not know are left out."""
        output = content.get("output")
        parts = {
            "output": None if output is None else _read(Output, output),
            "latents": {name: _read(Space, one) for name, one in content.get("latents", {}).items()},
            "likelihoods": tuple(_read(Likelihood, one) for one in content.get("likelihoods", ())),
        }
        return _read(cls, {**content, **parts})


# Fields. Each of these returns what a field holds, as plain values, or raises a UsageError that names the field.


def _settle(part: Any, **fields: Callable[[str, Any], Any]) -> None:
    """Check fields of a frozen dataclass, and store them as plain values: NumPy's integers are Python's."""
    for name, settled in fields.items():
        owner = "Card" if isinstance(part, Card) else f"Card: {type(part).__name__}"
        object.__setattr__(part, name, settled(f"{owner}: {name}", getattr(part, name)))


def _of(kind: type, name: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be of type {kind.__name__}, not {value!r}.")
    return value


def _mapping(name: str, value: Any) -> dict[str, Any]:
    return {_text(name, key): one for key, one in _of(Mapping, name, value).items()}


def _counts(name: str, value: Any) -> dict[str, int]:
    return {key: integer(f"{name}: {key}", one) for key, one in _mapping(name, value).items()}


def _several(name: str, value: Any) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Collection):
        raise UsageError(f"{name} must be a tuple or list, not {value!r}.")
    return list(value)


def _integers(name: str, value: Any) -> tuple[int, ...]:
    return tuple(integer(name, one) for one in _several(name, value))


def _names(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, one) for one in _several(name, value))


def _text(name: str, value: Any) -> str:
    return str(_of(str, name, value))


def _texts(name: str, value: Any) -> dict[str, str]:
    return {key: _text(name, one) for key, one in _mapping(name, value).items()}


def _columns(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return _texts(name, value)
    return dict.fromkeys(sorted(_names(name, value)), "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _read(kind: Any, content: Mapping[str, Any]) -> Any:
    """A dataclass of JSON: lists are tuples, unknown fields are left out."""
    known = {f.name: content[f.name] for f in dataclasses.fields(kind) if f.name in content}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


def card_of(model: Model) -> Card:
    """A model's own card, or what its verbs tell of one that has none; with the runs that it was made from.

    Raises:
        UsageError: it is no card, or speaks of what the model does not have.
    """
    own = getattr(type(model), "card", None)
    # by the property itself: nn.Module's own look-up would hide an AttributeError within it
    card = own.__get__(model) if isinstance(own, property) else getattr(model, "card", None)
    if card is None:
        card = _default(model)
    elif not isinstance(card, Card):
        raise UsageError(f"The card of {name_of(model)} is a {type(card).__name__}: make it a reverie.Card.")
    else:
        _check(card, model)
    arguments = config_of(model)["kwargs"] or {}
    runs = {name: value["run"] for name, value in arguments.items() if isinstance(value, dict) and "run" in value}
    return dataclasses.replace(card, origin={**runs, **card.origin}) if runs else card


def _check(card: Card, model: Model) -> None:
    """Raise a UsageError where a card speaks of verbs, arguments or sub-modules that its model does not have."""
    verbs, named = verbs_of(model), f"The card of {name_of(model)}"
    if absent := [one.verb for one in card.likelihoods if one.verb not in verbs]:
        raise UsageError(f"{named}: likelihoods names {absent[0]}, and the model has no such method.")
    if "sample" in verbs and (odd := [name for name in card.conditions if not _takes(model.sample, name)]):
        raise UsageError(f"{named}: conditions has {odd[0]}, and sample() does not take it: give it {odd[0]}=None.")
    modules = dict(model.named_modules()) if card.networks else {}
    if odd := [name for name in card.networks if name not in modules]:
        raise UsageError(f"{named}: networks names {odd[0]}, and the model has no such sub-module.")


def _takes(method: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(method).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _default(model: Model) -> Card:
    """Of a likelihood only what the verb promises is known: nats of the numbers that it is given."""
    known = {"log_prob": "exact", "elbo": "bound", "estimate": "estimate"}
    verbs = verbs_of(model)
    likelihoods = tuple(Likelihood(verb, kind, "density") for verb, kind in known.items() if verb in verbs)  # type: ignore[arg-type]
    return Card(likelihoods=likelihoods)


def name_of(model: Model) -> str:
    """The registry's name of a model, as far as it is known."""
    config = getattr(model, "config", None)
    return config["name"] if isinstance(config, dict) and "name" in config else type(model).__name__


def config_of(model: nn.Module) -> dict[str, Any]:
    """The {"name", "kwargs"} that builds a model again; kwargs is None of a class that no registry built: it is known
    by its name alone."""
    module = type(model).__module__.replace("__mp_main__", "__main__")  # a script is itself in its child processes, too
    own = {"name": f"{module}:{type(model).__qualname__}", "kwargs": None}
    return getattr(model, "config", None) or own


def info_of(model: Model) -> dict[str, Any]:
    """What run.json says of a model that was loaded from a run; nothing of another."""
    return getattr(model, "run", None) or {}


def checkpoint_of(model: Model) -> int | None:
    """The step of the checkpoint that a model was loaded from; None of another."""
    return getattr(model, "checkpoint", None)


def networks_of(model: nn.Module) -> list[nn.Module]:
    """The sub-modules to compile: those that the card names, or direct children that hold trained parameters."""
    if names := card_of(model).networks:
        return [model.get_submodule(name) for name in names]
    return [net for net in model.children() if any(p.requires_grad for p in net.parameters())]
