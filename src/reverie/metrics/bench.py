"""One evaluation at work: what is compared with what, and the features of it that were computed so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie
from reverie.core.verbs import Model
from reverie.data.types import Split
from reverie.home import Progress
from reverie.media import medium_of
from reverie.metrics.estimate import Estimate, shuffled
from reverie.metrics.features import Backbone, Features, backbone, features
from reverie.metrics.passport import Refused, Score

PAIRS = 10_000  # pictures a side in scores that look at every pair


@dataclass
class Sets:
    """What is compared with what.

    Attributes:
        fake: the generated pictures.
        reference: the real pictures that they are compared with.
        train, held_out: the two splits of the real pictures.
        classes: names of the labels.
        of_fake, of_reference: what passports say of the two.
        model: the generator, where it is at hand (likelihood and reconstructions need it).
        apart: whether the held-out pictures are no part of the reference.
        truth: uint8 (N, H, W, C), what each generated image should be, where that is known (translations of pairs).
        learned: the two splits that the generator learned from, where they are others than ``train`` and ``held_out``.
    """

    fake: Split
    reference: Split
    train: Split
    held_out: Split
    classes: list[str]
    of_fake: dict[str, Any]
    of_reference: dict[str, Any]
    model: Model = None
    apart: bool = True
    learned: tuple[Split, Split] | None = None
    truth: np.ndarray | None = None

    @property
    def learned_train(self) -> Split:
        """What the generator may have copied."""
        return self.learned[0] if self.learned else self.train

    @property
    def learned_held_out(self) -> Split:
        """Pictures of the same kind that it has not seen."""
        return self.learned[1] if self.learned else self.held_out


@dataclass
class Bench:
    """One evaluation: the sets, and the features of them that were computed so far."""

    sets: Sets
    chosen: str = "small"
    resize: str | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    progress: Progress | None = None
    slow: bool = True  # whether to compute what takes minutes, such as a likelihood by integration
    remarks: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    _eyes: dict[str, Backbone] = field(default_factory=dict)
    _seen: dict[tuple[str, str], Features] = field(default_factory=dict)

    def eye(self, name: str) -> Backbone:
        """A backbone, opened once."""
        if name not in self._eyes:
            self._eyes[name] = backbone(name, self.resize, self.precision, self.device, self.progress)
        return self._eyes[name]

    def seen(self, which: str, name: str) -> Features:
        """Features of the pictures that are this attribute of the sets; only real ones' are kept on the disk."""
        split: Split = getattr(self.sets, which)
        same = ("reference", "train", "held_out", which)  # one set may be there by two names
        which = next(other for other in same if getattr(self.sets, other) is split)
        if (which, name) not in self._seen:
            said = f"{name}: {which.replace('_', '-')} pictures"
            self._seen[which, name] = features(
                images_of(split)[0], self.eye(name), which != "fake", self.progress, said
            )
        return self._seen[which, name]

    def some(self, which: str, name: str, most: int = PAIRS) -> Tensor:
        """Features (n, D) of at most so many pictures, chosen at random."""
        found = self.seen(which, name)
        return found[shuffled(len(found), self.seed)[:most].sort().values]

    def stand_in(self, name: str, n: int) -> tuple[Tensor, Features, Tensor | None, str]:
        """Real pictures in the place of ``n`` generated ones.

        Returns:
            their features, the reference, its rows that are left (None: all), and how they were chosen.
        """
        reference, held = self.seen("reference", name), self.sets.held_out
        halved = min(n, len(reference) // 2)
        if self.sets.apart and len(held) >= halved:
            rows = shuffled(len(held), self.seed)[: min(n, len(held))].sort().values
            said = f"{len(rows)} held-out pictures{'' if len(rows) == n else f', for want of {n}'}"
            return self.seen("held_out", name)[rows], reference, None, said
        order = shuffled(len(reference), self.seed)
        mine, rest = order[:halved].sort().values, order[halved:].sort().values
        said = f"{halved} pictures of the reference{'' if halved == n else f', for want of {n},'} against the others"
        return reference[mine], reference, rest, said

    def score(
        self, metric: str, found: Estimate, floor: float | None, better: str, eye: str | None = None, /, **facts: Any
    ) -> Score:
        """A score with its passport."""
        passport: dict[str, Any] = {
            "metric": metric,
            "better": better,
            "fake": self.sets.of_fake,
            "reference": self.sets.of_reference,
            "backbone": self.eye(eye).facts if eye else None,
            "interval": "95 %, over generated pictures drawn again",
            "floor": None,
            "seed": self.seed,
            "reverie": reverie.__version__,
            "torch": torch.__version__,
        }
        if eye and self.sets.reference.spec.medium != "image":
            passport["images"] = images_of(self.sets.reference)[1]
        passport |= facts
        low, high = (None if np.isnan(end) else float(end) for end in (found.low, found.high))
        return Score(metric, float(found.value), low, high, None if floor is None else float(floor), passport)

    def of_class(self, index: int) -> Bench:
        """The same evaluation among the pictures of one class; features computed so far are not computed again."""
        sets = self.sets
        rows = {name: np.flatnonzero(getattr(sets, name).labels == index) for name in ("fake", "reference", "held_out")}
        parts: dict[str, Any] = {name: getattr(sets, name).take(where) for name, where in rows.items()}
        told = {"class": sets.classes[index]}
        inner = replace(
            sets,
            **parts,
            train=parts["reference"],
            learned=None,
            truth=None,
            of_fake=sets.of_fake | told | {"n": len(rows["fake"])},
            of_reference=sets.of_reference | told | {"n": len(rows["reference"])},
        )
        seen = {
            (name, eye): Features([found[torch.from_numpy(rows[name])].numpy()])
            for (name, eye), found in self._seen.items()
            if name in rows and len(rows[name])
        }
        return replace(self, sets=inner, _seen=seen)


def images_of(split: Split) -> tuple[np.ndarray, str]:
    """uint8 (N, H, W, 1 or 3), one for each sample, and what they are: "images", or "central slices" of volumes.

    Raises:
        Refused: no image stands for each sample of this medium.
    """
    images = medium_of(split.spec).as_images(split["x"], split.spec)
    if images is None or len(images[0]) != len(split):
        raise Refused(
            f"Networks of images look at images, and no image stands for a {split.spec.medium}.",
            "Ask for nll or reconstruction, where the model has them.",
        )
    return images
