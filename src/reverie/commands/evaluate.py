"""The verb that measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from reverie.commands.shared import bar, dump, name_weights, note, out, table, target
from reverie.core.files import first_free

if TYPE_CHECKING:
    from reverie.evaluation.passport import Scores

Number = Annotated[int | None, arg(aliases=["-n"])]


@dataclass(frozen=True)
class EvaluateFlags:
    """What is scored, and how.

    Attributes:
        run: a run directory, or a checkpoint inside one.
        metrics: names with commas between; by default all that apply and need no download.
        number: how many samples, or held-out images to translate; 2000, or 5000 where fid is asked for. Of --fake:
            at most so many. Where no metric needs samples (nll, reconstruction ...): at most so many held-out images,
            by default all.
        data: real images other than the run's own.
        fake: generated images of any source (a folder, FILE.npz, ...), instead of a run.
        real: what to compare them with.
        reference: statistics of real images instead (mu and sigma, as pytorch-fid, clean-fid, torch-fidelity and ADM
            save them, or --save-stats): for fid and frechet.
        save_stats: write the statistics of the real images there, as .npz that those programs read; --real alone is
            enough for it.
        backbone: the network of the features; by default inception where fid, fid-infinity or kid is requested, and
            for images unlike those that small was trained on (clothes, emoji) once its weights are here; else small.
        resize: how images are brought to its size; by default its own way (for fid that of the original).
        precision: auto is bf16 where the hardware multiplies it and the network's distances bear it.
        device: auto, cpu, cuda, mps.
        seed: the first image's seed.
        per_class: distances also class by class.
        size: side in pixels at which --fake and --real are compared; by default that of --fake.
        out: folder for scores.json, scores.png and closest.png; by default RUN/evaluation, or without RUN the first
            free of evaluation, evaluation-2 ...
        overwrite: replace files of these names that reverie did not write.
        json: print {"scores": [...], "refused": [...], "weights"}.
    """

    run: Positional[Annotated[str | None, arg(metavar="[RUN]")]] = None
    metrics: str | None = None
    number: Number = None
    data: str | None = None
    fake: str | None = None
    real: str | None = None
    reference: str | None = None
    save_stats: str | None = None
    backbone: Literal["small", "inception", "mobilenetv2", "dinov2"] | None = None
    resize: Literal["tf1-bilinear", "bilinear", "bilinear-antialias", "bicubic-antialias"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    seed: int = 0
    per_class: bool = False
    size: str | None = None
    out: str | None = None
    overwrite: bool = False
    json: bool = False


def evaluate(arguments: list[str]) -> None:
    """Scores of a run's samples or translations, or of two sets of images; each with its interval, floor and passport.

    Metrics: fid, fid-infinity, kid (Inception features, fetched once: see reverie weights); frechet, frechet-infinity,
    kernel, prdc (by --backbone); is, is-inception, is-probe; modes, stacked-modes; memorisation; nll, reconstruction,
    translation, lpips, sharpness, token-usage. A number whose protocol is not met is refused, with the reason and what
    to ask for instead.

    The floor is the same number for real images in the place of the generated ones: no generator should beat it by
    much, and one that does may be copying. A run's own flags say how it samples; they stand in the passport.

    Examples: reverie evaluate runs/vae-fashion; reverie evaluate runs/vae-fashion --metrics fid,kid -n 10000;
    reverie evaluate --fake samples/ --real photos/ --metrics kid,prdc; reverie evaluate RUN --reference stats.npz.
    """
    from reverie.commands.flags import run_flags

    flags, options = run_flags(EvaluateFlags, "evaluate", arguments, evaluate.__doc__ or "")
    from reverie.core import distributed
    from reverie.evaluation.run import evaluate as measure

    metrics = [name.strip() for name in flags.metrics.split(",") if name.strip()] if flags.metrics else None
    folder = _folder(flags)
    chosen = {name: getattr(flags, name) for name in _PASSED}
    with distributed.group(), bar(distributed.rank() == 0) as progress:
        scores = measure(flags.run, metrics, n=flags.number, out=folder, progress=progress, **chosen, **options)
        if distributed.rank():
            return
    if scores.weights:
        name_weights(scores.weights)
    if flags.json:
        dump(scores.summary() | {"weights": scores.weights})
        return
    _table(scores)
    for line in scores.notes:
        out(line)
    if scores.folder and scores.scores:
        look = f"look at {scores.folder}/scores.png; " if scores.scores[0].passport["fake"].get("n") else ""
        note(f"Next: {look}every number's passport is in {scores.folder}/scores.json.")


def _folder(flags: EvaluateFlags) -> str | None:
    """The folder of the results, without files of others in the place of ours; None is the run's own."""
    inputs = (flags.fake, flags.real, flags.data, flags.reference)
    if flags.save_stats:
        from reverie.evaluation.sources import check_statistics_path

        check_statistics_path(Path(flags.save_stats))
        target(flags.save_stats, "", flags.overwrite, flag="save-stats", verb="evaluate", others=inputs)
    if not flags.run and not flags.fake:
        return None
    if flags.out is None and not flags.run:
        return str(first_free(Path("evaluation")))
    from reverie.training.run import locate

    folder = Path(flags.out) if flags.out else locate(flags.run or "")[0] / "evaluation"
    for name in ("scores.json", "scores.png", "closest.png"):
        target(str(folder / name), "", flags.overwrite, (".json",))
    return flags.out


_PASSED = (
    *("data", "fake", "real", "reference", "save_stats", "backbone", "resize"),
    *("precision", "device", "seed", "per_class", "size"),
)


def _table(scores: Scores) -> None:
    from reverie.evaluation.passport import COLUMNS
    from reverie.media import medium_of

    if not scores.scores:
        return
    table(COLUMNS, scores.rows(), right=COLUMNS[1:4])
    first = scores.scores[0].passport
    fake, real = first["fake"], first["reference"]
    medium = medium_of(real["medium"])
    images = f"{medium.noun} of {fake['data']}" if "data" in fake else f"generated {medium.noun}"
    if "statistics" in real:
        count, file = "an unknown number of" if real["n"] is None else f"{real['n']:,}", real["statistics"]
        out(f"{fake['n']:,} {images} against {file['file']} ({file['format']}), of {count} real ones.")
        if all(score.floor is None for score in scores.scores):
            out("No score of real images: it needs their images, and the reference is a file of statistics.")
        return
    size = real["size"] if isinstance(real["size"], int) else "x".join(map(str, real["size"]))
    reference = f"{real['n']:,} of {real['data']} ({real['split']}), {size} {medium.unit}"
    if fake.get("n"):
        out(f"{fake['n']:,} {images} against {reference}.")
    else:
        out(f"Held-out {medium.noun} of {real['data']}, {size} {medium.unit}; no samples were needed.")
