"""Open a trained run and draw from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie import registry
from reverie.core.batch import Batch
from reverie.core.errors import UsageError, suggest
from reverie.core.noise import Noise
from reverie.core.precision import pick_device
from reverie.data import Dataset, Split, load_picture, open_like, provenance, reopen
from reverie.data.batches import in_order
from reverie.drawing import device_of, draw
from reverie.editing import diffusion_views, guides
from reverie.media import Spec, medium_of
from reverie.training.checkpoint import trained
from reverie.training.run import Run
from reverie.verbs import Model, verbs_of


def load(run: Run | Path | str, device: str = "auto", average: bool = True) -> Model:
    """The trained model of a run, ready for use; ``model.run`` is the run's info, ``model.checkpoint`` its step.

    Args:
        run: a run directory, a checkpoint inside one, or a ``Run``.
        average: the averaged weights where there are some, else the last ones.
    Raises:
        UsageError: there is no run or no such checkpoint.
        ReverieError: every checkpoint is damaged.
    """
    found, saved = trained(run)
    model = registry.build(saved.config["name"], **saved.config["kwargs"])
    model.load_state_dict(saved.ema if average and saved.ema is not None else saved.weights)
    model.run, model.checkpoint = found.info, saved.step
    model = model.to(pick_device(device), memory_format=torch.channels_last)
    return model.requires_grad_(False).eval()


def name_of(model: Model) -> str:
    """The registry's name of a model, as far as it is known."""
    return model.config["name"] if hasattr(model, "config") else type(model).__name__


def need(model: Model, *verbs: str) -> None:
    """Raise a UsageError unless the model has these verbs."""
    for verb in verbs:
        if verb not in (able := verbs_of(model)):
            can = f"It can {', '.join(able)}." if able else f"It serves other models: {getattr(model, 'serves', '')}"
            raise UsageError(f"{name_of(model)} cannot {verb}. {can}")


def need_diffusion(model: Model, part: str = "trajectory") -> None:
    """Raise a UsageError unless the model goes step by step between noise and pictures, and shows it by this method."""
    if not hasattr(model, part):
        others = [name for name, one in registry.MODELS.items() if hasattr(one.load(), part)]
        raise UsageError(
            f"{name_of(model)} has no steps between noise and pictures to show. These models have: {_list(others)}."
        )


def data_of(model: Model, source: Any = None) -> Dataset:
    """The data that a loaded model was trained on, or other data in the same form.

    Raises:
        ReverieError: the run's own data has changed since, or cannot be opened by name: see ``data.reopen``.
    """
    record = model.run["data"]
    return reopen(record) if source is None else open_like(source, record)


def spec_of(model: Model) -> Spec:
    """What a sample of a loaded model is."""
    return Spec.of(provenance.upgraded(model.run["data"]))


def label_index(model: Model, label: str | int) -> int:
    """A class's index from its name or number.

    Raises:
        UsageError: the model knows no such class, or no classes at all.
    """
    classes = list(model.run["data"]["classes"]) if getattr(model, "classes", 0) else []
    if not classes:
        raise UsageError("This model was trained without classes. Train with --conditional label to ask for one.")
    text = str(label)
    if isinstance(label, str):  # a number that is given as one is an index, also where classes have numbers for names
        if text in classes:
            return classes.index(text)
        folded = {name.casefold(): index for index, name in enumerate(classes)}
        if text.casefold() in folded:
            return folded[text.casefold()]
    if text.isdecimal() and int(text) < len(classes):
        return int(text)
    names = ", ".join(f"{index} {name}" for index, name in enumerate(classes))
    raise UsageError(f"There is no class {label!r}.{suggest(text, classes)} Known: {names}.")


def wanted_texts(model: Model, text: str | Sequence[str], n: int) -> list[str]:
    """n captions, taking turns.

    Raises:
        UsageError: the model was trained without captions.
    """
    if not getattr(model, "texts", False):
        raise UsageError("This model was trained without captions. Train with --conditional text to ask by words.")
    texts = [text] if isinstance(text, str) else list(text)
    return [texts[i % len(texts)] for i in range(n)]


def sample(
    model: Model | Run | Path | str,
    n: int = 64,
    seed: int | Sequence[int] = 0,
    label: str | int | Sequence[str | int] | None = None,
    text: str | Sequence[str] | None = None,
    chunk: int = 64,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> np.ndarray:
    """uint8 pictures (n, H, W, C). Picture i is that of seed + i, whatever ``n`` and ``chunk`` (equal to rounding).

    Args:
        model: a loaded model, or a run.
        seed: the first picture's seed, or one seed for each picture.
        label: a class for all pictures, or a list whose classes take turns; None is the null condition.
        text: a caption for all pictures, or a list whose captions take turns, for a model of captions.
        chunk: pictures computed at once.
        progress: called after each chunk, (done, total, what).
        options: the model's own; None is its default. A diffusion model has sampler, steps, grid and guidance, and
            classifier or autoguide: a loaded model or a run that guides it, with ``guidance`` for its strength.
    Raises:
        UsageError: a model that does not sample, an unknown class or option, n below 1, a guide that does not fit.
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    noise, asked = _asked(model, n, seed, label, text, options)
    return draw(model, noise, chunk, progress, spec_of(model) if hasattr(model, "run") else None, **asked)


def trajectory(
    model: Model | Run | Path | str,
    n: int = 8,
    seed: int | Sequence[int] = 0,
    label: str | int | Sequence[str | int] | None = None,
    text: str | Sequence[str] | None = None,
    **options: Any,
) -> list[diffusion_views.Stop]:
    """The way of a diffusion model to the pictures of ``sample``: at every stop x_t and the estimate of x0.

    Args:
        others: as for ``sample``.
    Returns:
        steps + 1 pairs of pictures (n, C, H, W), x_t divided by sqrt(alpha^2 + sigma^2);
        ``editing.diffusion_views`` makes films and strips of them.
    Raises:
        UsageError: as for ``sample``, or a model that does not draw step by step.
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    need_diffusion(model)
    noise, asked = _asked(model, n, seed, label, text, options)
    return diffusion_views.trajectory(model, noise, **asked)


def _asked(
    model: Model, n: int, seed: int | Sequence[int], label: Any, text: Any, options: dict[str, Any]
) -> tuple[Noise, dict[str, Any]]:
    """What to call a model's ``sample`` or ``trajectory`` with: a stream for each picture, and its options."""
    need(model, "sample")
    if n < 1:
        raise UsageError(f"The number of pictures must be at least 1, not {n}.")
    seeds = list(range(seed, seed + n)) if isinstance(seed, int) else list(seed)
    if len(seeds) != n:
        raise UsageError(f"{n} pictures need {n} seeds, not {len(seeds)}.")
    asked = {name: value for name, value in options.items() if value is not None}
    check_options(model, asked)
    knows = model  # who knows the classes
    if "classifier" in asked or "autoguide" in asked:
        asked, knows = _guided(model, asked)
    device = device_of(model)
    if label is not None:
        labels = [label] if isinstance(label, str | int) else list(label)
        indices = [label_index(knows, one) for one in labels]
        asked["label"] = torch.tensor([indices[i % len(indices)] for i in range(n)], device=device)
    if text is not None:
        asked["text"] = wanted_texts(model, text, n)
    return Noise.of_seeds(seeds, device), asked


def options_of(model: Model | type[Model]) -> list[str]:
    """What a model, or a model class, can be told when it samples or translates, beside label and text."""
    draws: Any = next(
        (getattr(model, verb) for verb in ("trajectory", "sample", "translate") if hasattr(model, verb)), None
    )
    known = inspect.signature(draws).parameters if draws else {}
    aside = ("self", "noise", "source", "label", "text", "guide")
    own = [name for name, p in known.items() if p.kind is not p.VAR_KEYWORD and name not in aside]
    return own + (["classifier", "autoguide"] if "guide" in known else [])


def check_options(model: Model, options: dict[str, Any]) -> None:
    """Raise a UsageError for an option that the model does not have when it samples."""
    known = options_of(model)
    for name in options:
        if name not in known:
            has = f"It has: {_list(known)}." if known else "It has none."
            others = [other for other, one in registry.MODELS.items() if name in options_of(one.load())]
            where = f" These models have it: {_list(others)}." if others else ""
            raise UsageError(
                f"{name_of(model)} has no option {name!r} when it samples.{suggest(name, known)} {has}{where}"
            )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _guided(model: Model, options: dict[str, Any]) -> tuple[dict[str, Any], Model]:
    """The options, ``guide`` in the place of classifier or autoguide, and the model that knows the classes."""
    rest = {name: value for name, value in options.items() if name not in ("classifier", "autoguide", "guidance")}
    if "classifier" in options and "autoguide" in options:
        raise UsageError("A classifier or a weaker run may guide, not both.")
    named: Any = options.get("classifier", options.get("autoguide"))
    other = named if isinstance(named, nn.Module) else load(named, str(device_of(model)))
    if "classifier" in options:
        return rest | {"guide": guides.towards_class(model, other, options.get("guidance", 1.0))}, other
    if "guidance" not in options:
        raise UsageError("Autoguidance needs a strength: --guidance above 1, for example 1.5 (1 is off).")
    return rest | {"guide": guides.away_from(model, other, options["guidance"])}, model


def find_picture(model: Model, reference: str) -> Tensor:
    """(C, H, W) in [-1, 1] from a picture file, held-out:N, train:N, seed:N, or a caption of the run's data.

    Raises:
        UsageError: nothing of that name.
        ReverieError: a file that is no picture.
    """
    record, spec = provenance.upgraded(model.run["data"]), spec_of(model)
    medium = medium_of(spec)
    if Path(reference).is_file():
        path, how = Path(reference), (record["fit"], record["background"])
        row = load_picture(path, spec.shape, spec.channels, *how) if spec.medium == "image" else medium.read(path, spec)
        return medium.to_float(row[None], spec)[0]
    kind, _, number = reference.partition(":")
    if kind == "seed" and number.isdigit():
        return medium.to_float(sample(model, 1, int(number)), spec)[0]
    split, index = _row(model, reference)
    return medium.to_float(split["x"][[index]], spec)[0]


@torch.inference_mode()
def find_latent(model: Model, reference: str) -> Tensor:
    """The code (1, ...) of a named picture (see ``find_picture``): encoded, or, of seed:N, what it is drawn from.

    Raises:
        UsageError: a model that does not encode, and no seed.
    """
    kind, _, number = reference.partition(":")
    if hasattr(model, "encode"):
        return model.encode(find_picture(model, reference)[None].to(device_of(model)))
    if kind == "seed" and number.isdigit():
        return model.latents(Noise.of_seeds([int(number)], device_of(model)))
    raise UsageError(f"{name_of(model)} draws pictures, but does not encode them: name seeds, as seed:3 and seed:7.")


def find_given(model: Model, reference: str, **options: Any) -> tuple[Tensor, Tensor | None]:
    """What a translating model is given of a named picture, and the truth where it is known, both (1, C, H, W).

    Args:
        reference: as for ``find_picture``; of held-out:N and train:N the data's own pair is taken.
        options: the model's own: which way to go.
    """
    if Path(reference).is_file():
        picture = find_picture(model, reference)[None].to(device_of(model))
        given, truth = model.given(Batch({"x": picture, "source": picture}), **options)
        return given, None if given is picture else truth
    split, index = _row(model, reference)
    batch = next(in_order(split.take(np.array([index])), 1, device_of(model)))
    return model.given(batch, **options)


def _row(model: Model, reference: str) -> tuple[Split, int]:
    """Where in the run's data a picture is: held-out:N, train:N, or a caption or name."""
    kind, _, number = reference.partition(":")
    dataset = data_of(model)
    splits = {"held-out": dataset.held_out, "train": dataset.train}
    if kind in splits and number.isdigit():
        if int(number) >= len(splits[kind]):
            raise UsageError(f"{kind} has pictures 0 to {len(splits[kind]) - 1}, not {number}.")
        return splits[kind], int(number)
    for split in splits.values():
        for names in (split.get("text") or [], split.names):
            if reference in names:
                return split, names.index(reference)
    raise UsageError(
        f"There is no file {reference!r}, and the run's data has no picture of that name or caption. "
        "Also understood: held-out:3, train:3, seed:3."
    )
