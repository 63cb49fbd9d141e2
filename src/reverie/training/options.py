"""Training options: what ``reverie train`` takes beside the model's options."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import nn

from reverie.core import registry
from reverie.core.card import name_of
from reverie.core.errors import UsageError, argument, suggest
from reverie.core.files import path_of
from reverie.core.options import check_names, method_parameters
from reverie.core.values import check_finite, check_seeds, integer, plain
from reverie.data.augment import Augment

_LEAST = {  # minimum of integer options
    **dict.fromkeys(("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "sample_every", "keep"), 1),
    "warmup": 0,
    "seed": None,
}


@dataclass(frozen=True)
class Options:
    """Length, schedule, arithmetic and bookkeeping of a training run.

    Attributes:
        steps: number of training steps; or
        minutes: training time in minutes, including the final images and scores.
        batch_size: images per step, over all processes.
        init: a run whose averaged weights to start from, where name and shape agree (fine-tuning).
        seed: of the initial weights, the order of the images and all random numbers.
        warmup: steps over which the learning rate rises.
        decay: learning-rate schedule after the warm-up.
        clip: largest gradient norm (0: no clipping); by default the phase's, else 1.
        accumulate: split each batch into this many parts, to save memory.
        ema: decay of the averaged weights used for sampling (0: no average).
        precision: arithmetic of the networks; auto prints its choice and the reason.
        device: auto, cpu, cuda, cuda:1, mps ...
        compile: use torch.compile if it works.
        augment: for example flip,translate=0.1,color=0.2.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every: steps between checkpoints (by default one a minute).
        sample_every: steps between sample grids (by default six over the run).
        keep: number of checkpoints to keep.
        tensorboard: also write TensorBoard event files (needs the tensorboard extra).
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 128
    init: str | None = None
    seed: int = 0
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    clip: float | None = None
    accumulate: int = 1
    ema: float = 0.999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    compile: bool = False
    augment: str = ""
    log_every: int = 10
    checkpoint_every: int | None = None
    sample_every: int | None = None
    keep: int = 2
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None or getattr(Options, name) is not None:
                object.__setattr__(self, name, integer(argument(name), value, least))
        for name in ("minutes", "clip", "ema"):
            if (value := plain(getattr(self, name))) is not None or getattr(Options, name) is not None:
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise UsageError(f"{argument(name)} must be a number, not {value!r}.")
                check_finite(argument(name), value)
                object.__setattr__(self, name, value)
        check_seeds(self.seed)
        if self.clip is not None and self.clip < 0:
            raise UsageError(f"{argument('clip')} must be at least 0, not {self.clip}.")
        if not 0 <= self.ema < 1:
            raise UsageError(f"{argument('ema')} must be from 0 (no average) to below 1, not {self.ema}.")
        if self.accumulate > self.batch_size:
            accumulate = argument("accumulate", self.accumulate)
            raise UsageError(f"{accumulate} splits a batch of {self.batch_size} into empty parts.")
        if self.decay not in ("cosine", "constant"):
            raise UsageError(f"{argument('decay')} must be cosine or constant, not {self.decay!r}.")
        if self.init not in (None, ""):
            object.__setattr__(self, "init", str(path_of("init", self.init)))
        Augment.parse(self.augment)


def split_options(model: nn.Module, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort the training options of an existing model into (those of its stages, those of ``Options``).

    Raises:
        UsageError: a name that belongs to neither.
    """
    stages, training = list(method_parameters(type(model), "stages")), [f.name for f in fields(Options)]
    for name in options:
        if name not in stages and name not in training:
            raise UsageError(
                f"{name_of(model)} and its training have no option {name!r}."
                f"{suggest(name, [*stages, *training])} Its constructor's arguments were fixed when it was built."
            )
    chosen = {name: value for name, value in options.items() if name in stages}
    return chosen, {name: value for name, value in options.items() if name not in stages}


def sort_options(model: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort flat options into (those of the constructor, of the stages, of ``Options``).

    Raises:
        UsageError: a name that belongs to none of them.
    """
    homes: list[list[str]] = [
        list(registry.signature(model)),
        list(registry.stage_options(model)),
        [f.name for f in fields(Options)],
    ]
    check_names(model, homes[0], [*homes[1], *homes[2]], "training")
    sorted_: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    for name, value in options.items():
        for home, options_ in zip(homes, sorted_, strict=True):
            if name in home:
                options_[name] = value
                break
        else:
            names = [n for home in homes for n in home]
            raise UsageError(f"{model} and its training have no option {name!r}.{suggest(name, names)}")
    return sorted_
