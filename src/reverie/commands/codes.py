"""Verbs that put codes to work: maps and files of codes, classifiers with few labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, load, note, out, report, table, target
from reverie.core.errors import Stopped, UsageError, argument

RunNames = Positional[Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]")]]


def codes(
    runs: RunNames,
    /,
    with_: Annotated[Literal["pca"] | None, arg(name="with")] = None,
    data: str | None = None,
    number: Annotated[int, arg(aliases=["-n"])] = 2000,
    split: Literal["held-out", "train"] = "held-out",
    neighbours: Annotated[int, arg(aliases=["-k"])] = 10,
    space: str | None = None,
    out_: Annotated[str | None, arg(name="out")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Codes of the same images by several models: maps side by side, coloured by class, and how they part the classes.

    Scores, each with its 95 % interval: accuracy of k nearest neighbours in the full code and in the map, accuracy of a
    linear probe, and the scatter between classes over that within. All are fitted to codes of training images and
    tested on those of held-out images. No encoder gets the labels.

    Examples: reverie codes runs/vae-fashion runs/autoencoder-fashion --with pca; reverie codes runs/vae-fashion --split
    train -n 9000 --out codes.parquet.

    Args:
        runs: run directories of models that encode, or checkpoints inside them.
        with_: pca: also principal components of the pixels, as many as the first run's code has numbers.
        data: other data than that of the runs, in their form.
        number: how many images are shown or exported.
        split: whose images these are.
        neighbours: how many of the nearest training images vote for a class.
        space: latent space of the codes, such as noise (of diffusion, found by inversion); by default the first of each
            run.
        out_: the maps (.png, .pdf ...), or codes with labels and references to the images: .npz, .csv, .parquet (the
            parquet extra); by default the first free of codes.png, codes-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print {"out", "number", "dimensions", "scores", "notes", "weights"}.
    """
    from reverie.codes.comparison import COLUMNS
    from reverie.codes.comparison import codes as compare
    from reverie.codes.export import EXPORTS, check_export
    from reverie.media.plots import check_plot

    path = target(out_, "codes.png", overwrite, (*EXPORTS, ".pdf", ".svg"), others=(*runs, data))
    if path.suffix.lower() not in EXPORTS:
        check_plot(path)
    check_export(path)
    models = _loaded(runs)
    with bar(True) as progress:
        result = compare(models, data, number, with_ == "pca", split, neighbours, space, progress)
    result.save(path)
    if json:
        weights = [model.loaded_from for model in models]
        report(True, {"out": str(path), **result.summary(), "weights": weights})
        return
    table(COLUMNS, result.table(), right=COLUMNS[1:])
    out(*result.notes, f"Codes in {path}")


def pretrain(
    runs: RunNames,
    /,
    labels: str = "10,100,1000",
    seeds: int = 5,
    seed: int = 0,
    steps: int | None = None,
    data: str | None = None,
    space: str | None = None,
    out_: Annotated[str | None, arg(name="out")] = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Classify with few labels: does it help to begin with the encoder of a run?

    The classifier is the encoder and one linear layer, trained in three ways on the same labelled images: all weights
    from those of the run (pretrained), the linear layer alone (frozen), all weights from random ones (random). Each is
    tested on held-out images; nothing is chosen by its accuracy.

    Example: reverie pretrain runs/vae-fashion runs/denoising-autoencoder-fashion --labels 10,100,1000.

    Args:
        runs: run directories of models with an encoder, or checkpoints inside them.
        labels: numbers of labelled training images, with commas between: of each class equally many.
        seeds: how often each is repeated, with other labelled images and initial weights; at least 2.
        seed: the first of the seeds.
        steps: of training; by default those of ten epochs in batches of 100, at least 50.
        data: other data than that of the runs, in their form.
        space: latent space of the codes; by default the first of each run.
        out_: the plot (.png, .pdf ...): accuracy over the number of labels, with 95 % intervals; by default the first
            free of pretrain.png, pretrain-2.png ...
        overwrite: replace a file that reverie did not write.
        json: print {"out", "accuracies", "notes", "weights"}.
    """
    from reverie.codes.accuracies import COLUMNS
    from reverie.codes.pretraining import pretrain as measure
    from reverie.media.plots import check_plot

    path = target(out_, "pretrain.png", overwrite, (".pdf", ".svg"), others=(*runs, data))
    check_plot(path)
    models, numbers, stop = _loaded(runs), _numbers(labels), None
    try:
        with bar(True) as progress:
            result: Any = measure(models, numbers, seeds, seed, data, steps, space, progress)
    except Stopped as error:
        result, stop = error.result, error
    result.save(path)
    if stop:
        note(f"Stopped: as of {result.origin['stopped']}.")
    if json:
        weights = [model.loaded_from for model in models]
        report(True, {"out": str(path), **result.summary(), "weights": weights})
    else:
        table(COLUMNS, result.table(), right=COLUMNS[2:])
        out(*result.notes, f"Plot in {path}")
    if stop:
        raise stop


def _loaded(runs: tuple[str, ...]) -> list[Any]:
    if not runs:
        raise UsageError("Name at least one run whose model encodes images.")
    return [load(run) for run in runs]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(
            f"{argument('labels')} takes whole numbers with commas between, such as 10,100,1000, not {text!r}."
        ) from None
