"""Verbs that compare images by their codes: anomalies, retrieval, compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import ImageNames, RunName, bar, load, note, out, report, table, target
from reverie.core.errors import UsageError
from reverie.core.terminal import count

if TYPE_CHECKING:
    from reverie.codes.anomalies import Anomalies
    from reverie.codes.detector import Score

RunNames = Positional[Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]")]]


def anomalies(
    run: RunName,
    images: Positional[Annotated[tuple[str, ...], arg(metavar="[DATA|IMAGE ...]")]] = (),
    /,
    normal: Annotated[str | None, arg(metavar="DATA")] = None,
    score: Literal["reconstruction", "peak", "likelihood", "latent"] | None = None,
    false_alarms: float | None = None,
    number: Annotated[int, arg(aliases=["-n"])] = 16,
    seed: int = 0,
    keep: bool = True,
    out_: Annotated[str | None, arg(name="out")] = None,
    data: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Score images as anomalies: a data set with ROC and precision-recall curves, or images one by one.

    Of a data set all images are compared with normal ones, the run's held-out images, as if all were anomalies. That
    also calibrates a threshold for each score, which RUN/anomalies.json keeps; single images are then judged by it.
    Without DATA and IMAGE: calibrate only.

    Below each image are its reconstruction and a map of its error; the brightest colour is an error that only a share
    --false-alarms of normal images has anywhere.

    Examples: reverie anomalies runs/vae-fashion mnist; reverie anomalies runs/vae-fashion a.png b.png.

    Args:
        run: a run directory of a model that encodes or has a likelihood, or a checkpoint inside one.
        images: a data set (a folder, a name ...), or image files, held-out:N or train:N.
        normal: data whose images are the normal ones; by default the run's held-out images.
        score: reconstruction (mean squared error), peak (the largest smoothed error anywhere), likelihood (-log p(x) or
            its bound, in nats), latent (Mahalanobis distance of the code from the training codes); by default the first
            that the model has.
        false_alarms: share of normal images above the threshold; by default 0.05, or that of anomalies.json.
        number: how many of a data set's images are drawn, the most anomalous first.
        seed: of the random numbers of a likelihood bound, the same for every image.
        keep: write RUN/anomalies.json.
        out_: the image to write (.png ...), or X.npz for names, scores and verdicts; by default the first free of
            anomalies.png, anomalies-2.png ...
        data: where the run's data is now, if it has moved.
        overwrite: replace a file that reverie did not write.
        json: print {"out", "score", "thresholds", "false_alarms", "normal", "number", "anomalies", "detection",
            "images", "weights"}; of the images at most 1,000.
    """
    from reverie.codes.anomalies import anomalies as scored
    from reverie.codes.detection import interval_text

    path, model = target(out_, "anomalies.png", overwrite, others=images) if images else None, load(run, data)
    source: Any = None if not images else images[0] if len(images) == 1 else list(images)
    with bar(True) as progress:
        result = scored(model, source, normal, score, false_alarms, number, seed, keep, progress)
    if path:
        result.save(path)
    if json:
        report(True, {"out": path and str(path), **result.summary(), "weights": model.loaded_from})
        return
    if path is None:
        out(*(f"{name}: {_threshold(result, name)}" for name in result.calibration.thresholds))
        return
    if result.detection:
        cells = [[name, *map(interval_text, row.values())] for name, row in result.detection.items()]
        share = len(result) / (len(result) + result.calibration.normal["rows"])
        columns = ("score", "AUC (chance: 0.5)", f"average precision (chance: {share:.3f})")
        table(columns, cells, right=columns[1:])
        if any("no interval" in cell for row in cells for cell in row):
            note("No interval: all scores are equal, or a side has a single image.")
    elif len(result) <= 64:
        verdicts = zip(result.names, result.scores[result.score], result.verdicts, strict=True)
        cells = [[name, f"{value:.4g}", "anomaly" if is_anomaly else "normal"] for name, value, is_anomaly in verdicts]
        table(("image", result.score, "verdict"), cells, right=(result.score,))
    level = _threshold(result, result.score)
    out(f"{int(result.verdicts.sum()):,} of {len(result):,} images are anomalies by {result.score} ({level}); {path}")


def _threshold(result: Anomalies, score: Score) -> str:
    """A threshold, how many normal images are above it (where they were scored now), and the rate that it is for."""
    value, normal = result.calibration.thresholds[score], result.calibration.normal
    images = f"{count(normal['rows'], 'normal image')} of {normal['data']}"
    above = f"{(result.normal[score] > value).sum():,} of {images} above it" if result.normal else f"by {images}"
    return f"threshold {value:.4g}: {above}, for a rate of false alarms of {result.calibration.false_alarms:.3g}"


def search(
    run: RunName,
    images: ImageNames = (),
    /,
    data: str | None = None,
    number: Annotated[int, arg(aliases=["-n"])] = 8,
    metric: Literal["euclidean", "cosine"] | None = None,
    bits: int | None = None,
    hash: Literal["itq", "median"] | None = None,
    exact: bool = False,
    recall: bool = False,
    index: Annotated[str | None, arg(metavar="FILE")] = None,
    seed: int = 0,
    out_: Annotated[str | None, arg(name="out")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """The images of a data set whose codes are nearest to those of some images: a row each, with distances and classes.

    With --bits the codes are hashed: a few bytes an image, compared by the number of different bits, and recall and
    precision are measured. The codes of a data set are computed once and kept in an index, in the cache folder or in
    --index FILE.

    Examples: reverie search runs/vae-fashion held-out:3; reverie search RUN a.png --data photos/ --bits 16.

    Args:
        run: a run directory of a model that encodes, or a checkpoint inside one.
        images: image files, held-out:N, train:N, a class ("Sneaker") or other references.
        data: where to search, such as a folder; by default the run's data, training and held-out images.
        number: how many neighbours.
        metric: euclidean (by default) or cosine; binary codes have Hamming distances.
        bits: hash the codes to so many bits, at most as many as a code has numbers.
        hash: itq (rotated principal components, by default) or median (principal components against their medians).
        exact: compare all codes also where they are more than 100,000; else these need the search extra.
        recall: measure recall of the exact neighbours and precision of classes, over 200 held-out images.
        index: file of the index (.npz).
        seed: of the rotation of itq.
        out_: the image to write (.png ...), or X.npz for distances, rows, names and labels; by default the first free
            of neighbours.png, neighbours-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print {"out", "metric", "codes", "dimensions", "bits", "exact", "recall", "precision", "results",
            "weights"}.
    """
    from reverie.codes.index import check_index
    from reverie.codes.retrieval import search as nearest

    if not images:
        raise UsageError("Name the images to search for: files, held-out:3, or a class of the run's data.")
    path = target(out_, "neighbours.png", overwrite, others=(*images, index))
    if index is not None:
        check_index(index)
        target(index, "", True, (".npz",), "index", others=(*images, path))
    model = load(run)
    with bar(True) as progress:
        result = nearest(model, list(images), data, number, metric, bits, hash, exact, recall, index, seed, progress)
    result.save(path)
    if json:
        columns = (result.names, result.rows.tolist(), result.distances.tolist(), result.labels.tolist())
        results = [
            [{"name": a, "row": b, "distance": c, "label": d} for a, b, c, d in zip(*row, strict=True)]
            for row in zip(*columns, strict=True)
        ]
        report(True, {"out": str(path), **result.report, "results": results, "weights": model.loaded_from})
        return
    numbers = result.report
    coded = count(numbers["bits"], "bit") if numbers["bits"] else count(numbers["dimensions"], "number")
    measured = {"recall": f"recall@{number}", "precision": f"precision@{number}", "precision-exact": "without hashing"}
    for name, label in measured.items():
        if name in numbers and (name != "precision-exact" or numbers["precision"] != numbers[name]):
            entry = numbers[name]
            interval = f"[{entry['low']:.3f}, {entry['high']:.3f}]"
            out(f"{label} {entry['value']:.3f} {interval} over {count(numbers['queries'], 'image')}")
    many = f"{count(number, 'neighbour')} of {count(len(images), 'image')}"
    out(f"{many} among {numbers['codes']:,} codes of {coded} by {numbers['metric']} distance, in {path}")


def rates(
    runs: RunNames,
    /,
    data: str | None = None,
    number: Annotated[int, arg(aliases=["-n"])] = 1024,
    out_: Annotated[str | None, arg(name="out")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Compression by the codes of models beside JPEG and WebP: bits per pixel against PSNR and SSIM, as a plot.

    Codes are quantised at several steps; their rate is the ideal code length under histograms of training codes. Files
    of small images are mostly header, so they are counted as they are, without headers, and as one file of all images.

    Example: reverie rates runs/autoencoder-fashion runs/vae-fashion.

    Args:
        runs: run directories of models that encode and decode images, or checkpoints inside them.
        data: other data than that of the runs; histograms are of its training images.
        number: how many held-out images.
        out_: the plot to write (.png, .pdf ...), or X.npz for its points; by default the first free of rates.png,
            rates-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print {"out", "number", "points", "weights"}.
    """
    from pathlib import Path

    from reverie.codes.compression import rates as measure
    from reverie.media.plots import check_plot

    if not runs:
        raise UsageError("Name at least one run whose model encodes and decodes images.")
    path = target(out_, "rates.png", overwrite, (".npz", ".pdf", ".svg"), others=runs)
    if path.suffix.lower() != ".npz":
        check_plot(Path(path))
    models = [load(run) for run in runs]
    with bar(True) as progress:
        result = measure(models, data, number, progress=progress)
    result.save(path)
    if json:
        weights = [model.loaded_from for model in models]
        report(True, {"out": str(path), **result.summary(), "weights": weights})
        return
    if result.number < number:
        note(f"There are {result.number:,} held-out images, not {number:,}.")
    names = ("codec", "counted", "setting", "bits/pixel", "PSNR", "SSIM")
    cells = [
        [p.codec, p.counted, f"{p.setting:g}", *(f"{value:.3f}" for value in (p.bits_per_pixel, p.psnr, p.ssim))]
        for p in result.points
    ]
    table(names, cells, right=names[2:])
    out(f"Rates of {result.number:,} held-out images in {path}")
