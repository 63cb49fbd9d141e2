"""How like real pictures generated ones are, as sets: Frechet and kernel distances, precision and its kin, IS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reverie.metrics import distances
from reverie.metrics.bench import PAIRS, Bench
from reverie.metrics.diversity import fitted_probe
from reverie.metrics.estimate import shuffled
from reverie.metrics.features import BACKBONES
from reverie.metrics.passport import Refused, Score
from reverie.metrics.statistics import Moments

NEIGHBOURS = 5
LEAST = 50  # pictures a side below which no distance is worth a number

Metric = Callable[[Bench], Iterator[Score]]


def _alike(bench: Bench) -> None:
    """Refuse a comparison of grey pictures with coloured ones, and of next to nothing with anything."""
    fake, real = bench.sets.fake["x"], bench.sets.reference["x"]
    if fake.shape[-1] != real.shape[-1]:
        raise Refused(
            f"One side is grey, the other in colour ({fake.shape[-1]} and {real.shape[-1]} channels).",
            "Compare pictures of one kind: any distance would be that of colour from grey.",
        )
    if min(len(fake), len(real)) < LEAST:
        raise Refused(
            f"There are {len(fake)} generated and {len(real)} real pictures; a distance needs {LEAST} on each side.",
            "Draw more with -n, or give more.",
        )


def _name(bench: Bench, kind: str, eye: str) -> str:
    """The published names are Inception's alone; another resize than the network's own is part of the name."""
    known = {"frechet": "fid", "frechet-infinity": "fid-infinity", "kernel": "kid"}
    name = known[kind] if eye == "inception" and kind in known else f"{kind}-{eye}"
    return name if bench.resize in (None, BACKBONES[eye].resize) else f"{name}-{bench.resize}"


def _full_rank(bench: Bench, eye: str, what: str) -> None:
    dimension = BACKBONES[eye].dimension  # nothing is fetched for a number that cannot be
    for n, side, more in (
        (len(bench.sets.fake), "generated", f"draw more (-n {5000 if dimension > 1000 else 10 * dimension})"),
        (len(bench.sets.reference), "reference", "give a larger reference"),
    ):
        if n <= dimension:
            raise Refused(
                f"{n} {side} pictures are too few for {what}: a covariance of {dimension} features has full rank "
                f"only from {dimension + 1} pictures on, and below that the number tells of their count.",
                f"Ask for {_name(bench, 'kernel', eye)}, which is unbiased at any number; or {more} and ask for "
                f"{_name(bench, 'frechet-infinity', eye)}, which takes the bias of their number away.",
            )


def _notes(bench: Bench, eye: str) -> dict[str, Any]:
    if eye in ("inception", "mobilenetv2", "dinov2") and bench.sets.fake.spec.channels == 1:
        return {"note": f"grey pictures in three equal channels, of which {eye} saw none: not for comparing elsewhere"}
    return {}


def frechet(eye: str) -> Metric:
    """The Frechet distance: FID where the backbone is Inception."""

    def measure(bench: Bench) -> Iterator[Score]:
        _alike(bench)
        metric = _name(bench, "frechet", eye)
        _full_rank(bench, eye, metric.upper() if metric == "fid" else metric)
        fake, moments = bench.seen("fake", eye), bench.seen("reference", eye).moments
        real, others, how = _floor_sides(bench, eye, len(fake))
        floor = None if real is None else distances.frechet_distance(Moments.of(real), others)
        found = distances.frechet_estimate(fake.whole(), moments)
        told = f"95 %, over generated pictures drawn again, at n = {len(fake)} (the bias of n is in the floor too)"
        yield bench.score(metric, found, floor, "lower", eye, floor=how, interval=told, **_notes(bench, eye))

    return measure


def frechet_infinity(eye: str) -> Metric:
    """The Frechet distance extrapolated to infinitely many generated pictures."""

    def measure(bench: Bench) -> Iterator[Score]:
        _alike(bench)
        metric = _name(bench, "frechet-infinity", eye)
        _full_rank(bench, eye, metric)
        fake, moments = bench.seen("fake", eye), bench.seen("reference", eye).moments
        real, others, how = _floor_sides(bench, eye, len(fake))
        floor = None if real is None else distances.frechet_infinity(real, others, seed=bench.seed).value
        found = distances.frechet_infinity(fake.whole(), moments, seed=bench.seed, progress=bench.progress)
        yield bench.score(metric, found, floor, "lower", eye, floor=how, **_notes(bench, eye))

    return measure


def _floor_sides(bench: Bench, eye: str, n: int) -> tuple[Tensor | None, Moments, str]:
    """Features of real pictures in the place of ``n`` generated ones (None: too few), and the others' moments."""
    real, reference, rest, how = bench.stand_in(eye, n)
    if len(real) <= BACKBONES[eye].dimension:
        return None, reference.moments, f"none: only {how}"
    return real, reference.moments if rest is None else reference.moments - Moments.of(real), how


def kernel(eye: str) -> Metric:
    """The kernel distance, unbiased: KID where the backbone is Inception."""

    def measure(bench: Bench) -> Iterator[Score]:
        _alike(bench)
        fake, real = bench.some("fake", eye), bench.some("reference", eye)
        found = distances.kernel_distance(fake, real, seed=bench.seed)
        stand_in, reference, rest, how = bench.stand_in(eye, len(fake))
        others = real if rest is None else reference[rest[shuffled(len(rest), bench.seed)[:PAIRS]]]
        floor = distances.kernel_distance(stand_in, others, seed=bench.seed)
        yield bench.score(
            _name(bench, "kernel", eye),
            found,
            floor.value,
            "lower",
            eye,
            floor=how,
            interval="95 %, jackknife over 20 groups of both sides",
            pictures_compared=[len(fake), len(real)],
            **_notes(bench, eye),
        )

    return measure


def prdc(eye: str) -> Metric:
    """Precision, recall, density and coverage, at equal numbers."""

    def measure(bench: Bench) -> Iterator[Score]:
        _alike(bench)
        n = min(len(bench.sets.fake), len(bench.sets.reference), PAIRS)
        fake, real = bench.some("fake", eye, n), bench.some("reference", eye, n)
        found = distances.precision_recall_density_coverage(real, fake, NEIGHBOURS)
        stand_in, reference, rest, how = bench.stand_in(eye, n)
        m = len(stand_in)
        others = real[:m] if rest is None else reference[rest[shuffled(len(rest), bench.seed)[:m]]]
        floors = distances.precision_recall_density_coverage(others, stand_in, NEIGHBOURS)
        for metric, estimate in found.items():
            facts: dict[str, Any] = {
                "neighbours": NEIGHBOURS,
                "pictures_compared": [n, n],
                "floor": f"{how}, {m} a side",
            }
            name = _name(bench, metric, eye)
            yield bench.score(name, estimate, floors[metric].value, "higher", eye, **facts, **_notes(bench, eye))

    return measure


def inception_score(classifier: str) -> Metric:
    """exp E KL(p(y|x) || p(y)), named by its classifier."""

    def measure(bench: Bench) -> Iterator[Score]:
        fake, real = bench.sets.fake["x"], bench.sets.reference["x"]
        n = min(len(fake), len(real), PAIRS)
        if classifier == "probe":
            probe, facts = fitted_probe(bench)
            name = bench.chosen
            given = [probe.probabilities(bench.some(side, name, n)) for side in ("fake", "reference")]
        else:
            if fake.shape[-1] == 1:
                raise Refused(
                    f"The pictures are grey, and {classifier} knows the classes of coloured photographs only.",
                    "Where the data has labels ask for is-probe, else for kernel and prdc.",
                )
            name, facts = classifier, {}
            logits = _logits(bench, name)
            rows = [shuffled(len(side), bench.seed)[:n].sort().values.numpy() for side in (fake, real)]
            given = [_probabilities(bench, name, s[r], logits) for s, r in zip((fake, real), rows, strict=True)]
        found, floor = map(distances.inception_score, given)
        facts |= {"classifier": classifier, "floor": f"{n} pictures of the reference"}
        yield bench.score(f"is-{classifier}", found, floor.value, "higher", name, **facts)

    return measure


def _logits(bench: Bench, name: str) -> Callable[[Tensor], Tensor]:
    """Inputs of a network to its class logits."""
    from reverie import weights

    net: Any = bench.eye(name).net
    if name != "inception":
        return net.logits
    last = weights.load("inception-logits", bench.progress)["weight"].to(bench.eye(name).device)
    return lambda x: net(x) @ last.T  # the published score leaves the bias out


def _probabilities(bench: Bench, name: str, images: np.ndarray, run: Callable[[Tensor], Tensor]) -> Tensor:
    eye, found = bench.eye(name), []
    for low in range(0, len(images), 32):
        found.append(eye(images[low : low + 32], run).double().softmax(1))
        if bench.progress:
            bench.progress(min(low + 32, len(images)), len(images), f"{name}: class probabilities")
    return torch.cat(found)
