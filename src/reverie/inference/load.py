"""Open a trained run: its model, its data, what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from reverie.core import registry
from reverie.core.card import card_of, data_with, info_of, name_of
from reverie.core.errors import UsageError
from reverie.core.files import path_of
from reverie.core.layout import to_device_layout
from reverie.core.options import listed, some
from reverie.core.precision import pick_device
from reverie.core.verbs import USED, Model, verbs_of
from reverie.data import Dataset, open_like, provenance, reopen
from reverie.media import Spec
from reverie.training.checkpoint import put_weights, rebuilt, trained
from reverie.training.run import Run

Source = Model | Run | Path | str


def load(
    run: Run | Path | str,
    device: str = "auto",
    average: bool = True,
    model: nn.Module | None = None,
    data: Any = None,
) -> Model:
    """The trained model of a run, ready for use.

    ``model.run`` is the run's info, ``model.checkpoint`` the step, and ``model.loaded_from`` says which weights these
    are: {"run", "model", "checkpoint", "steps", "status", "passed", "sha256"}. Weights of an unfinished or failed run,
    or older than a damaged checkpoint, are a warning.

    Args:
        run: a run directory, a checkpoint inside one, or a ``Run``.
        average: the averaged weights where there are some, else the last ones.
        model: a fresh instance to put the weights in, where the run is of a class of your own.
        data: the run's data, where it has moved: a ``Dataset``, an object, or its new path. It stays with the model.
    Raises:
        UsageError: there is no run or no such checkpoint, its model must be passed, or its newest weights are untrained
            (step 0) and were not named by their path.
        ReverieError: every checkpoint is damaged, its weights are NaN, or the data is not what the run was trained on.
    """
    opened, checkpoint = trained(run)
    loaded: Model = rebuilt(checkpoint, opened, model)
    put_weights(loaded, checkpoint.averaged if average else checkpoint.weights, opened.path)
    loaded.run, loaded.checkpoint, loaded.loaded_from = opened.info, checkpoint.step, checkpoint.source
    if data is not None:
        loaded.data = reopen(_record(loaded), data)
    return to_device_layout(loaded, pick_device(device)).requires_grad_(False).eval()


def model_of(source: Source) -> Model:
    """A model as it is, or that of a run."""
    if isinstance(source, nn.Module):
        return source
    return load(source if isinstance(source, Run) else path_of("model", source))


def build(name: str, data: Dataset | None = None, **kwargs: Any) -> Model:
    """A fresh model, as ``registry.build``; ``package.module:function`` is imported.

    Raises:
        UsageError: unknown model, unknown or unfit argument.
    """
    return registry.build(registry.accept(name), data, **kwargs)


def need(model: Model, *verbs: str) -> None:
    """Raise a UsageError that says what there is, unless the model has these verbs."""
    able, card = verbs_of(model), card_of(model)
    for verb in verbs:
        if verb not in able:
            help_ = f"It can {listed(v for v in able if v in USED)}."
            if card.serves:
                help_ = f"It is an auxiliary model: {card.serves}"
            elif verb == "sample" and card.space and card.space.kind == "tokens" and "decode" in able:
                help_ += " Train a prior of its tokens: reverie train maskgit --codec RUN."
            else:
                help_ += f" These models can {verb}: {some(registry.with_verb(verb))}."
            raise UsageError(f"{name_of(model)} cannot {verb}. {help_}")


def data_of(model: Model, source: Any = None) -> Dataset:
    """The data that a loaded model was trained on, or other data in the same form.

    Raises:
        UsageError: it was trained on none, or on data that came from Python.
        ReverieError: the data has changed since: see ``data.reopen``.
    """
    record = _record(model)
    return reopen(record, data_with(model)) if source is None else open_like(source, record)


def _record(model: Model) -> dict[str, Any]:
    record: dict[str, Any] | None = info_of(model).get("data")
    if record is None:
        raise UsageError(f"{name_of(model)} was trained on no data: pass images or data.")
    return record


def spec_of(model: Model) -> Spec:
    """What a sample of a model is: that of the data it was trained on, else what its card says.

    Raises:
        UsageError: neither says so.
    """
    if record := info_of(model).get("data"):
        return Spec.of(provenance.upgraded(record))
    output = card_of(model).output
    if output is None:
        raise UsageError(f"{name_of(model)} does not say what it makes. Give its card an output.")
    return Spec(output.medium, output.shape, output.channels)
