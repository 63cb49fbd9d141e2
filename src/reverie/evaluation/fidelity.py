"""Fidelity of generated to real images as sets: Frechet and kernel distances, precision and recall, Inception Score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.core.errors import argument
from reverie.evaluation import distances
from reverie.evaluation.base import PAIRS, Evaluation
from reverie.evaluation.diversity import fitted_probe
from reverie.evaluation.estimate import shuffled
from reverie.evaluation.features import BACKBONES
from reverie.evaluation.passport import Refused, Score
from reverie.evaluation.statistics import Gaussian, Moments

NEIGHBOURS = 5
LEAST = 50  # images a side that a distance needs

Metric = Callable[[Evaluation], Iterator[Score]]


def _check_comparable(evaluation: Evaluation, backbone: str, moments: bool = False) -> None:
    """Refuse to compare grey with colour, features of two networks, or too few images.

    Args:
        moments: a mean and a covariance are enough, such as those in a file.
    """
    fake, real, file = evaluation.sets.fake["x"], evaluation.sets.reference["x"], evaluation.sets.file
    in_file = file is not None and bool(file.features or (moments and file.gaussian))
    if file and in_file:
        file.check_backbone(backbone, evaluation.resize)
    count = file.n if file and in_file else len(real)
    if fake.shape[-1] != real.shape[-1] and not in_file:
        raise Refused(
            f"One side is grey, the other in colour ({fake.shape[-1]} and {real.shape[-1]} channels).",
            "Compare images with the same channels: any distance would be that of colour from grey.",
        )
    if min(len(fake), LEAST if count is None else count) < LEAST:
        real_images = "" if count is None else f" and {count} real"
        more = f" ({argument('n', LEAST)})" * (evaluation.sets.model is not None)
        raise Refused(
            f"There are {len(fake)} generated{real_images} images; a distance needs {LEAST} on each side.",
            f"Add images, or sample more{more}.",
        )


def _name(evaluation: Evaluation, kind: str, backbone: str) -> str:
    """The metric's name: published names for Inception only; a resize other than the network's default is appended."""
    published = {"frechet": "fid", "frechet-infinity": "fid-infinity", "kernel": "kid"}
    name = published[kind] if backbone == "inception" and kind in published else f"{kind}-{backbone}"
    return name if evaluation.resize in (None, BACKBONES[backbone].resize) else f"{name}-{evaluation.resize}"


def _full_rank(evaluation: Evaluation, backbone: str, what: str) -> None:
    dimension, file = BACKBONES[backbone].dimension, evaluation.sets.file  # checked before any weights are fetched
    enough = 5000 if dimension > 1000 else 10 * dimension
    sample = "add images" if evaluation.sets.model is None else f"sample more ({argument('n', enough)})"
    for n, side, more in (
        (len(evaluation.sets.fake), "generated", sample),
        (file.n if file else len(evaluation.sets.reference), "reference", "use a larger reference"),
    ):
        if n is not None and n <= dimension:
            raise Refused(
                f"{n} {side} images are too few for {what}: a covariance of {dimension} features has full rank only "
                f"from {dimension + 1} images on, and below that the value depends on their number.",
                f"Use {_name(evaluation, 'kernel', backbone)}, which is unbiased at any number; or {more} and use "
                f"{_name(evaluation, 'frechet-infinity', backbone)}, which removes the bias.",
            )


def _notes(evaluation: Evaluation, backbone: str) -> dict[str, Any]:
    if backbone in ("inception", "mobilenetv2", "dinov2") and evaluation.sets.fake.spec.channels == 1:
        return {"note": f"grey images as three equal channels, unlike {backbone}'s training data: not for comparison"}
    return {}


def frechet(backbone: str) -> Metric:
    """The Frechet distance: FID where the backbone is Inception."""

    def measure(evaluation: Evaluation) -> Iterator[Score]:
        _check_comparable(evaluation, backbone, moments=True)
        metric = _name(evaluation, "frechet", backbone)
        _full_rank(evaluation, backbone, metric.upper() if metric == "fid" else metric)
        moments, fake = evaluation.reference_moments(backbone), evaluation.features_of("fake", backbone)
        real, others, origin = _floor_sides(evaluation, backbone, len(fake))
        floor = None if real is None else distances.frechet_distance(Moments.of(real), others)
        estimate = distances.frechet_estimate(fake.tensor(), moments)
        interval = f"95 %, over resampling of the generated images, at n = {len(fake)} (the floor has its bias too)"
        entries = {"floor": origin, "interval": interval} | _notes(evaluation, backbone)
        yield evaluation.score(metric, estimate, floor, "lower", backbone, **entries)

    return measure


def frechet_infinity(backbone: str) -> Metric:
    """The Frechet distance extrapolated to infinitely many generated images."""

    def measure(evaluation: Evaluation) -> Iterator[Score]:
        _check_comparable(evaluation, backbone, moments=True)
        metric = _name(evaluation, "frechet-infinity", backbone)
        _full_rank(evaluation, backbone, metric)
        moments, fake = evaluation.reference_moments(backbone), evaluation.features_of("fake", backbone)
        real, others, origin = _floor_sides(evaluation, backbone, len(fake))
        seed, progress = evaluation.seed, evaluation.progress
        floor = None if real is None else distances.frechet_infinity(real, others, seed=seed).value
        estimate = distances.frechet_infinity(fake.tensor(), moments, seed=seed, progress=progress)
        yield evaluation.score(metric, estimate, floor, "lower", backbone, floor=origin, **_notes(evaluation, backbone))

    return measure


def _floor_sides(evaluation: Evaluation, backbone: str, n: int) -> tuple[Tensor | None, Moments | Gaussian, str]:
    """Features of real images in place of ``n`` generated ones (None: too few), and the others' moments."""
    if evaluation.sets.file and evaluation.sets.file.gaussian:
        return _floor_of_file(evaluation, backbone, n)
    real, reference, rest, origin = evaluation.stand_in(backbone, n)
    if len(real) <= BACKBONES[backbone].dimension:
        return None, reference.moments, f"none: only {origin}"
    return real, reference.moments if rest is None else reference.moments - Moments.of(real), origin


def _floor_of_file(evaluation: Evaluation, backbone: str, n: int) -> tuple[Tensor | None, Moments | Gaussian, str]:
    """Features of held-out images of the run's data, and the mean and covariance in the reference's file."""
    held_out, moments = evaluation.sets.held_out, evaluation.reference_moments(backbone)
    count = min(n, len(held_out))
    origin = f"{count} held-out images of the run's data{'' if count == n else f' (fewer than {n})'}"
    if count <= BACKBONES[backbone].dimension:
        return None, moments, f"none: only {origin}" if count else "none: there are no other real images"
    rows = shuffled(len(held_out), evaluation.seed)[:count].sort().values
    return evaluation.features_of("held_out", backbone)[rows], moments, origin


def kernel(backbone: str) -> Metric:
    """The kernel distance, unbiased: KID where the backbone is Inception."""

    def measure(evaluation: Evaluation) -> Iterator[Score]:
        _check_comparable(evaluation, backbone)
        real, fake = evaluation.subsample("reference", backbone), evaluation.subsample("fake", backbone)
        estimate = distances.kernel_distance(fake, real, seed=evaluation.seed)
        stand_in, reference, rest, origin = evaluation.stand_in(backbone, len(fake))
        others = real if rest is None else reference[rest[shuffled(len(rest), evaluation.seed)[:PAIRS]]]
        floor = distances.kernel_distance(stand_in, others, seed=evaluation.seed)
        yield evaluation.score(
            _name(evaluation, "kernel", backbone),
            estimate,
            floor.value,
            "lower",
            backbone,
            floor=origin,
            interval="95 %, jackknife over 20 groups of both sides",
            images_compared=[len(fake), len(real)],
            **_notes(evaluation, backbone),
        )

    return measure


def prdc(backbone: str) -> Metric:
    """Precision, recall, density and coverage, with as many generated as real images."""

    def measure(evaluation: Evaluation) -> Iterator[Score]:
        _check_comparable(evaluation, backbone)
        n = min(len(evaluation.sets.fake), PAIRS)
        real = evaluation.subsample("reference", backbone, n, copies=False)  # a ball to the k-th copy would be empty
        n = len(real)
        fake = evaluation.subsample("fake", backbone, n)
        estimates = distances.precision_recall_density_coverage(real, fake, NEIGHBOURS)
        stand_in, reference, rest, origin = evaluation.stand_in(backbone, n)
        m = len(stand_in)
        others = real[:m] if rest is None else reference[rest[shuffled(len(rest), evaluation.seed)[:m]]]
        floors = distances.precision_recall_density_coverage(others, stand_in, NEIGHBOURS)
        for metric, estimate in estimates.items():
            entries: dict[str, Any] = {"neighbours": NEIGHBOURS, "images_compared": [n, n]}
            entries |= {"floor": f"{origin}, {m} a side"}
            name = _name(evaluation, metric, backbone)
            yield evaluation.score(
                name, estimate, floors[metric].value, "higher", backbone, **entries, **_notes(evaluation, backbone)
            )

    return measure


def inception_score(classifier: str) -> Metric:
    """The Inception Score exp E KL(p(y|x) || p(y)) of a classifier."""

    def measure(evaluation: Evaluation) -> Iterator[Score]:
        fake, real = evaluation.sets.fake["x"], evaluation.sets.reference["x"]
        n = min(len(fake), len(real), PAIRS)
        if classifier == "probe":
            probe, entries = fitted_probe(evaluation)
            name = evaluation.default_backbone
            probabilities = [probe.probabilities(evaluation.subsample(side, name, n)) for side in ("fake", "reference")]
        else:
            if fake.shape[-1] == 1:
                raise Refused(
                    f"The images are grey, and {classifier} classifies colour photographs.",
                    "Use is-probe where the data has labels, else kernel and prdc.",
                )
            name, entries = classifier, {}
            logits = _logits(evaluation, name)
            rows = [shuffled(len(side), evaluation.seed)[:n].sort().values.numpy() for side in (fake, real)]
            sides = zip((fake, real), rows, strict=True)
            probabilities = [_probabilities(evaluation, name, side[index], logits) for side, index in sides]
        estimate, floor = map(distances.inception_score, probabilities)
        entries |= {"classifier": classifier, "floor": f"{n} images of the reference"}
        yield evaluation.score(f"is-{classifier}", estimate, floor.value, "higher", name, **entries)

    return measure


def _logits(evaluation: Evaluation, name: str) -> Callable[[Tensor], Tensor]:
    """The function from a network's inputs to its class logits."""
    from reverie.pretrained import weights

    net: Any = evaluation.backbone(name).net
    if name != "inception":
        return net.logits
    last = weights.load("inception-logits", evaluation.progress)["weight"].to(evaluation.backbone(name).device)
    return lambda x: net(x) @ last.T  # the published score omits the bias


def _probabilities(evaluation: Evaluation, name: str, images: np.ndarray, run: Callable[[Tensor], Tensor]) -> Tensor:
    net, parts = evaluation.backbone(name), []
    for low in range(0, len(images), 32):
        parts.append(net(images[low : low + 32], run).double().softmax(1))
        if evaluation.progress:
            evaluation.progress(min(low + 32, len(images)), len(images), f"{name}: class probabilities")
    return torch.cat(parts)
