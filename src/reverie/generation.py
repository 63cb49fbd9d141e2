"""Open a trained run and draw from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reverie import registry
from reverie.core.batch import Batch
from reverie.core.card import card_of, info_of, name_of
from reverie.core.errors import UsageError, suggest
from reverie.core.files import is_file
from reverie.core.layout import place
from reverie.core.noise import Noise
from reverie.core.options import EMPTY, accepted, checked, listed, sampling_options, sub_run
from reverie.core.precision import pick_device
from reverie.core.values import check_finite, check_seeds, integer, plain
from reverie.core.verbs import USED, Frame, Model, verbs_of
from reverie.data import Dataset, Split, load_picture, open_like, provenance, reopen
from reverie.data.batches import in_order
from reverie.drawing import Whole, chunk_of, device_of, draw, training_mode_kept
from reverie.media import Spec, medium_of
from reverie.training.checkpoint import put_weights, rebuilt, trained
from reverie.training.run import Run


def load(run: Run | Path | str, device: str = "auto", average: bool = True, model: nn.Module | None = None) -> Model:
    """The trained model of a run, ready for use; ``model.run`` is the run's info, ``model.checkpoint`` its step.

    Args:
        run: a run directory, a checkpoint inside one, or a ``Run``.
        average: the averaged weights where there are some, else the last ones.
        model: a fresh instance to put the weights in, where the run is of a class of your own.
    Raises:
        UsageError: there is no run or no such checkpoint, or its model must be given.
        ReverieError: every checkpoint is damaged.
    """
    found, saved = trained(run)
    loaded: Model = rebuilt(saved.config, found, model)
    put_weights(loaded, saved.averaged if average else saved.weights, found.path)
    loaded.run, loaded.checkpoint = found.info, saved.step
    return place(loaded, pick_device(device)).requires_grad_(False).eval()


def build(name: str, data: Dataset | None = None, **kwargs: Any) -> Model:
    """A fresh model, as ``registry.build``; ``package.module:function`` is imported.

    Raises:
        UsageError: unknown model, unknown or unfit argument.
    """
    return registry.build(registry.accept(name), data, **kwargs)


def need(model: Model, *verbs: str) -> None:
    """Raise a UsageError that says what there is, unless the model has these verbs."""
    able, serves = verbs_of(model), card_of(model).serves
    for verb in verbs:
        if verb not in able:
            can = f"It can {listed(v for v in able if v in USED)}."
            others = listed(registry.with_verb(verb))
            told = f"It serves other models: {serves}" if serves else f"{can} These models can {verb}: {others}."
            raise UsageError(f"{name_of(model)} cannot {verb}. {told}")


def data_of(model: Model, source: Any = None) -> Dataset:
    """The data that a loaded model was trained on, or other data in the same form.

    Raises:
        UsageError: it was trained on none, or on data that came from Python.
        ReverieError: the data has changed since: see ``data.reopen``.
    """
    record = model.run["data"]
    if record is None:
        raise UsageError("This run was trained without data: there is none to open.")
    return reopen(record) if source is None else open_like(source, record)


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


def label_index(model: Model, label: str | int) -> int:
    """A class's index from its name or number.

    Raises:
        UsageError: the model knows no such class, or no classes at all.
    """
    count = card_of(model).classes
    if not count:
        raise UsageError("This model was trained without classes. Train with --conditional label to ask for one.")
    classes = list(info_of(model).get("data", {}).get("classes", ())) or [str(index) for index in range(count)]
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
    if "text" not in card_of(model).conditions:
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
    """Stored rows (n, *shape, C), uint8 for images. Row i is that of seed + i, whatever ``n`` (to rounding).

    Args:
        model: a loaded model, or a run.
        seed: the first picture's seed, or one seed for each picture.
        label: a class for all pictures, or a list whose classes take turns; None is the null condition.
        text: a caption for all pictures, or a list whose captions take turns, for a model of captions.
        chunk: pictures computed at once.
        progress: called after each chunk, (done, total, what).
        options: of the model's own ``sample`` (of a diffusion model sampler, steps, guidance ...); None is its default.
            One that is a model is a loaded one or a run.
    Raises:
        UsageError: a model that does not sample, an unknown class or option, a value that is not of its type or not
            finite, n below 1, a guide that does not fit.
    """
    model, noise, asked = _asked(model, "sample", n, seed, label, text, options)
    chunk = integer("chunk", chunk, least=1)
    return draw(model, noise, chunk, progress, spec_of(model) if info_of(model) else None, **asked)


def stream(
    model: Model | Run | Path | str,
    n: int = 8,
    seed: int | Sequence[int] = 0,
    label: str | int | Sequence[str | int] | None = None,
    text: str | Sequence[str] | None = None,
    **options: Any,
) -> Iterator[Frame]:
    """The intermediate states of ``sample``, up to the samples themselves; ``frame.render()`` makes images of one.

    ``editing.diffusion_views`` makes films and strips of them.

    Args:
        others: as for ``sample``.
    Raises:
        UsageError: as for ``sample``, or a model that samples in one go.
    """
    model, noise, asked = _asked(model, "stream", n, seed, label, text, options)
    return _frames(model, noise, chunk_of(asked, 0, len(noise)))


@torch.no_grad()  # which is off while the generator waits
def _frames(model: Model, noise: Noise, asked: dict[str, Any]) -> Iterator[Frame]:
    with training_mode_kept(model):
        model.eval()
        for frame in model.stream(noise, **asked):
            yield replace(frame, render=torch.no_grad()(frame.render))


def _asked(
    model: Model | Run | Path | str,
    verb: str,
    n: int,
    seed: int | Sequence[int],
    label: str | int | Sequence[str | int] | None,
    text: str | Sequence[str] | None,
    options: dict[str, Any],
) -> tuple[Model, Noise, dict[str, Any]]:
    """What to call a model's ``sample`` or ``stream`` with: a stream for each sample, conditions and options."""
    model = model if isinstance(model, nn.Module) else load(model)
    need(model, verb)
    n = integer("The number of images", n, least=1)
    seeds = _seeds(seed, n)
    asked, device = complete(model, options), device_of(model)
    if label is not None:
        labels = _each(label)
        knows = knows_classes(model, asked)
        indices = [label_index(knows, one) for one in labels]
        asked["label"] = torch.tensor([indices[i % len(indices)] for i in range(n)], device=device)
    if text is not None:
        asked["text"] = wanted_texts(model, text, n)
    return model, Noise.of_seeds(seeds, device), asked


def _each(values: Any) -> list[Any]:
    """A list of values, or one value as a list; numbers of NumPy and torch are Python's."""
    if isinstance(values, np.ndarray | Tensor):
        values = values.tolist()
    return [plain(one) for one in values] if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _seeds(seed: Any, n: int) -> list[int]:
    """The seeds of n samples: those that are listed, or n from the one that is given."""
    if isinstance(seed, Iterable) and not isinstance(seed, str):
        seeds = [integer("seed", one) for one in seed]
    else:
        first = integer("seed", seed)
        seeds = list(range(first, first + n))
    if len(seeds) != n:
        raise UsageError(f"{n} images need {n} seeds, not {len(seeds)}.")
    check_seeds(min(seeds), max(seeds))
    return seeds


def complete(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Options of sampling or translating, checked against the verb's signature, runs among them opened.

    None means the default and is left out. A tensor has a row for each sample; what else is no scalar is ``Whole``.

    Raises:
        UsageError: an option that the model does not have or cannot do without, a value that is not of its type, none
            of its choices or not finite, a run that does not serve.
    """
    known, owner, found = sampling_options(model), name_of(model), dict[str, Any]()
    for name, value in options.items():
        if name not in known:
            raise _no_option(owner, name, list(known))
        value = plain(value.value if isinstance(value, Whole) else value)
        if value is not None:
            found[name] = _bound(model, name, known[name], value)
    if missing := [name for name, p in known.items() if p.default is EMPTY and name not in found]:
        raise UsageError(f"{owner} does not sample without {listed(missing)}: pass a value for each.")
    return found


def _no_option(owner: str, name: str, known: list[str]) -> UsageError:
    has = f"It has: {listed(known)}." if known else "It has none."
    others = registry.with_option(name)
    where = f" These models have it: {listed(others)}." if others else ""
    return UsageError(f"{owner} has no option {name!r} when it samples.{suggest(name, known)} {has}{where}")


def _bound(model: Model, name: str, parameter: inspect.Parameter, value: Any) -> Any:
    """An option's value as ``chunk_of`` takes it."""
    if sub_run(parameter):
        return Whole(_other(model, name, parameter, value))
    if isinstance(value, Tensor):
        check_finite(f"{name} of {name_of(model)}", value)
        return value
    value = checked(name_of(model), name, parameter, value)
    return value if isinstance(value, bool | int | float | str) else Whole(value)


def _other(model: Model, name: str, parameter: inspect.Parameter, value: Any) -> Model:
    """The model that an option names: a loaded one, or that of a run."""
    other = value if isinstance(value, nn.Module) else load(value, str(device_of(model)))
    mark = sub_run(parameter)
    if mark and mark.verb and mark.verb not in verbs_of(other):
        raise UsageError(f"{name_of(other)} cannot serve as {name}: it has no {mark.verb}. {mark.remedy}")
    return other


def knows_classes(model: Model, asked: dict[str, Any]) -> Model:
    """Whose classes a label is one of: the model's own, or those of a model that guides it."""
    others = [value.value for value in asked.values() if isinstance(value, Whole)]
    return next((one for one in (model, *others) if card_of(one).classes), model)


def find_picture(model: Model, reference: str, channels: int | None = None) -> Tensor:
    """(C, H, W) in [-1, 1] from a picture file, held-out:N, train:N, seed:N, or a caption of the run's data.

    Args:
        channels: of an image file, where others than the model's samples have.
    Raises:
        UsageError: nothing of that name.
        ReverieError: a file that is no picture.
    """
    spec = spec_of(model)
    medium = medium_of(spec)
    if is_file(reference):
        path, record = Path(reference), provenance.upgraded(model.run["data"] or provenance.unknown(spec, []))
        if spec.medium == "image":
            row = load_picture(path, spec.shape, channels or spec.channels, record["fit"], record["background"])
        else:
            row = medium.read(path, spec)
        return medium.to_float(row[None], spec)[0]
    kind, _, number = reference.partition(":")
    if kind == "seed" and number.isdigit():
        return medium.to_float(sample(model, 1, int(number)), spec)[0]
    split, index = _row(model, reference)
    return medium.to_float(split["x"][[index]], spec)[0]


@torch.no_grad()
def find_latent(model: Model, reference: str) -> Tensor:
    """The code (1, ...) of a named picture (see ``find_picture``): encoded, or, of seed:N, what it is drawn from.

    Raises:
        UsageError: a model that does not encode, and no seed.
    """
    kind, _, number = reference.partition(":")
    verbs = verbs_of(model)
    if "encode" in verbs:
        return model.encode(find_picture(model, reference)[None].to(device_of(model)))
    if "latents" in verbs and kind == "seed" and number.isdigit():
        return model.latents(Noise.of_seeds(_seeds(int(number), 1), device_of(model)))
    raise UsageError(f"{name_of(model)} draws pictures, but does not encode them: name seeds, as seed:3 and seed:7.")


def find_given(model: Model, reference: str, **options: Any) -> tuple[Tensor, Tensor | None]:
    """What a translating model is given of a named picture, and the truth where it is known, both (1, C, H, W).

    Args:
        reference: as for ``find_picture``; of held-out:N and train:N the data's own pair is taken.
        options: the model's own: which way to go.
    """
    options = chunk_of(accepted(model, "given", options), 0, 1)
    if is_file(reference):
        picture = find_picture(model, reference)[None].to(device_of(model))
        given, truth = model.given(Batch({"x": picture, "source": picture}), **options)
        if given is not picture:
            return given, truth
        channels = max(picture.shape[1], card_of(model).conditions.get("source", 0))  # the model makes it grey itself
        if channels != picture.shape[1]:
            given = find_picture(model, reference, channels)[None].to(device_of(model))
        return given, None
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
