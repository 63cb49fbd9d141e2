"""One evaluation: the sets that it compares, and the features computed so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reverie
from reverie.core.cache import Progress
from reverie.core.verbs import Model
from reverie.data.split import hash_rows
from reverie.data.types import Split
from reverie.evaluation.estimate import Estimate, shuffled
from reverie.evaluation.features import Backbone, Features, backbone, features
from reverie.evaluation.passport import Refused, Score
from reverie.evaluation.reference_file import ReferenceFile
from reverie.evaluation.statistics import Gaussian, Moments
from reverie.media import medium_of
from reverie.media.alpha import WHITE, is_rgba

PAIRS = 10_000  # images a side in scores over all pairs


@dataclass
class Sets:
    """The sets that an evaluation compares.

    Attributes:
        fake: the generated images.
        reference: the real images that they are compared with.
        train, held_out: the two splits of the real images.
        classes: names of the labels.
        of_fake, of_reference: their entries in passports.
        model: the generator, if there is one (likelihood and reconstructions need it).
        disjoint: whether no held-out image is in the reference.
        background: RGB behind transparent pixels, for networks that see no transparency.
        truth: uint8 (N, H, W, C), the ground truth of each generated image (translations of pairs).
        file: statistics in place of the reference, which then has only the images that the file holds, if any.
        learned: the two splits that the generator was trained on, if not ``train`` and ``held_out``.
    """

    fake: Split
    reference: Split
    train: Split
    held_out: Split
    classes: list[str]
    of_fake: dict[str, Any]
    of_reference: dict[str, Any]
    model: Model = None
    disjoint: bool = True
    learned: tuple[Split, Split] | None = None
    truth: np.ndarray | None = None
    file: ReferenceFile | None = None
    background: Sequence[int] = WHITE

    @property
    def learned_train(self) -> Split:
        """The images that the generator may have copied."""
        return self.learned[0] if self.learned else self.train

    @property
    def learned_held_out(self) -> Split:
        """Images of the same distribution that it was not trained on."""
        return self.learned[1] if self.learned else self.held_out


@dataclass
class Evaluation:
    """One evaluation: the sets, its settings, and the features computed so far."""

    sets: Sets
    default_backbone: str = "small"
    resize: str | None = None
    precision: str = "auto"
    device: str = "auto"
    seed: int = 0
    progress: Progress | None = None
    slow: bool = True  # also what takes minutes, such as a likelihood by integration
    remarks: list[str] = field(default_factory=list)
    images: dict[str, Any] = field(default_factory=dict)
    _backbones: dict[str, Backbone] = field(default_factory=dict)
    _features: dict[tuple[str, str], Features] = field(default_factory=dict)

    def backbone(self, name: str) -> Backbone:
        """A backbone, opened once."""
        if name not in self._backbones:
            self._backbones[name] = backbone(name, self.resize, self.precision, self.device, self.progress)
        return self._backbones[name]

    def features_of(self, which: str, name: str) -> Features:
        """Features of the images in this attribute of the sets; those of real images are cached on disk."""
        split: Split = getattr(self.sets, which)
        aliases = ("reference", "train", "held_out", which)  # two attributes may be the same split
        which = next(alias for alias in aliases if getattr(self.sets, alias) is split)
        if which == "reference" and (file := self.sets.file) and file.features:
            file.check_weights(self.backbone(name))
            return file.features
        if (which, name) not in self._features:
            what = f"{name}: {which.replace('_', '-')} images"
            images, keep, ground = images_of(split)[0], which != "fake", self.sets.background
            self._features[which, name] = features(images, self.backbone(name), keep, self.progress, what, ground)
        return self._features[which, name]

    def reference_moments(self, name: str) -> Moments | Gaussian:
        """Mean and covariance of the reference's features, or those in its file."""
        file = self.sets.file
        if file is None or file.gaussian is None:
            return self.features_of("reference", name).moments
        file.check_weights(self.backbone(name))
        return file.gaussian

    def subsample(self, which: str, name: str, most: int = PAIRS, copies: bool = True) -> Tensor:
        """Features (n, D) of at most ``most`` images, chosen at random; without ``copies`` an image counts once."""
        values = self.features_of(which, name)
        rows = torch.arange(len(values))
        if not copies:
            images = getattr(self.sets, which)["x"]
            keys = hash_rows(images if len(images) else values[:].numpy())  # of a file of features
            rows = rows[np.sort(np.unique(keys, return_index=True)[1])]
        return values[rows[shuffled(len(rows), self.seed)[:most].sort().values]]

    def stand_in(self, name: str, n: int) -> tuple[Tensor, Features, Tensor | None, str]:
        """Real images in place of ``n`` generated ones.

        Returns:
            their features, the reference, its remaining rows (None: all), and a description for the passport.
        """
        reference, held_out = self.features_of("reference", name), self.sets.held_out
        half = min(n, len(reference) // 2)
        if self.sets.disjoint and len(held_out) >= half:
            rows = shuffled(len(held_out), self.seed)[: min(n, len(held_out))].sort().values
            origin = f"{len(rows)} held-out images{'' if len(rows) == n else f' (fewer than {n})'}"
            return self.features_of("held_out", name)[rows], reference, None, origin
        order = shuffled(len(reference), self.seed)
        rows, rest = order[:half].sort().values, order[half:].sort().values
        origin = f"{half} images of the reference{'' if half == n else f' (fewer than {n})'} against the others"
        return reference[rows], reference, rest, origin

    def score(
        self,
        metric: str,
        estimate: Estimate,
        floor: float | None,
        better: str,
        backbone: str | None = None,
        /,
        **entries: Any,
    ) -> Score:
        """A score with its passport; ``entries`` are added to the passport."""
        passport: dict[str, Any] = {
            "metric": metric,
            "better": better,
            "fake": self.sets.of_fake,
            "reference": self.sets.of_reference,
            "backbone": self.backbone(backbone).passport if backbone else None,
            "interval": "95 %, over resampling of the generated images",
            "floor": None,
            "seed": self.seed,
            "reverie": reverie.__version__,
            "torch": torch.__version__,
        }
        if backbone and self.sets.reference.spec.medium != "image":
            passport["images"] = images_of(self.sets.reference)[1]
        if backbone and is_rgba(self.sets.reference["x"]):
            ground = self.sets.background
            passport["images"] = f"RGBA on {'white' if tuple(ground) == WHITE else f'background {list(ground)}'}"
        passport |= entries
        low, high = (None if np.isnan(end) else float(end) for end in (estimate.low, estimate.high))
        return Score(metric, float(estimate.value), low, high, None if floor is None else float(floor), passport)

    def of_class(self, label: int) -> Evaluation:
        """The same evaluation of the images of one class; reuses the features computed so far."""
        sets = self.sets
        rows = {name: np.flatnonzero(getattr(sets, name).labels == label) for name in ("fake", "reference", "held_out")}
        parts: dict[str, Any] = {name: getattr(sets, name).take(index) for name, index in rows.items()}
        entry = {"class": sets.classes[label]}
        inner = replace(
            sets,
            **parts,
            train=parts["reference"],
            learned=None,
            truth=None,
            of_fake=sets.of_fake | entry | {"n": len(rows["fake"])},
            of_reference=sets.of_reference | entry | {"n": len(rows["reference"])},
        )
        kept = {
            (name, backbone): Features([values[torch.from_numpy(rows[name])].numpy()])
            for (name, backbone), values in self._features.items()
            if name in rows and len(rows[name])
        }
        return replace(self, sets=inner, _features=kept)


def images_of(split: Split) -> tuple[np.ndarray, str]:
    """uint8 (N, H, W, C), one image per sample, and what they show: "images", or "central slices" of volumes.

    Raises:
        Refused: samples of this medium have no single image.
    """
    images = medium_of(split.spec).as_images(split["x"], split.spec)
    if images is None or len(images[0]) != len(split):
        raise Refused(
            f"Backbones need images, and a {split.spec.medium} has no single image.",
            "Use nll or reconstruction, where the model has them.",
        )
    return images
