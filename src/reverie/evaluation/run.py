"""``evaluate``: score a run, or two sets of images, and write scores.json and scores.png."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from reverie.core import distributed
from reverie.core.cache import Progress
from reverie.core.card import card_of, checkpoint_of, config_of, info_of, name_of, reconstructs, weights_of
from reverie.core.errors import UsageError, argument
from reverie.core.files import check_target, path_of
from reverie.core.memory import rows_at_once
from reverie.core.options import sampling_options
from reverie.core.values import check_seeds, integer
from reverie.core.verbs import Model, verbs_of
from reverie.data import Dataset, Split
from reverie.data.split import hash_rows
from reverie.evaluation.base import Evaluation, Sets
from reverie.evaluation.likelihood import MODERATE, affordable, evenly
from reverie.evaluation.metrics import UNSAMPLED, check, measure
from reverie.evaluation.passport import Scores
from reverie.evaluation.sheet import write_sheet
from reverie.evaluation.sources import (
    Source,
    against_file,
    check_sources,
    check_statistics_path,
    renumbered,
    sets_of_sources,
)
from reverie.evaluation.statistics_file import check_savable, read_reference, save_statistics
from reverie.evaluation.translated import translations
from reverie.inference.conditions import complete, guides_in, listed_values, owner_of_classes
from reverie.inference.load import data_of, load, spec_of
from reverie.inference.rows import Unsliced, device_of, spread
from reverie.inference.sampling import sample
from reverie.media import Size, medium_of
from reverie.media.alpha import WHITE
from reverie.pretrained import weights
from reverie.pretrained.weights import digest
from reverie.training.progress import shows_progress
from reverie.training.run import Run, locate

DEFAULT = [
    "translation",
    "frechet",
    "kernel",
    "prdc",
    "modes",
    "stacked-modes",
    "memorisation",
    "nll",
    "reconstruction",
    "token-usage",
]
TARGET = ("frechet", "kernel")  # of translations against the target domain
_LIKELIHOODS = ("nll-", "bits-per-dim")  # names of single scores that a run may have
INCEPTION = ("fid", "fid-infinity", "kid")
NUMBER, NUMBER_FID = 2000, 5000  # images by default, and for FID
_BUNDLED = ("fashion", "emoji", "fashion-mnist")  # what the bundled encoder was trained on


@shows_progress
def evaluate(
    run: Run | Model | Path | str | None = None,
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
    reference: Path | str | None = None,
    save_stats: Path | str | None = None,
    **options: Any,
) -> Scores:
    """Score a run's samples or translations, or any generated images, against real ones.

    Args:
        run: a run directory or a checkpoint inside one, or its loaded model; samples ``n`` images with the
            seeds ``seed``, ``seed`` + 1 ..., or translates ``n`` held-out ones.
        metrics: one or more of ``reverie.evaluation.metrics.METRICS``, where a likelihood's own name ("nll-tokens")
            means nll; None: all that apply and need no download.
        n: number of images; 2,000 by default, 5,000 for FID. Of ``fake``: at most this many. Where no metric needs
            samples (nll, reconstruction ...): at most this many held-out images, evenly spaced; by default all.
        data: real data other than the run's, as for ``open_data``; or the run's own data if it came from Python.
        fake, real: two sources of images instead of a run, each as for ``reverie.data`` or an array (N, H, W, C); both
            are compared in full, exact copies included, at the size of ``fake``.
        backbone: network of frechet, kernel, prdc, modes, memorisation: small (the bundled encoder, the default on the
            images that it was trained on), inception (the default with fid, fid-infinity or kid, and on other images if
            it is here), mobilenetv2 or dinov2.
        resize: method to resize images to the network's input; the network's default by default.
        precision: fp32, bf16, or auto.
        per_class: distances also class by class, if the generated images have labels.
        size: side in pixels, or (height, width), at which two sources are compared.
        out: folder for scores.json, scores.png and closest.png; by default RUN/evaluation, and none without a run.
        progress: called as progress(done, total, what) during long work; by default a bar on a terminal.
        model: a fresh instance to load the weights into, for a run of your own class.
        reference: a file of statistics (mu, sigma, or features) in place of the real images, of Inception's features or
            of those that it names, for fid and frechet; see ``reverie.evaluation.statistics_file``.
        save_stats: .npz to write mean and covariance of the reference's features to, for ``reference`` and for other
            programs; ``real`` alone is enough for it.
        options: of the model's ``sample`` or ``translate``, as for ``reverie.sample``; None is the default.

    Raises:
        UsageError: unknown names, sources that do not fit together, an option that the run does not have, a run without
            anything to score.
    """
    if out is not None:
        check_target(path_of("out", out))
    fake_flag, real_flag = argument("fake"), argument("real")
    check_sources(run, fake, real, reference, save_stats)
    if save_stats is not None:
        check_statistics_path(path_of("save_stats", save_stats))
    file = None if reference is None else read_reference(reference)
    metrics = [] if metrics is None else listed_values(metrics)
    check([name for name in metrics if run is None or not str(name).startswith(_LIKELIHOODS)])
    n = n if n is None else integer("The number of images", n, least=1)
    seed = integer("seed", seed)
    check_seeds(seed, seed + (n or NUMBER_FID) - 1)
    if run is not None:
        if size is not None:
            raise UsageError(f"A run has its own size; {argument('size')} is for {fake_flag} and {real_flag}.")
        if isinstance(run, nn.Module) and (source := weights_of(run)):
            loaded, run = run, source["run"]
        else:
            loaded = load(run, device, model=model)
        options = complete(loaded, options)
        likelihoods = [name for method in card_of(loaded).likelihoods for name in method.scores]
        metrics = ["nll" if name in likelihoods else name for name in metrics]
        check(metrics, likelihoods)
        names, limit = list(dict.fromkeys(metrics or (file.default_metrics if file else DEFAULT))), n
        published = file is not None and file.network == "inception"
        n = n or (NUMBER_FID if published or set(names) & set(INCEPTION[:2]) else NUMBER)
        if translates(loaded):
            sets = _sets_of_translator(loaded, str(_path(run)), n, data, seed, progress, options)
        else:
            samples = "sample" in verbs_of(loaded) and not set(names) <= set(UNSAMPLED)
            sets = _sets_of_run(loaded, str(_path(run)), n if samples else 0, data, seed, progress, options)
            if limit and not samples:
                sets = replace(sets, held_out=evenly(sets.held_out, limit))
        if not metrics:
            names = [name for name in names if _applies(name, sets)]
    else:
        names = list(dict.fromkeys(metrics or (file.default_metrics if file else DEFAULT))) if fake is not None else []
        if unused := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"Sampling options ({', '.join(unused)}) are for a RUN, not for {fake_flag}, {real_flag}.")
        if fake is None and (metrics or n):
            raise UsageError(f"Scores need a RUN or {fake_flag}; {real_flag} alone is for {argument('save_stats')}.")
        sets = sets_of_sources(fake, real, n, size, seed, progress)
        if not metrics:
            names = [name for name in names if name in ("frechet", "kernel", "prdc")]
    if file is not None:
        sets = against_file(sets, file, names, progress)
        resize = resize or file.backbone.get("resize")
        precision = file.backbone.get("precision", "auto") if precision == "auto" else precision
    chosen = backbone or _default_backbone(names, sets)
    evaluation = Evaluation(sets, chosen, resize, precision, device, seed, progress, slow=bool(metrics))
    if save_stats is not None:
        check_savable(evaluation)
    if not names and save_stats is None:
        serves = card_of(sets.model).serves
        raise UsageError(
            f"There is nothing to score: {name_of(sets.model)} has no samples, translations, reconstructions or "
            f"likelihoods.{' It is an auxiliary model: ' * bool(serves)}{serves}"
        )
    if chosen == "small" and _foreign(sets):
        evaluation.remarks.append(
            "Caution: the bundled encoder was trained on clothes and emoji only. On other images its distances can "
            "rank bad samples beside real images. `reverie weights inception --fetch` gets the network of FID."
        )
    scores = measure(evaluation, names, per_class)
    if save_stats is not None:
        scores.remarks.append(save_statistics(evaluation, Path(save_stats)))
    if file is not None and scores.scores:
        network = evaluation.backbone(file.network)
        side = sets.fake.spec.square or list(sets.fake.spec.shape)
        scores.remarks[:0] = file.remarks(network.resize, network.precision, side)
    scores.weights = None if sets.model is None else weights_of(sets.model)
    folder = Path(out) if out is not None else _path(run) / "evaluation" if run is not None else None
    if folder is not None and (names or run is not None):
        scores.folder = folder
        if distributed.rank() == 0:
            write_sheet(scores, sets, folder)
    return scores


def _default_backbone(names: list[str], sets: Sets) -> str:
    """Inception where a metric of its own is among the names, and for images that the bundled encoder was not trained
    on, if Inception is here; else the bundled encoder."""
    if sets.file is not None:
        return sets.file.network
    if any(name in INCEPTION for name in names) or not (names or len(sets.fake)):
        return "inception"
    return "inception" if _foreign(sets) and weights.state("inception") == "here" else "small"


def _foreign(sets: Sets) -> bool:
    """Whether the reference is of another kind than the bundled encoder's training images."""
    return sets.reference.spec.medium == "image" and sets.of_reference["data"] not in _BUNDLED


def _path(run: Run | Path | str) -> Path:
    return run.path if isinstance(run, Run) else locate(run)[0]


def _applies(metric: str, sets: Sets) -> bool:
    """Whether a default metric applies to these sets."""
    verbs, translated = verbs_of(sets.model), translates(sets.model)
    stacked = sets.of_reference["data"].startswith("stacked-mnist")
    return {
        **dict.fromkeys(TARGET, "sample" in verbs or translated),
        "translation": sets.truth is not None,
        "modes": "sample" in verbs and len(sets.classes) > 1 and not stacked,
        "stacked-modes": "sample" in verbs and stacked,
        "nll": bool(affordable(sets.model, MODERATE)),
        "token-usage": (space := card_of(sets.model).space) is not None and space.kind == "tokens",
        "reconstruction": sets.model is not None and reconstructs(sets.model),
    }.get(metric, "sample" in verbs)


def translates(model: Model) -> bool:
    """Whether a model is scored by its translations; a model that samples is scored by its samples."""
    return {"translate", "domains"} <= set(verbs_of(model)) and "sample" not in verbs_of(model)


def _sets_of_run(
    model: Model, run: str, n: int, data: Any, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Sets:
    trained, real = _trained_and_real(model, data)
    labels, texts = _labels(owner_of_classes(model, guides_in(options)), trained, n), _texts(model, trained, n)
    names = None if labels is None else [trained.classes[label] for label in labels]
    samples = _generate(model, n, seed, {"label": names, "text": texts}, options, progress)
    of_fake = {
        **_of_model(model, run, n, seed, options),
        "labels": "as the training data has them" if labels is not None else None,
        "texts": "as the training data has them" if texts is not None else None,
        "size": trained.spec.square or list(trained.spec.shape),
    }
    of_reference = _of_data(trained, real, len(real.train))
    index = np.full(n, -1, np.int64) if labels is None else renumbered(labels, trained.classes, real.classes)
    fake = Split({"x": samples, "label": index}, [str(seed + i) for i in range(n)], spec_of(model))
    learned = None if real is trained else (trained.train, trained.held_out)
    return Sets(
        fake,
        real.train,
        real.train,
        real.held_out,
        real.classes,
        of_fake,
        of_reference,
        model,
        learned=learned,
        background=_background(real),
    )


def _background(data: Dataset) -> tuple[int, ...]:
    """RGB behind the transparent pixels of a data set."""
    return tuple(data.opened.get("background", WHITE))


def _trained_and_real(model: Model, data: Any) -> tuple[Dataset, Dataset]:
    """The model's training data, and the data to compare with: the same, or ``data``.

    ``data`` may also be the training data itself, of a run on data that came from Python.
    """
    if data is None:
        trained = data_of(model)
        return trained, trained
    real = data_of(model, data)
    return (real if real.fingerprint == info_of(model)["data"]["fingerprint"] else data_of(model)), real


def _sets_of_translator(
    model: Model, run: str, n: int, data: Any, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Sets:
    """Translations of held-out images against the target domain, and against their truth where there are pairs."""
    trained, real = _trained_and_real(model, data)
    result = translations(model, real.train, real.unseen("A score of translations"), n, seed, options, progress)
    of_fake = _of_model(model, run, len(result.outputs), seed, options) | {"of": "translations of held-out images"}
    of_reference = _of_data(trained, real, len(result.target))
    of_reference |= {"domain": "target", "channels": result.target.shape[3]}
    fake, target, held_out = (Split({"x": images}) for images in (result.outputs, result.target, result.held_out))
    return Sets(
        fake,
        target,
        target,
        held_out,
        [],
        of_fake,
        of_reference,
        model,
        truth=result.truth,
        background=_background(real),
    )


def _of_model(model: Model, run: str, n: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The passport entry of generated images."""
    return {
        "run": run,
        "model": config_of(model),
        "checkpoint": checkpoint_of(model),
        "weights_sha256": _weights(model),
        "n": n,
        "seeds": [seed, seed + n - 1] if n else None,
        "sampling": _sampling(model, options),
    }


def _of_data(trained: Dataset, real: Dataset, n: int) -> dict[str, Any]:
    """The passport entry of the reference."""
    return {
        "data": real.source,
        "split": "train",
        "fingerprint": real.fingerprint,
        "n": n,
        "size": real.spec.square or list(real.spec.shape),
        "medium": real.spec.medium,
        "channels": real.spec.channels,
        "held_out_trained_on": real is not trained and _trained_on(trained, real),
    }


def _weights(model: Model) -> str:
    return digest({name: value.cpu() for name, value in model.state_dict().items()})


def _sampling(model: Model, options: dict[str, Any]) -> dict[str, Any]:
    """All options of the verb that generated the images, with defaults; another model by its weights."""
    defaults = {name: p.default for name, p in sampling_options(model).items()}
    return {name: _plain(value) for name, value in (defaults | options).items()}


def _plain(value: Any) -> Any:
    """An option's value as JSON: a model by its weights, other objects by name or text."""
    other = value.value if isinstance(value, Unsliced) else value
    if isinstance(other, tuple | list):
        return [_plain(entry) for entry in other]
    if not isinstance(other, nn.Module):
        return other if other is None or isinstance(other, bool | int | float | str) else _text(other)
    return {"model": config_of(other), "checkpoint": checkpoint_of(other), "weights_sha256": _weights(other)}


def _text(value: Any) -> str:
    return value.__qualname__ if inspect.isroutine(value) or inspect.isclass(value) else repr(value)


def _labels(model: Model, data: Dataset, n: int) -> np.ndarray | None:
    """For a model of classes: labels (n,) in the data's proportions."""
    if not card_of(model).classes:
        return None
    labels = np.sort(data.train.labels[data.train.labels >= 0])
    return labels[spread(len(labels), n)] if len(labels) else None


def _texts(model: Model, data: Dataset, n: int) -> list[str] | None:
    """For a model of captions: n captions of the data."""
    texts = data.train.get("text")
    if "text" not in card_of(model).conditions or not texts:
        return None
    return [texts[row] for row in spread(len(texts), n)]


def _generate(
    model: Model,
    n: int,
    seed: int,
    condition: dict[str, Any],
    options: dict[str, Any],
    progress: Progress | None,
) -> np.ndarray:
    """uint8 samples (n, H, W, C); each rank generates its share."""
    spec = spec_of(model)
    if not n:
        return np.empty((0, *spec.shape, spec.channels), spec.dtype or medium_of(spec).storage)
    chunk = rows_at_once(spec.shape, device_of(model), 256)
    return sample(model, n, seed, **condition, chunk=chunk, progress=progress, shard=True, **options).array


def _trained_on(trained: Dataset, other: Dataset) -> bool:
    """Whether any held-out image of the other data was trained on."""
    seen = set(hash_rows(np.ascontiguousarray(trained.train["x"])))
    return not seen.isdisjoint(hash_rows(np.ascontiguousarray(other.held_out["x"])))
