"""``evaluate``: a run, or two sets of pictures, to scores with passports, a picture and a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reverie.core import distributed
from reverie.core.card import card_of
from reverie.core.errors import UsageError
from reverie.core.files import read_json, write_json
from reverie.core.options import sampling_options
from reverie.core.verbs import Model, verbs_of
from reverie.data import Dataset, Split, open_data
from reverie.data.split import hash_rows
from reverie.drawing import Whole, beside, spread
from reverie.generation import complete, data_of, knows_classes, load, sample, spec_of
from reverie.home import Progress
from reverie.media import Size, medium_of, montage, plots
from reverie.media.medium import to_float
from reverie.metrics.bench import Bench, Sets
from reverie.metrics.estimate import shuffled
from reverie.metrics.evaluate import UNDRAWN, check, measure
from reverie.metrics.passport import Score, Scores
from reverie.training.run import Run, locate
from reverie.weights import digest

Source = str | Path | np.ndarray

DEFAULT = ("frechet", "kernel", "prdc", "modes", "stacked-modes", "memorisation", "nll", "reconstruction")
INCEPTION = ("fid", "fid-infinity", "kid")
NUMBER, NUMBER_FID = 2000, 5000  # pictures drawn by default, and where FID is asked for
_SHOWN = 32  # pictures a side on the sheet


def evaluate(
    run: Run | Path | str | None = None,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    data: str | None = None,
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
    **options: Any,
) -> Scores:
    """Scores of a run's samples, or of pictures that anything drew, against real ones.

    Args:
        run: a run directory or a checkpoint inside one; draws ``n`` pictures of the seeds ``seed``, ``seed`` + 1 ...
        metrics: names of ``reverie.metrics.evaluate.METRICS``; None is all that need no download and that apply.
        n: how many pictures; 2,000 by default, 5,000 where FID is asked for. Of ``fake``: at most so many.
        data: real pictures other than the run's own.
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
        options: how a run samples, as for ``reverie.sample``: sampler, steps, grid, guidance, classifier, autoguide of
            a diffusion model. None is the model's own.

    Raises:
        UsageError: unknown names, sources that do not fit together, an option that the run does not have.
    """
    if (run is None) == (fake is None) or (fake is None) != (real is None):
        raise UsageError("Name a RUN, or --fake and --real.")
    asked = list(dict.fromkeys(metrics or DEFAULT))
    check(asked)
    if n is not None and n < 1:
        raise UsageError(f"The number of pictures must be at least 1, not {n}.")
    chosen = backbone or ("inception" if any(name in INCEPTION for name in asked) else "small")
    if run is not None:
        if size is not None:
            raise UsageError("A run has its own size; --size is for --fake and --real.")
        model = load(run, device)
        options = complete(model, options)
        samples = "sample" in verbs_of(model) and not set(asked) <= set(UNDRAWN)
        n = (n or (NUMBER_FID if set(asked) & set(INCEPTION[:2]) else NUMBER)) if samples else 0
        sets = _sets_of_run(model, str(_path(run)), n, data, seed, progress, options)
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
    verbs = verbs_of(sets.model)
    stacked = sets.of_reference["data"].startswith("stacked-mnist")
    return {
        "modes": "sample" in verbs and len(sets.classes) > 1 and not stacked,
        "stacked-modes": "sample" in verbs and stacked,
        "nll": "elbo" in verbs or "log_prob" in verbs,
        "reconstruction": "encode" in verbs and "decode" in verbs,
    }.get(metric, "sample" in verbs)


def _sets_of_run(
    model: Model, run: str, n: int, spec: str | None, seed: int, progress: Progress | None, options: dict[str, Any]
) -> Sets:
    own = data_of(model)
    real = own if spec is None else data_of(model, spec)
    labels, texts = _labels(knows_classes(model, options), own, n), _texts(model, own, n)
    condition: dict[str, Any] = {
        "label": None if labels is None else [own.classes[label] for label in labels],
        "text": texts,
    }
    drawn = _draw(model, n, seed, condition, options, progress)
    of_fake = {
        "run": run,
        "model": model.config,
        "checkpoint": model.checkpoint,
        "weights_sha256": _weights(model),
        "n": n,
        "seeds": [seed, seed + n - 1] if n else None,
        "sampling": _sampling(model, options),
        "labels": "as the training data has them" if labels is not None else None,
        "texts": "as the training data has them" if texts is not None else None,
        "size": own.spec.square or list(own.spec.shape),
    }
    of_reference = {"data": real.source, "split": "train", "fingerprint": real.fingerprint, "n": len(real.train)}
    of_reference |= {
        "size": real.spec.square or list(real.spec.shape),
        "channels": real.spec.channels,
        "trained_on": spec is not None and _trained_on(own, real),
    }
    given = np.full(n, -1, np.int64) if labels is None else _renumbered(labels, own.classes, real.classes)
    fake = Split({"x": drawn, "label": given}, [str(seed + i) for i in range(n)], spec_of(model))
    learned = None if real is own else (own.train, own.held_out)
    return Sets(
        fake, real.train, real.train, real.held_out, real.classes, of_fake, of_reference, model, learned=learned
    )


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
    if not isinstance(value, Whole):
        return value
    other = value.value
    return {"model": other.config, "checkpoint": other.checkpoint, "weights_sha256": _weights(other)}


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


def leave_behind(found: Scores, sets: Sets, folder: Path) -> None:
    """scores.json, scores.png (generated beside real, and the bars of what was measured), closest.png.

    Scores of other metrics that an earlier evaluation left in scores.json stay: each has its own passport.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", _merged(folder / "scores.json", found.summary()))
    if not found.scores:
        return
    _sheet(found, sets, folder / "scores.png")
    if "pairs" in found.pictures:
        pairs = found.pictures["pairs"].pairs
        fakes = sets.fake["x"][[pair.fake for pair in pairs]]
        originals = sets.learned_train["x"][[pair.train for pair in pairs]]
        montage.save(folder / "closest.png", beside([to_float(np.array(side)) for side in (fakes, originals)]))


def _merged(path: Path, new: dict[str, Any]) -> dict[str, Any]:
    try:
        old = read_json(path)
        met = {one["metric"] for kind in ("scores", "refused") for one in new[kind]}
        return {kind: [one for one in old[kind] if one["metric"] not in met] + new[kind] for kind in new}
    except (OSError, ValueError, KeyError, TypeError):
        return new  # none yet, or no whole one


def _sheet(found: Scores, sets: Sets, path: Path) -> None:
    aside = ("copying-share", "copying-z", "classes-covered")
    shown = [s for s in found.scores if s.floor is not None and "[" not in s.metric and s.metric not in aside]
    with plots.figure(path, 10, 3 + 0.3 * len(shown)) as figure:
        plan = figure.add_gridspec(2, 2, height_ratios=[2.7, max(0.5, 0.3 * len(shown))])
        sides = (("generated", sets.fake["x"]), ("real", sets.reference["x"]))
        for column, (title, images) in enumerate(sides):
            if not len(images):
                continue
            rows = np.linspace(0, len(images) - 1, min(_SHOWN, len(images))).astype(int)
            axes = figure.add_subplot(plan[0, column])
            spec = sets.reference.spec
            sheet = medium_of(spec).sheet(np.array(images[rows]), spec, columns=8)
            axes.imshow(sheet.repeat(3 // sheet.shape[-1], -1))
            axes.set_title(f"{title} ({len(images):,})")
            axes.axis("off")
        if shown:
            _bars(figure.add_subplot(plan[1, :]), shown)


def _bars(axes: Any, shown: list[Score]) -> None:
    """A line a score: its interval, and where real pictures would stand; each scaled by the larger of the two."""
    for row, score in enumerate(shown):
        floor = score.floor or 0.0
        scale = max(abs(score.value), abs(floor), 1e-12)
        if score.low is not None and score.high is not None:
            ends = [min(max(end / scale, -0.03), 1.15) for end in (score.low, score.high)]
            axes.plot(ends, [row, row], color="tab:blue", linewidth=3)
        value, real = (max(number / scale, 0) for number in (score.value, floor))  # unbiased distances may be below 0
        axes.plot(value, row, "o", color="tab:blue", label="" if row else "generated, 95 %")
        axes.plot(real, row, "|", color="black", markersize=16, label="" if row else "real pictures")
        told = f"{score.value:.4g}  (real {floor:.4g}; {score.passport['better']} is better)"
        axes.text(1.22, row, told, va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [score.metric for score in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(-0.05, 1.9)
    axes.set_xticks([])
    axes.legend(loc="lower center", bbox_to_anchor=(0.3, 1.0), ncols=2, fontsize=8, frameon=False)
