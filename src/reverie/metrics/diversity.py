"""Whether all kinds of picture are drawn, and whether they are the generator's own: modes and memorisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reverie.metrics import memorisation, modes
from reverie.metrics.bench import PAIRS, Bench
from reverie.metrics.estimate import Estimate, shuffled
from reverie.metrics.passport import Refused, Score

DUE = 10  # pictures a class below which absence is chance
LEAST = 50  # held-out pictures that controls and probes need


def fitted_probe(bench: Bench) -> tuple[modes.Probe, dict[str, Any]]:
    """A linear classifier of the data's own classes, and how good it is on held-out pictures."""
    train, held, name = bench.sets.train, bench.sets.held_out, bench.chosen
    known = torch.from_numpy(np.array(train.labels))
    if len(bench.sets.classes) < 2 or not bool((known >= 0).all()):
        raise Refused("The real pictures carry no labels.", "Ask for kernel and prdc, or give folders named by class.")
    if len(held) < LEAST:
        raise Refused("There are too few held-out pictures to test a classifier on.", "Ask for kernel and prdc.")
    rows = shuffled(len(train), bench.seed)[:PAIRS].sort().values
    probe = modes.Probe.fit(bench.seen("train", name)[rows], known[rows], len(bench.sets.classes))
    right = probe.accuracy(bench.seen("held_out", name).whole(), torch.from_numpy(np.array(held.labels)))
    return probe, {"probe": f"linear, on {name}'s features of {len(rows)} pictures", "probe_accuracy": right}


def mode_coverage(bench: Bench) -> Iterator[Score]:
    """Which of the data's classes are drawn, and how far the shares are from the data's."""
    classes, name = bench.sets.classes, bench.chosen
    if len(bench.sets.fake) < DUE * len(classes):
        raise Refused(
            f"{len(bench.sets.fake)} pictures of {len(classes)} classes: one that is rightly drawn may well be absent.",
            f"Draw at least {DUE * len(classes)} (-n).",
        )
    probe, facts = fitted_probe(bench)
    guessed = probe.predict(bench.seen("fake", name).whole())
    real = probe.predict(bench.seen("held_out", name).whole())
    order = shuffled(len(bench.sets.train), bench.seed + 1)[: len(guessed)].sort().values
    found = modes.mode_coverage(guessed, real, len(classes))
    floor = modes.mode_coverage(probe.predict(bench.seen("train", name)[order]), real, len(classes))
    missing = [classes[i] for i in found.missing]
    shares = {"fake": (found.fake / len(guessed)).tolist(), "real": (found.data / len(real)).tolist()}
    facts |= {"classes": classes, "shares": shares, "missing": missing, "p": found.p.tolist()}
    facts |= {"floor": f"{len(order)} training pictures in the generated ones' place", "against": "held-out pictures"}
    bench.remarks.append(f"Missing classes: {', '.join(missing)}." if missing else "No class is missing.")
    facts["interval"] = "none"
    covered = float(len(classes) - len(missing))
    yield bench.score("classes-covered", _point(covered), float(len(classes)), "higher", name, **facts)
    facts["unit"] = "nats of KL(generated || real)"
    yield bench.score("class-kl", _point(found.kl), floor.kl, "lower", name, **facts)


def _point(value: float) -> Estimate:
    """A number without an interval."""
    return Estimate(value, float("nan"), float("nan"))


def stacked_modes(bench: Bench) -> Iterator[Score]:
    """How many of Stacked MNIST's 1,000 digit triples are drawn (Metz et al., arXiv:1611.02163)."""
    from reverie.metrics.digits import classifier, read

    fake, real = bench.sets.fake["x"], bench.sets.reference["x"]
    if not bench.sets.of_reference["data"].startswith("stacked-mnist"):
        raise Refused("The data is not stacked-mnist.", "Train on --data stacked-mnist; elsewhere ask for modes.")
    if len(fake) < 1000 * DUE:
        raise Refused(
            f"{len(fake)} pictures are too few to meet 1,000 modes: real ones do not meet them all either.",
            "Draw 25,600 (-n 25600), the number of the published counts.",
        )
    net, accuracy = classifier(bench.progress)
    count, kl = modes.stacked_modes(read(net, fake))
    rows = shuffled(len(real), bench.seed)[: len(fake)].sort().values.numpy()
    floor, floor_kl = modes.stacked_modes(read(net, real[rows]))
    facts: dict[str, Any] = {"classifier": "a convolutional network trained on mnist", "digit_accuracy": accuracy}
    facts |= {"floor": f"{len(rows)} real pictures", "of": 1000}
    yield bench.score("stacked-modes", _point(float(count)), float(floor), "higher", **facts)
    yield bench.score("stacked-kl", _point(kl), floor_kl, "lower", **facts)


def copies(bench: Bench) -> Iterator[Score]:
    """Evidence of memorisation: nearest training pictures of the generated and of held-out ones."""
    sets, name = bench.sets, bench.chosen
    unseen = len(sets.learned_held_out)
    if unseen < LEAST:
        raise Refused(
            f"Copies are told from closeness by real pictures that were held out; there are {unseen}.",
            f"Give data with at least {LEAST} held-out pictures.",
        )
    if sets.fake.spec.channels != sets.learned_train.spec.channels:
        raise Refused("One side is grey, the other in colour.", "Compare pictures of one kind.")
    train, held, fake = (bench.seen(side, name).whole() for side in ("learned_train", "learned_held_out", "fake"))
    found = memorisation.memorisation(train, held, fake, progress=bench.progress)
    bench.remarks.append(found.evidence[0].upper() + found.evidence[1:] + ".")
    bench.pictures["pairs"] = found
    test = found.test
    facts: dict[str, Any] = {"evidence": found.evidence, "training": len(train), "exact_copies": found.exact}
    controls = f"{len(held)} held-out pictures"
    authentic = found.control_authenticity.value
    yield bench.score("authenticity", found.authenticity, authentic, "higher", name, **facts, floor=controls)
    facts |= {"floor": f"expected if generated pictures were like {controls}"}
    yield bench.score("copying-share", test.share, test.expected, "lower", name, **facts, p=test.tail_p)
    facts |= {
        "interval": "none",
        "unit": "standard deviations; negative: nearer to training pictures than unseen ones are",
    }
    yield bench.score("copying-z", _point(test.z), 0.0, "higher", name, **facts, p=test.p)
