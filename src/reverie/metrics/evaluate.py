"""Every score by its name: generated pictures against real ones, each number with floor and passport, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from reverie.core.errors import UsageError, suggest
from reverie.metrics.bench import Bench
from reverie.metrics.diversity import copies, mode_coverage, stacked_modes
from reverie.metrics.likeness import Metric, frechet, frechet_infinity, inception_score, kernel, prdc
from reverie.metrics.passport import Refusal, Refused, Scores
from reverie.metrics.unseen import lpips, nll, rebuilt, translation

FEW = 200  # pictures a class below which a class gets no score of its own

METRICS: dict[str, tuple[str, Callable[[str], Metric]]] = {
    # name: what it says, and what makes it for a backbone
    "fid": ("Frechet distance of Inception features", lambda _: frechet("inception")),
    "fid-infinity": ("FID at infinitely many pictures", lambda _: frechet_infinity("inception")),
    "kid": ("kernel distance of Inception features, unbiased", lambda _: kernel("inception")),
    "frechet": ("Frechet distance by --backbone", frechet),
    "frechet-infinity": ("the same at infinitely many pictures", frechet_infinity),
    "kernel": ("kernel distance by --backbone, unbiased", kernel),
    "prdc": ("precision, recall, density, coverage by --backbone", prdc),
    "is": ("Inception Score by MobileNetV2's ImageNet classes", lambda _: inception_score("mobilenetv2")),
    "is-inception": (
        "Inception Score by Inception's own classes (official weights)",
        lambda _: inception_score("inception"),
    ),
    "is-probe": ("Inception Score by a probe of the data's own classes", lambda _: inception_score("probe")),
    "modes": ("classes of the data that are drawn, and their shares", lambda _: mode_coverage),
    "stacked-modes": ("digit triples of Stacked MNIST that are drawn, of 1,000", lambda _: stacked_modes),
    "memorisation": ("nearest training pictures, against held-out controls", lambda _: copies),
    "nll": ("likelihood of held-out pictures: nats, bits per dimension", lambda _: nll),
    "reconstruction": ("MSE, PSNR and SSIM (of images) of held-out samples' reconstructions", lambda _: rebuilt),
    "translation": (
        "L1, PSNR and SSIM of translated held-out pictures, where the data has pairs",
        lambda _: translation,
    ),
    "lpips": ("perceptual distance of held-out pictures' reconstructions, or of translations", lambda _: lpips),
}
UNDRAWN = ("nll", "reconstruction", "lpips")  # they need no generated pictures
PER_CLASS = ("fid", "fid-infinity", "kid", "frechet", "frechet-infinity", "kernel", "prdc")


def check(metrics: Sequence[str]) -> None:
    """Raise a UsageError that names what there is, unless all of these are metrics."""
    for name in metrics:
        if not isinstance(name, str) or name not in METRICS:
            raise UsageError(f"There is no metric {name!r}.{suggest(name, list(METRICS))} Known: {', '.join(METRICS)}.")


def measure(bench: Bench, metrics: Sequence[str], per_class: bool = False) -> Scores:
    """Every metric in turn; what its protocol forbids is among ``refused``."""
    check(metrics)
    found = Scores(remarks=bench.remarks, pictures=bench.pictures)
    for name in metrics:
        _ask(bench, name, name, found)
    if per_class:
        for name in metrics:
            if name in PER_CLASS:
                _by_class(bench, name, found)
    return found


def _ask(bench: Bench, name: str, said: str, found: Scores, suffix: str = "") -> None:
    try:
        if not len(bench.sets.fake) and name not in (*UNDRAWN, "translation"):
            raise Refused("The model does not draw pictures.", f"Ask for {' or '.join(UNDRAWN)}.")
        for score in METRICS[name][1](bench.chosen)(bench):
            metric = score.metric + suffix
            found.scores.append(replace(score, metric=metric, passport=score.passport | {"metric": metric}))
    except Refused as error:
        found.refused.append(Refusal(error.metric or said, error.reason, error.instead))


def _by_class(bench: Bench, name: str, found: Scores) -> None:
    sets = bench.sets
    if not sets.classes or (sets.fake.labels < 0).all():
        reason = "The generated pictures carry no labels." if sets.classes else "The real pictures carry no labels."
        found.refused.append(Refusal(f"{name} per class", reason, "Ask for modes, which guesses their classes."))
        return
    for index, label in enumerate(sets.classes):
        said = f"{name}[{label}]"
        fake, real = (int((side.labels == index).sum()) for side in (sets.fake, sets.reference))
        if min(fake, real) < FEW:
            reason = f"There are {fake} generated and {real} real pictures of this class; {FEW} are needed."
            instead = f"Draw more (-n {len(sets.classes) * 2 * FEW}), or ask for all classes together."
            found.refused.append(Refusal(said, reason, instead))
        else:
            _ask(bench.of_class(index), name, said, found, f"[{label}]")
