"""``evaluate``: a run, or two sets of pictures, to scores with passports, a picture and a file."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reverie.core import distributed
from reverie.core.card import card_of, checkpoint_of, config_of, info_of, name_of
from reverie.core.errors import UsageError
from reverie.core.options import sampling_options
from reverie.core.values import check_seeds, integer
from reverie.core.verbs import Model, verbs_of
from reverie.data import Dataset, Split, open_data
from reverie.data.split import hash_rows
from reverie.drawing import Whole, spread
from reverie.generation import complete, data_of, knows_classes, load, sample, spec_of
from reverie.home import Progress
from reverie.media import Size, medium_of
from reverie.metrics.bench import Bench, Sets
from reverie.metrics.estimate import shuffled
from reverie.metrics.evaluate import UNDRAWN, check, measure
from reverie.metrics.likelihood import MODERATE, affordable
from reverie.metrics.passport import Scores
from reverie.metrics.sheet import leave_behind
from reverie.metrics.translated import translations
from reverie.training.run import Run, locate
from reverie.weights import digest

Source = str | Path | np.ndarray

DEFAULT = (
    *("translation", "frechet", "kernel", "prdc", "modes", "stacked-modes", "memorisation", "nll", "reconstruction"),
)
TARGET = ("frechet", "kernel")  # of translations against the target domain
INCEPTION = ("fid", "fid-infinity", "kid")
NUMBER, NUMBER_FID = 2000, 5000  # pictures drawn by default, and where FID is asked for


def evaluate(
    run: Run | Path | str | None = None,
    metrics: Sequence[str] | str | None = None,
    n: int | None = None,
    data: Any = None,
    fake: Source | None = None,
    real: Source | None = None,
    backbone: str | None = None,
    resize: str | None = None,
    precision: str = "auto",
    device: str = "auto",
    seed: int = 0,
    per_class: bool = False,
    size: Size | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
    model: nn.Module | None = None,
    **options: Any,
) -> Scores:
    """Scores of a run's samples or translations, or of pictures that anything drew, against real ones.

    Args:
        run: a run directory or a checkpoint inside one; draws ``n`` pictures of the seeds ``seed``, ``seed`` + 1 ...,
            or translates ``n`` held-out ones.
        metrics: a name or names of ``reverie.metrics.evaluate.METRICS``; None is all that need no download and apply.
        n: how many pictures; 2,000 by default, 5,000 where FID is asked for. Of ``fake``: at most so many.
        data: real data other than the run's own, as for ``open_data``; or the run's own, where that came from Python.
        fake, real: two sources of pictures instead of a run, each as for ``reverie.data`` or an array (N, H, W, C);
            all of both are compared, at the size of ``fake``.
        backbone: network of frechet, kernel, prdc, modes, memorisation: small (the default), inception (the default
            where fid, fid-infinity or kid is asked for), mobilenetv2 or dinov2.
        resize: how pictures are brought to the network's size; its own way by default.
        precision: fp32, bf16, or auto.
        per_class: distances also class by class, where generated pictures have labels.
        size: side in pixels, or (height, width), at which two sources are compared.
        out: folder for scores.json, scores.png and closest.png; by default RUN/evaluation, and none without a run.
        progress: called as progress(done, total, what) during long work.
        model: a fresh instance to put the weights in, where the run is of a class of your own.
        options: of the model's own ``sample`` or ``translate``, as for ``reverie.sample``; None is its default.

    Raises:
        UsageError: unknown names, sources that do not fit together, an option that the run does not have, a run with
            nothing that could be scored.
    """
    if (run is None) == (fake is None) or (fake is None) != (real is None):
        raise UsageError("Name a RUN, or --fake and --real.")
    metrics = [metrics] if isinstance(metrics, str) else list(metrics or ())
    check(metrics)
    asked = list(dict.fromkeys(metrics or DEFAULT))
    n = n if n is None else integer("The number of images", n, least=1)
    seed = integer("seed", seed)
    check_seeds(seed, seed + (n or NUMBER_FID) - 1)
    chosen = backbone or ("inception" if any(name in INCEPTION for name in asked) else "small")
    if run is not None:
        if size is not None:
            raise UsageError("A run has its own size; --size is for --fake and --real.")
        loaded = load(run, device, model=model)
        options = complete(loaded, options)
        n = n or (NUMBER_FID if set(asked) & set(INCEPTION[:2]) else NUMBER)
        if translates(loaded):
            sets = _sets_of_translator(loaded, str(_path(run)), n, data, seed, progress, options)
        else:
            samples = "sample" in verbs_of(loaded) and not set(asked) <= set(UNDRAWN)
            sets = _sets_of_run(loaded, str(_path(run)), n if samples else 0, data, seed, progress, options)
        if not metrics:
            asked = [name for name in asked if _applies(name, sets)]
    else:
        assert fake is not None and real is not None
        if told := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"How to sample ({', '.join(told)}) is for a RUN; --fake and --real are pictures already.")
        sets = _sets_of_two(fake, real, n, size, seed, progress)
        if not metrics:
            asked = [name for name in asked if name in ("frechet", "kernel", "prdc")]
    bench = Bench(sets, chosen, resize, precision, device, seed, progress, slow=bool(metrics))
    if not asked:
        serves = card_of(sets.model).serves
        raise UsageError(
            f"There is nothing to score: {name_of(sets.model)} neither samples nor translates, encodes or gives "
            f"likelihoods.{' It serves other models: ' * bool(serves)}{serves}"
        )
    found = measure(bench, asked, per_class)
    folder = Path(out) if out is not None else _path(run) / "evaluation" if run is not None else None
    if folder is not None:
        found.folder = folder
        if distributed.rank() == 0:
            leave_behind(found, sets, folder)
    return found


def _path(run: Run | Path | str) -> Path:
    return run.path if isinstance(run, Run) else locate(run)[0]


def _applies(metric: str, sets: Sets) -> bool:
    """Whether a metric that nobody asked for by name means something here."""
    verbs, translated = verbs_of(sets.model), translates(sets.model)
    stacked = sets.of_reference["data"].startswith("stacked-mnist")
    return {
        **dict.fromkeys(TARGET, "sample" in verbs or translated),
        "translation": sets.truth is not None,
        "modes": "sample" in verbs and len(sets.classes) > 1 and not stacked,
        "stacked-modes": "sample" in verbs and stacked,
        "nll": bool(affordable(sets.model, MODERATE)),
        "reconstruction": "encode" in verbs and "decode" in verbs,
    }.get(metric, "sample" in verbs)


def translates(model: Model) -> bool:
    """Whether a model is scored by its translations: one that samples is scored by its samples."""
    return {"translate", "domains"} <= set(verbs_of(model)) and "sample" not in verbs_of(model)


def _sets_of_run(
    model: Model, run: str, n: int, data: Any, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Sets:
    own, real = _own_and_real(model, data)
    labels, texts = _labels(knows_classes(model, options), own, n), _texts(model, own, n)
    condition: dict[str, Any] = {
        "label": None if labels is None else [own.classes[label] for label in labels],
        "text": texts,
    }
    drawn = _draw(model, n, seed, condition, options, progress)
    of_fake = {
        **_of_model(model, run, n, seed, options),
        "labels": "as the training data has them" if labels is not None else None,
        "texts": "as the training data has them" if texts is not None else None,
        "size": own.spec.square or list(own.spec.shape),
    }
    of_reference = _of_data(own, real, len(real.train))
    given = np.full(n, -1, np.int64) if labels is None else _renumbered(labels, own.classes, real.classes)
    fake = Split({"x": drawn, "label": given}, [str(seed + i) for i in range(n)], spec_of(model))
    learned = None if real is own else (own.train, own.held_out)
    return Sets(
        fake, real.train, real.train, real.held_out, real.classes, of_fake, of_reference, model, learned=learned
    )


def _own_and_real(model: Model, data: Any) -> tuple[Dataset, Dataset]:
    """What a model was trained on, and what its samples are compared with: the same, or ``data``.

    ``data`` may also be the model's own, of a run on data that came from Python.
    """
    if data is None:
        own = data_of(model)
        return own, own
    real = data_of(model, data)
    return (real if real.fingerprint == info_of(model)["data"]["fingerprint"] else data_of(model)), real


def _sets_of_translator(
    model: Model, run: str, n: int, data: Any, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Sets:
    """Translations of held-out images against the target domain, and against their truth where there are pairs."""
    own, real = _own_and_real(model, data)
    found = translations(model, real.train, real.held_out, n, seed, options, progress)
    of_fake = _of_model(model, run, len(found.made), seed, options) | {"of": "translations of held-out images"}
    of_reference = _of_data(own, real, len(found.target)) | {"domain": "target", "channels": found.target.shape[3]}
    fake, target, held_out = (_unlabelled(images) for images in (found.made, found.target, found.held_out))
    return Sets(fake, target, target, held_out, [], of_fake, of_reference, model, truth=found.truth)


def _unlabelled(images: np.ndarray) -> Split:
    return Split({"x": images})


def _of_model(model: Model, run: str, n: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """What passports say of who made the images, and how."""
    return {
        "run": run,
        "model": config_of(model),
        "checkpoint": checkpoint_of(model),
        "weights_sha256": _weights(model),
        "n": n,
        "seeds": [seed, seed + n - 1] if n else None,
        "sampling": _sampling(model, options),
    }


def _of_data(own: Dataset, real: Dataset, n: int) -> dict[str, Any]:
    """What passports say of the reference."""
    facts = {"data": real.source, "split": "train", "fingerprint": real.fingerprint, "n": n}
    return facts | {
        "size": real.spec.square or list(real.spec.shape),
        "channels": real.spec.channels,
        "held_out_trained_on": real is not own and _trained_on(own, real),
    }


def _renumbered(labels: np.ndarray, names: list[str], wanted: list[str]) -> np.ndarray:
    """The labels (N,) of some classes as places in another list of names; -1 where they are not in it."""
    place = {name: i for i, name in enumerate(wanted)}
    return np.array([place.get(name, -1) for name in names] + [-1], np.int64)[labels]


def _weights(model: Model) -> str:
    return digest({name: value.cpu() for name, value in model.state_dict().items()})


def _sampling(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """Every argument of the verb that made the images, given or default; another model by its weights."""
    defaults = {name: p.default for name, p in sampling_options(model).items()}
    return {name: _plain(value) for name, value in (defaults | options).items()}


def _plain(value: Any) -> Any:
    """An option's value as JSON: a model by its weights, what JSON does not have by its name or text."""
    other = value.value if isinstance(value, Whole) else value
    if isinstance(other, tuple | list):
        return [_plain(entry) for entry in other]
    if not isinstance(other, nn.Module):
        return other if other is None or isinstance(other, bool | int | float | str) else _text(other)
    return {"model": config_of(other), "checkpoint": checkpoint_of(other), "weights_sha256": _weights(other)}


def _text(value: Any) -> str:
    return value.__qualname__ if inspect.isroutine(value) or inspect.isclass(value) else repr(value)


def _labels(model: Model, data: Dataset, n: int) -> np.ndarray | None:
    """For a model of classes: labels (n,) in the data's own shares."""
    if not card_of(model).classes:
        return None
    known = data.train.labels[data.train.labels >= 0]
    return known[spread(len(known), n)] if len(known) else None


def _texts(model: Model, data: Dataset, n: int) -> list[str] | None:
    """For a model of captions: n of the data's."""
    texts = data.train.get("text")
    if "text" not in card_of(model).conditions or not texts:
        return None
    return [texts[place] for place in spread(len(texts), n)]


def _draw(
    model: Model,
    n: int,
    seed: int,
    condition: dict[str, Any],
    options: dict[str, Any],
    progress: Progress | None,
) -> np.ndarray:
    """uint8 pictures (n, H, W, C), each rank its share."""
    chunk = 256
    parts: list[np.ndarray | None] = [None] * -(-n // chunk)
    for number in range(len(parts)):
        if number % distributed.world() == distributed.rank():
            low, high = number * chunk, min((number + 1) * chunk, n)
            told: dict[str, Any] = {name: None if all_ is None else all_[low:high] for name, all_ in condition.items()}
            parts[number] = sample(model, high - low, seed + low, **told, chunk=chunk, **options)
            if progress:
                progress(high, n, "drawing")
    spec = spec_of(model)
    empty = np.empty((0, *spec.shape, spec.channels), spec.dtype or medium_of(spec).storage)
    return np.concatenate([empty, *distributed.collect(parts)])


def _trained_on(own: Dataset, other: Dataset) -> bool:
    """Whether pictures that are to serve as unseen were trained on."""
    seen = set(hash_rows(np.ascontiguousarray(own.train["x"])))
    return any(one in seen for one in hash_rows(np.ascontiguousarray(other.held_out["x"])))


def _sets_of_two(
    fake: Source, real: Source, n: int | None, size: Size | None, seed: int, progress: Progress | None
) -> Sets:
    drawn = _opened(fake, size, progress, copies=True)
    given = _opened(real, drawn.spec.shape, progress)
    whole = _whole(drawn)
    if n is not None and n < len(whole):
        rows = shuffled(len(whole), seed)[:n].sort().values.numpy()
        whole = whole.take(rows)
    whole = whole | {"label": _renumbered(whole.labels, drawn.classes, given.classes)}
    side = drawn.spec.square or list(drawn.spec.shape)
    of_fake = {"data": drawn.source, "fingerprint": drawn.fingerprint, "n": len(whole), "size": side}
    of_reference = {"data": given.source, "split": "all", "fingerprint": given.fingerprint, "size": side}
    reference = _whole(given)
    of_reference |= {"n": len(reference), "channels": given.spec.channels}
    return Sets(whole, reference, given.train, given.held_out, given.classes, of_fake, of_reference, apart=False)


def _opened(source: Source, size: Size | None, progress: Progress | None, copies: bool = False) -> Dataset:
    return open_data(source, size=size, progress=progress, copies=copies)


def _whole(data: Dataset) -> Split:
    """Both splits as one."""
    parts = (data.train, data.held_out)
    columns = {"x": np.concatenate([part["x"] for part in parts])}
    columns["label"] = np.concatenate([part.labels for part in parts])
    return Split(columns, [name for part in parts for name in part.names], data.spec)
