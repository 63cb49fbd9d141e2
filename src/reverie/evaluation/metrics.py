"""Every metric by its name: generated images against real ones, each score with floor and passport, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reverie.core.errors import UsageError, argument, suggest
from reverie.evaluation.base import Evaluation
from reverie.evaluation.diversity import copies, mode_coverage, stacked_modes
from reverie.evaluation.fidelity import Metric, frechet, frechet_infinity, inception_score, kernel, prdc
from reverie.evaluation.held_out import lpips, nll, reconstruction, sharpness, translation
from reverie.evaluation.passport import Refusal, Refused, Scores
from reverie.evaluation.tokens import token_usage

FEW = 200  # images that the score of a class needs on each side

METRICS: dict[str, tuple[str, Callable[[str], Metric]]] = {
    # name: description, and the metric for a backbone
    "fid": ("Frechet distance of Inception features", lambda _: frechet("inception")),
    "fid-infinity": ("FID at infinitely many images", lambda _: frechet_infinity("inception")),
    "kid": ("kernel distance of Inception features, unbiased", lambda _: kernel("inception")),
    "frechet": ("Frechet distance of the backbone's features", frechet),
    "frechet-infinity": ("the same at infinitely many images", frechet_infinity),
    "kernel": ("kernel distance of the backbone's features, unbiased", kernel),
    "prdc": ("precision, recall, density, coverage of the backbone's features", prdc),
    "is": ("Inception Score by MobileNetV2's ImageNet classes", lambda _: inception_score("mobilenetv2")),
    "is-inception": (
        "Inception Score by Inception's classes (official weights)",
        lambda _: inception_score("inception"),
    ),
    "is-probe": ("Inception Score by a linear probe of the data's classes", lambda _: inception_score("probe")),
    "modes": ("generated classes, and their shares", lambda _: mode_coverage),
    "stacked-modes": ("generated digit triples of Stacked MNIST, of 1,000", lambda _: stacked_modes),
    "memorisation": ("nearest training images, against held-out controls", lambda _: copies),
    "nll": ("likelihood of held-out images: nats, bits per dimension", lambda _: nll),
    "reconstruction": ("MSE, PSNR and SSIM (of images) of held-out samples' reconstructions", lambda _: reconstruction),
    "translation": ("L1, PSNR and SSIM of translated held-out images, if the data has pairs", lambda _: translation),
    "lpips": ("perceptual distance of held-out images' reconstructions, or of translations", lambda _: lpips),
    "token-usage": ("share of the codes that held-out images use, and the perplexity", lambda _: token_usage),
    "sharpness": ("sharpness of held-out images' reconstructions, or of translations", lambda _: sharpness),
}
UNSAMPLED = ("nll", "reconstruction", "lpips", "sharpness", "token-usage")  # they need no generated images
PER_CLASS = ("fid", "fid-infinity", "kid", "frechet", "frechet-infinity", "kernel", "prdc")


def check(metrics: Sequence[str], likelihoods: Sequence[str] = ()) -> None:
    """Raise a UsageError that lists the metrics, and the run's likelihoods, unless all of these are metrics."""
    able = list(dict.fromkeys([*METRICS, *likelihoods]))
    for name in metrics:
        if not isinstance(name, str) or name not in METRICS:
            raise UsageError(f"There is no metric {name!r}.{suggest(name, able)} Known: {', '.join(able)}.")


def measure(evaluation: Evaluation, metrics: Sequence[str], per_class: bool = False) -> Scores:
    """Compute the metrics; one whose protocol is not met is in ``refused``."""
    check(metrics)
    scores = Scores(remarks=evaluation.remarks, images=evaluation.images)
    for name in metrics:
        _compute(evaluation, name, scores)
    if per_class:
        for name in metrics:
            if name in PER_CLASS:
                _compute_by_class(evaluation, name, scores)
    return scores


def _compute(evaluation: Evaluation, name: str, scores: Scores, suffix: str = "") -> None:
    try:
        if not len(evaluation.sets.fake) and name not in (*UNSAMPLED, "translation"):
            raise Refused("The model cannot be sampled.", f"Use {' or '.join(UNSAMPLED)}.")
        if evaluation.sets.file:
            evaluation.sets.file.check(name)
        for score in METRICS[name][1](evaluation.default_backbone)(evaluation):
            metric = score.metric + suffix
            scores.scores.append(replace(score, metric=metric, passport=score.passport | {"metric": metric}))
    except Refused as error:
        scores.refused.append(Refusal(error.metric or name + suffix, error.reason, error.instead))


def _compute_by_class(evaluation: Evaluation, name: str, scores: Scores) -> None:
    sets = evaluation.sets
    if sets.file:
        reason = f"{sets.file.name} is of all classes together."
        scores.refused.append(Refusal(f"{name} per class", reason, "Compare with images that have labels."))
        return
    if not sets.classes or (sets.fake.labels < 0).all():
        reason = f"The {'generated' if sets.classes else 'real'} images have no labels."
        scores.refused.append(Refusal(f"{name} per class", reason, "Use modes, which classifies the images."))
        return
    for index, label in enumerate(sets.classes):
        fake, real = (int((side.labels == index).sum()) for side in (sets.fake, sets.reference))
        if min(fake, real) < FEW:
            reason = f"There are {fake} generated and {real} real images of this class; {FEW} are needed."
            more = argument("n", len(sets.classes) * 2 * FEW)
            scores.refused.append(Refusal(f"{name}[{label}]", reason, f"Sample more ({more}), or score all classes."))
        else:
            _compute(evaluation.of_class(index), name, scores, f"[{label}]")
