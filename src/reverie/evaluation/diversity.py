"""Mode coverage and memorisation: are all classes generated, and are the samples copies of training images?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reverie.core.errors import argument
from reverie.evaluation import memorisation, modes
from reverie.evaluation.base import PAIRS, Evaluation
from reverie.evaluation.estimate import Estimate, shuffled
from reverie.evaluation.passport import Refused, Score

DUE = 10  # images per class below which a class may be missing by chance
LEAST = 50  # held-out images that controls and probes need


def fitted_probe(evaluation: Evaluation) -> tuple[modes.Probe, dict[str, Any]]:
    """A linear classifier of the data's classes, and its passport entries with the accuracy on held-out images."""
    train, held_out, name = evaluation.sets.train, evaluation.sets.held_out, evaluation.default_backbone
    labels = torch.from_numpy(np.array(train.labels))
    if len(evaluation.sets.classes) < 2 or not bool((labels >= 0).all()):
        raise Refused("The real images have no labels.", "Use kernel and prdc, or folders named by class.")
    if len(held_out) < LEAST:
        raise Refused("There are too few held-out images to test a classifier on.", "Use kernel and prdc.")
    rows = shuffled(len(train), evaluation.seed)[:PAIRS].sort().values
    probe = modes.Probe.fit(evaluation.features_of("train", name)[rows], labels[rows], len(evaluation.sets.classes))
    truth = torch.from_numpy(np.array(held_out.labels))
    accuracy = probe.accuracy(evaluation.features_of("held_out", name).tensor(), truth)
    return probe, {"probe": f"linear, on {name}'s features of {len(rows)} images", "probe_accuracy": accuracy}


def mode_coverage(evaluation: Evaluation) -> Iterator[Score]:
    """Which of the data's classes are generated, and the KL divergence of their shares from the data's."""
    classes, name = evaluation.sets.classes, evaluation.default_backbone
    if len(evaluation.sets.fake) < DUE * len(classes):
        raise Refused(
            f"{len(evaluation.sets.fake)} images of {len(classes)} classes: a class may be missing by chance.",
            f"Sample at least {DUE * len(classes)} ({argument('n', DUE * len(classes))}).",
        )
    probe, entries = fitted_probe(evaluation)
    fake = probe.predict(evaluation.features_of("fake", name).tensor())
    real = probe.predict(evaluation.features_of("held_out", name).tensor())
    order = shuffled(len(evaluation.sets.train), evaluation.seed + 1)[: len(fake)].sort().values
    coverage = modes.mode_coverage(fake, real, len(classes))
    floor = modes.mode_coverage(probe.predict(evaluation.features_of("train", name)[order]), real, len(classes))
    missing = [classes[i] for i in coverage.missing]
    shares = {"fake": (coverage.fake / len(fake)).tolist(), "real": (coverage.data / len(real)).tolist()}
    entries |= {"classes": classes, "shares": shares, "missing": missing, "p": coverage.p.tolist()}
    entries |= {"floor": f"{len(order)} training images in place of the generated ones", "against": "held-out images"}
    evaluation.remarks.append(f"Missing classes: {', '.join(missing)}." if missing else "No class is missing.")
    entries["interval"] = "none"
    covered = 1 - len(missing) / len(classes)
    yield evaluation.score("class-coverage", _point(covered), 1.0, "higher", name, **entries)
    entries["unit"] = "nats of KL(generated || real)"
    yield evaluation.score("class-kl", _point(coverage.kl), floor.kl, "lower", name, **entries)


def _point(value: float) -> Estimate:
    """A value without an interval."""
    return Estimate(value, float("nan"), float("nan"))


def stacked_modes(evaluation: Evaluation) -> Iterator[Score]:
    """How many of Stacked MNIST's 1,000 digit triples are generated (Metz et al., arXiv:1611.02163)."""
    from reverie.evaluation.digits import classifier, predict_digits

    fake, real = evaluation.sets.fake["x"], evaluation.sets.reference["x"]
    if not evaluation.sets.of_reference["data"].startswith("stacked-mnist"):
        raise Refused("The data is not stacked-mnist.", f"Train on {argument('data', 'stacked-mnist')}, or use modes.")
    if len(fake) < 1000 * DUE:
        raise Refused(
            f"{len(fake)} images are too few for 1,000 modes: as many real ones do not cover them all either.",
            f"Sample 25,600 as published counts do: {argument('n', 25600)}.",
        )
    net, accuracy = classifier(evaluation.progress)
    count, kl = modes.stacked_modes(predict_digits(net, fake))
    rows = shuffled(len(real), evaluation.seed)[: len(fake)].sort().values.numpy()
    floor, floor_kl = modes.stacked_modes(predict_digits(net, real[rows]))
    entries: dict[str, Any] = {"classifier": "a convolutional network trained on mnist", "digit_accuracy": accuracy}
    entries |= {"floor": f"{len(rows)} real images", "of": 1000}
    yield evaluation.score("stacked-modes", _point(float(count)), float(floor), "higher", **entries)
    yield evaluation.score("stacked-kl", _point(kl), floor_kl, "lower", **entries)


def copies(evaluation: Evaluation) -> Iterator[Score]:
    """Evidence of memorisation: distances of generated and of held-out images to their nearest training images."""
    sets, name = evaluation.sets, evaluation.default_backbone
    unseen = len(sets.learned_held_out)
    if unseen < LEAST:
        raise Refused(
            f"Memorisation is tested against held-out images, and there are only {unseen}.",
            f"Use data with at least {LEAST} held-out images.",
        )
    if sets.fake.spec.channels != sets.learned_train.spec.channels:
        raise Refused("One side is grey, the other in colour.", "Compare images with the same channels.")
    sides = ("learned_train", "learned_held_out", "fake")
    train, held_out, fake = (evaluation.features_of(side, name).tensor() for side in sides)
    result = memorisation.memorisation(train, held_out, fake, progress=evaluation.progress)
    evaluation.remarks.append(result.evidence[0].upper() + result.evidence[1:] + ".")
    evaluation.images["pairs"] = result.pairs
    test = result.test
    entries: dict[str, Any] = {"evidence": result.evidence, "training": len(train), "exact_copies": result.exact}
    controls = f"{len(held_out)} held-out images"
    floor = result.control_authenticity.value
    yield evaluation.score("authenticity", result.authenticity, floor, "higher", name, **entries, floor=controls)
    entries |= {"floor": f"expected if generated images were like {controls}"}
    yield evaluation.score("copying-share", test.share, test.expected, "lower", name, **entries, p=test.tail_p)
    entries |= {"interval": "none", "unit": "standard deviations; negative: closer to training images than unseen ones"}
    yield evaluation.score("copying-z", _point(test.z), 0.0, "higher", name, **entries, p=test.p)
